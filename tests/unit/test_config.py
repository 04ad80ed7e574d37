"""The schema and its YAML files: everything composes, and every mistake is one line that names key and choices."""

from __future__ import annotations

import importlib

import hydra
import pytest
import yaml

from acceerl.config import Config, from_dict, to_dict
from acceerl.launch.compose import compose, configs_folder, groups, multirun, override

CHOICES = [f"{group}={choice}" for group, choices in groups().items() for choice in choices]


@pytest.mark.parametrize("choice", CHOICES)
def test_every_yaml_composes_and_validates(choice):
    config = compose("train", [choice])
    assert from_dict(yaml.safe_load(yaml.safe_dump(to_dict(config)))) == config


@pytest.mark.parametrize("choice", [c for c in CHOICES if c.startswith(("env=", "policy="))])
def test_every_plugin_target_is_there(choice):
    plugin = getattr(compose("train", [choice]), choice.partition("=")[0])
    module, _, name = plugin["_target_"].rpartition(".")
    path = configs_folder().parent / module.replace(".", "/")
    source = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
    assert name in source.read_text(), "found in the source, since some simulators are optional"


def test_defaults_of_the_yaml_are_those_of_the_schema():
    plain = to_dict(compose("train", []))
    for group in ("learner", "replay", "inference", "rollout", "evaluator", "deadlines", "supervisor"):
        assert plain[group] == to_dict(Config())[group]


def test_suite_follows_the_env_until_it_is_named():
    assert compose("train", ["env=libero"]).env["suite"] == "libero_spatial"
    named = compose("train", ["env=libero", "suite=libero_goal"])
    assert (named.suite, named.env["suite"]) == ("libero_goal", "libero_goal")


def test_an_experiment_is_overridden_by_the_command_line():
    config = compose("train", ["experiment=tabletop_spatial", "algo=ppo", "learner.lr=1"])
    assert (config.algo.loss, config.learner.lr) == ("ppo", 1.0)


def test_a_plugin_takes_new_arguments():
    assert compose("train", ["+env.step_limit=5"]).env["step_limit"] == 5
    third_party = compose("train", ["policy._target_=their.module.Class"])
    assert third_party.policy["_target_"] == "their.module.Class"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("learner.lrr=1", "unknown configuration key learner.lrr: did you mean learner.lr?"),
        ("lerner.lr=1", "unknown configuration key lerner.lr: did you mean learner?"),
        ("+foo=1", "unknown configuration key foo: choose from algo, channels"),
        ("env=foo", "env=foo is not known: choose from gymnasium, latency, libero, libero_openvla, skeleton, tabletop"),
        ("experiment=foo", "experiment=foo is not known: choose from "),
        ("env.foo=1", "unknown configuration key env.foo (to pass a new argument to the plug-in: +env.foo=...)"),
        ("schedule=never", "schedule=never is not known: choose from async, sync, sync_update"),
        ("learner.lr=abc", "learner.lr must be a number, got 'abc'"),
        ("learner.batch=0", "learner.batch must be at least 1, got 0"),
        ("learner.lr=0", "learner.lr must be above 0"),
        ("learner.lr=nan", "learner.lr must be a finite number, got nan"),
        ("learner.lr=1e400", "learner.lr must be a finite number, got inf"),
        ("learner.ranks=0", "learner.ranks must be at least 1, got 0"),
        ("learner=3", "learner must be a group of keys"),
        ("site.partition=gpu", "site.partition: did you mean site.cpu.partition or site.gpu.partition?"),
        ("site.gpu.flags=[--exclude=gpu2]", """quotes: 'site.gpu.flags=["--exclude=gpu2"]'"""),
        ("site=mine", "or name the folder that holds site/mine.yaml: 'hydra.searchpath=[file://FOLDER]'"),
        ("hydra.searchpath=[file:///no/where]", "hydra.searchpath: /no/where is no folder"),
        ("learner.lr", "Error parsing override 'learner.lr'"),
        ("start=${nope}", "Interpolation key 'nope' not found"),
        ("schedule=async,sync", "--multirun"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(text, expected):
    with pytest.raises(ValueError) as caught:
        compose("train", [text])
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["channels=inline", "learner.ranks=2"], "channels=inline has one process: set learner.ranks=1"),
        (
            ["schedule=sync", "inference.instances=2"],
            "schedule=sync takes turns with one inference: set inference.inst",
        ),
        (
            ["schedule=sync_update", "inference.instances=2"],
            "schedule=sync_update takes turns .* set inference.instances=1",
        ),
        (["channels=inline", "inference.instances=2"], "set inference.instances=1, or channels=mpi"),
        (["learner.ranks=2", "deadlines.collective=90"], "deadlines.collective=90 must be below deadlines.watchdog=90"),
        (["collect.misses=0.5"], "collect.misses=0.5 leads blindfolded hands aside: set collect.blind, too"),
    ],
)
def test_keys_that_do_not_go_together_are_named(texts, expected):
    with pytest.raises(ValueError, match=expected):
        compose("train", texts)


def test_a_resumed_run_takes_numbers_but_stays_itself():
    config = compose("train", ["experiment=tabletop_spatial"])
    assert override(config, ["learner.max_updates=5"]).learner.max_updates == 5
    for text in ("env=libero", "suite=goal", "env.image_size=32", "algo=ppo", "name=other"):
        with pytest.raises(ValueError, match="a resumed run keeps its"):
            override(config, [text])
    with pytest.raises(ValueError, match=r"did you mean learner\.lr"):
        override(config, ["learner.lrr=5"])
    with pytest.raises(ValueError, match="plain KEY=VALUE"):
        override(config, ["learner.lr=1,2"])
    with pytest.raises(ValueError, match="texts with signs need quotes"):
        override(config, ["site.cpu.flags=[--exclude=cpu2]"])


def test_a_resumed_run_may_be_given_again_what_it_was_made_with(tmp_path):
    """The alias of slurm/README.md begins a run and continues it; what it was begun with beside that stays."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "mine.yaml").write_text("# @package _global_\nsite:\n  account: robots\n")
    alias = [f"hydra.searchpath=[file://{tmp_path}]", "site=mine", "experiment=tabletop_spatial", "launch=slurm"]
    made = compose("train", [*alias, "placement=cluster", "rollout.processes=32"])
    assert made.choices["site"] == "mine"
    read_back = from_dict(yaml.safe_load(yaml.safe_dump(to_dict(made))))
    assert override(read_back, [*alias, "runs=runs", "env.image_size=64"]) == made
    for text in ("site=default", "experiment=tabletop_first", "placement=one_node", "choices={}"):
        with pytest.raises(ValueError, match=r"a resumed run keeps its .*leave it out \(acceerl train resume=RUN"):
            override(read_back, [*alias, text])


def test_a_sweep_notes_its_choices_too(tmp_path):
    seen = []
    assert multirun(["algo=gipo,ppo", f"runs={tmp_path}"], lambda c: seen.append(c.choices["algo"]) or 0) == 0
    assert seen == ["gipo", "ppo"]


def test_a_sweep_visits_every_combination_under_names_of_their_own(tmp_path):
    seen = []
    sweep = ["learner.lr=0.1,0.2", "seed=1,2", "name=x", f"runs={tmp_path}"]
    assert multirun(sweep, lambda c: seen.append((c.name, c.learner.lr, c.seed)) or 0) == 0
    assert seen == [("x-0", 0.1, 1), ("x-1", 0.1, 2), ("x-2", 0.2, 1), ("x-3", 0.2, 2)]


def test_a_sweep_ends_with_the_code_of_the_point_that_stopped(tmp_path):
    with pytest.raises(SystemExit) as caught:
        multirun(["seed=1,2", f"runs={tmp_path}"], lambda c: 75)
    assert caught.value.code == 75


def test_a_mistake_in_a_sweep_is_one_line_too(tmp_path):
    with pytest.raises(ValueError, match=r"unknown configuration key learner\.lrr: did you mean"):
        multirun(["learner.lrr=1,2", f"runs={tmp_path}"], lambda c: 0)


def test_a_sweep_whose_runs_cannot_be_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"runs=.*file: no run can be written there \(it is a file\)"):
        multirun(["seed=1,2", f"runs={tmp_path}/file"], lambda c: 0)


@pytest.mark.parametrize("module", ["config", "config_reading", "config_checks"])
def test_the_whole_schema_needs_no_hydra(module):
    source = importlib.import_module(f"acceerl.{module}").__file__
    assert source is not None
    with open(source) as file:
        assert "import hydra" not in file.read()


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["channels=inline"], "rollout.processes=0 leaves the rollouts to `acceerl join`, which needs channels=mpi"),
        (["schedule=sync"], "rollout.processes=0: schedule=sync waits for rollouts of its own"),
        (["launch=slurm"], "leaves the CPU nodes of placement=cluster empty: use placement=one_node"),
    ],
)
def test_rollouts_may_all_be_guests_where_that_can_work(overrides, says):
    assert compose("train", ["rollout.processes=0"]).rollout.processes == 0
    with pytest.raises(ValueError, match=says):
        compose("train", ["rollout.processes=0", *overrides])


def test_the_array_of_jobs_takes_the_sites_names():
    compose("train", [])  # registers the schema
    with hydra.initialize_config_dir(str(configs_folder()), version_base="1.3"):
        whole = hydra.compose("config", ["hydra/launcher=array", "site=example"], return_hydra_config=True)
    launcher = whole.hydra.launcher
    assert (launcher.partition, launcher.account, launcher.qos) == ("cpu", "robots", None)
    assert launcher.setup[0] == "module purge"
    assert launcher._target_ == "hydra_plugins.acceerl_slurm.launcher.ArrayLauncher"
    assert "hydra" not in groups()
