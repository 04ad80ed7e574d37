"""The command line as users meet it: help, dry runs, and one line for every mistake."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from acceerl.config import from_dict
from acceerl.launch import cli
from acceerl.launch import train as train_flow
from acceerl.launch.cli import main
from acceerl.launch.commands import COMMANDS
from acceerl.runtime.rundir import Run
from tests.unit.launch.fake_slurm import FakeSlurm


def test_help_names_every_command_and_each_explains_itself(capsys):
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f"  {name}" in overview
        assert main([name, "--help"]) == 0
        assert command.example in capsys.readouterr().out


def test_help_tells_every_exit_code_and_the_options_of_a_command(capsys):
    main(["--help"])
    out = capsys.readouterr().out
    for code in ("0 done", "75 asked to stop", "2 wrong input", "130 interrupted", "1 crash"):
        assert code in out
    main(["watch", "--help"])
    out = capsys.readouterr().out
    assert "usage: acceerl watch RUN [KEY=VALUE ...]" in out
    assert "every=2      seconds between two looks" in out
    main(["ps", "--help"])
    assert "usage: acceerl ps [RUNS] [KEY=VALUE ...]" in capsys.readouterr().out


def test_a_reader_that_has_seen_enough_is_no_crash():
    """As `acceerl --help | head -1` is: the pipe's other end is closed before anything is printed."""
    reader, writer = os.pipe()
    os.close(reader)
    run = subprocess.run(
        [sys.executable, "-m", "acceerl", "--help"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert (run.returncode, run.stderr) == (141, "")


def test_a_gpu_that_is_full_is_one_line(monkeypatch, capsys):
    def full(parsed):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setitem(COMMANDS, "evaluate", replace(COMMANDS["evaluate"], handler=full))
    assert main(["evaluate"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("acceerl: error: CUDA out of memory: lower pretrain.batch")
    assert said.count("\n") == 1


def test_what_the_system_refuses_names_the_path_first(monkeypatch, capsys, tmp_path):
    def refused(parsed):
        (tmp_path / "nowhere" / "film.mp4").write_bytes(b"")

    monkeypatch.setitem(COMMANDS, "evaluate", replace(COMMANDS["evaluate"], handler=refused))
    assert main(["evaluate"]) == 2
    assert capsys.readouterr().err == f"acceerl: error: {tmp_path}/nowhere/film.mp4: no such file or directory\n"


def test_train_help_lists_groups_and_keys_with_defaults(capsys):
    main(["train", "-h"])
    out = capsys.readouterr().out
    assert "  algo         gipo, ppo" in out
    assert "  learner.lr=0.0001" in out
    assert "collect.episodes" not in out


def test_help_promises_nothing_that_a_command_does_not_do(capsys):
    for name in ("evaluate", "collect", "pretrain"):
        main([name, "--help"])
        out = capsys.readouterr().out
        for key in ("json=", "schedule=", "channels=", "launch=", "tracker=", "channels=world"):
            assert key not in out, (name, key)


def test_a_dry_run_prints_placement_and_links_and_makes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "rollout.processes=3", "--dry-run", "seed=1"]) == 0
    out = capsys.readouterr().out
    assert "rollout        3       1  cpu" in out
    assert "policy_weights  learner -> inference" in out
    assert not list(tmp_path.iterdir())


def test_a_dry_run_of_a_cluster_prints_script_and_steps_and_asks_no_slurm(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["train", "launch=slurm", "site=devcluster", "name=a", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "not checked: no Slurm on this machine (sinfo is not in PATH)"
    assert "placement cluster: 1 x gpu (3 CPUs, 9000 MB, 1 GPU), 1 x cpu (2 CPUs, 4000 MB)" in out
    assert "#SBATCH hetjob" in out and "srun --het-group=1 --exact" in out
    assert f"exec {sys.executable} -u -m acceerl.launch.submission {tmp_path}/runs/a/slurm" in out
    assert not list(tmp_path.iterdir())


def test_a_dry_run_on_a_cluster_ends_with_what_submission_would_refuse(capsys, tmp_path, monkeypatch):
    fake = FakeSlurm(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    words = ["train", "launch=slurm", "site=devcluster", "learner.device=cuda", "--dry-run"]
    fake.says(sinfo="g1|gpu|8|16000|gpu:1|idle|a\nc1|cpu|8|16000|(null)|idle|a", scontrol="PartitionName=gpu")
    assert main([*words, "placement.cpu_nodes=1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("checked: this cluster has such nodes")
    assert main([*words, "placement.cpu_nodes=2"]) == 2
    said = capsys.readouterr()
    assert "#SBATCH hetjob" in said.out and "checked" not in said.out
    assert "placement row rollout: needs 2 nodes" in said.err and said.err.count("\n") == 1
    fake.says(sinfo=("no contact", 1))
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("not checked: Slurm does not answer")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["trian"],
            "unknown command trian: choose from train, evaluate, collect, pretrain, data, bench, report, export",
        ),
        (["train", "fast"], "fast is no override: write KEY=VALUE"),
        (["train", "--fast"], "unrecognized arguments: --fast"),
        (
            ["train", "env=foo"],
            "env=foo is not known: choose from gymnasium, latency, libero, libero_openvla, skeleton, tabletop",
        ),
        (["train", "resume=/nowhere"], "/nowhere is no run directory: it has no config.yaml"),
        (["train", "resume="], "resume= names no run: give its directory"),
        (["train", "-m", "resume=x"], "resume= continues one run: leave -m out"),
        (["evaluate", "-m", "resume=x"], "acceerl evaluate -m takes neither resume= nor --dry-run"),
        (["collect", "-m", "hydra/launcher=acceerl_slurm"], "is train's: use hydra/launcher=array"),
        (["join"], "acceerl join: give RUN (see acceerl join --help)"),
        (["join", "/nowhere"], "/nowhere is no run directory"),
        (["pretrain"], "give what as one of policy"),
        (["pretrain", "other"], "other: give what as one of policy"),
        (["data", "inspect"], "acceerl data inspect: give PATH"),
        (["data", "inspect", "/nowhere.hdf5"], "/nowhere.hdf5: no such file or folder"),
        (["bench"], "give name as one of links, train, env, weights, imagine, policy, store"),
        (["bench", "speed"], "speed: give name as one of links, train, env, weights, imagine, policy, store"),
        (["bench", "links", "second=1"], "unknown option second of bench links: did you mean seconds?"),
        (["bench", "links", "seconds=long"], "links's seconds must be a number, got 'long'"),
        (["bench", "links", "clients=0"], "links's clients must be at least 1, got 0"),
        (["bench", "links", "json=/nowhere/x.json"], "json=/nowhere/x.json: give a file in a folder that exists"),
        (["doctor", "json=/nowhere/x.json"], "json=/nowhere/x.json: give a file in a folder that exists"),
        (["evaluate", "json=x.json"], "acceerl evaluate writes no json=: leave it out"),
        (["bench", "links", "clients=1", "clients=2"], "clients is given twice: keep one clients="),
        (["bench", "links", "json=a.json", "json=b.json"], "json is given twice: keep one json="),
        (["doctor", "runs=a", "runs=b"], "runs is given twice: keep one runs="),
        (["report", "/nowhere"], "/nowhere is no run directory"),
        (["watch"], "acceerl watch: give RUN (see acceerl watch --help)"),
        (["watch", "/nowhere"], "/nowhere is no run directory"),
        (["ps", "a", "b"], "acceerl ps takes no further words, got b (its keys: runs)"),
        (["ps", "/nowhere"], "/nowhere is no folder"),
        (["stop", "/nowhere"], "/nowhere is no run directory"),
        (["doctor", "now"], "now is no override: write KEY=VALUE (see acceerl doctor --help)"),
        (["doctor", "seed=1"], "acceerl doctor takes no further words, got seed=1 (its keys: runs, json, site.*; "),
        (["report", "a", "b"], "acceerl report takes no further words, got b"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, expected, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("acceerl: error: ")
    assert expected in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_crash_shows_its_traceback_and_ends_with_1(monkeypatch, capsys):
    def broken(*_: object) -> int:
        raise RuntimeError("out of ideas")

    monkeypatch.setattr(train_flow, "train", broken)
    assert main(["train"]) == cli.CRASH
    assert "RuntimeError: out of ideas" in capsys.readouterr().err


def test_a_sweep_gives_every_point_a_run_of_its_own(monkeypatch, tmp_path):
    names = []
    monkeypatch.setattr(train_flow, "train", lambda config, resumed=None: names.append((config.name, config.seed)) or 0)
    assert main(["train", "-m", "seed=1,2", "name=x", f"runs={tmp_path}"]) == 0
    assert names == [("x-0", 1), ("x-1", 2)]


def test_a_broken_file_is_found_by_validate(tmp_path, capsys):
    (tmp_path / "a.hdf5").write_bytes(b"no HDF5")
    assert main(["data", "validate", str(tmp_path)]) == 1
    assert "a.hdf5: " in capsys.readouterr().out


def test_a_report_is_written_for_any_run(tmp_path, capsys):
    run = Run.create(from_dict({"runs": str(tmp_path), "name": "blue"}))
    assert main(["report", str(run.path)]) == 0
    assert capsys.readouterr().out.strip() == str(run.report)
    assert run.report.is_file()
