"""`acceerl data` as users meet it: verbs, mistakes in one line, exit codes, files that are written."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from PIL import Image

from acceerl.jobs.data import recipes
from acceerl.launch import data_array
from acceerl.launch.cli import main
from acceerl.launch.data import VERBS
from acceerl.stores.reader import open_trajectories
from acceerl.stores.writer import TrajectoryWriter
from tests.unit.stores.examples import episode, libero_file


@pytest.fixture
def folder(tmp_path):
    with TrajectoryWriter(tmp_path / "in", {}, {}, "w0") as out:
        for i in range(4):
            one = episode(5, task=i % 2, seed=i, success=i > 0)
            one.actions /= 10
            out.write(one)
    return tmp_path / "in"


def test_help_explains_every_verb_and_its_options(capsys):
    assert main(["data", "--help"]) == 0
    overview = capsys.readouterr().out
    for name, verb in VERBS.items():
        assert name in overview
        assert main(["data", name, "--help"]) == 0
        assert verb.help in capsys.readouterr().out
    main(["data", "import", "--help"])
    out = capsys.readouterr().out
    assert "on_error=stop" in out and "workers=1" in out and "launch=local" in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["data"], "give verb as one of import, inspect"),
        (["data", "look"], "look: give verb as one of import, inspect"),
        (["data", "inspect"], "acceerl data inspect: give PATH, one or more"),
        (["data", "inspect", "/nowhere"], "/nowhere: no such file or folder"),
        (["data", "import", "FOLDER"], "acceerl data import: say where to write: to=PATH"),
        (["data", "import", "FOLDER", "to=x", "on_eror=skip"], "option on_eror of data import: did you mean on_error?"),
        (["data", "import", "FOLDER", "to=x", "on_error=go"], "on_error cannot be 'go': choose from stop, skip"),
        (["data", "import", "FOLDER", "to=x", "workers=0"], "import's workers must be at least 1, got 0"),
        (["data", "import", "FOLDER", "to=x", "recipe=mine"], "recipe mine is not known: choose from libero_10"),
        (["data", "merge", "FOLDER", "FOLDER", "to=x"], "in is given twice, by FOLDER and by FOLDER: its"),
        (["data", "view", "FOLDER", "to=x.gif"], "to=x.gif: give a file that ends in .png"),
        (["data", "view", "FOLDER", "to=x.png", "episodes=9"], "episodes=9: there are 0 to 3"),
        (["data", "convert", "FOLDER", "to=x", "render=moon"], "env=moon is not known"),
        (["data", "inspect", "FOLDER", "fast=1"], "unknown option fast of data inspect: choose from nothing"),
    ],
)  # fmt: skip
def test_mistakes_end_in_one_line(folder, capsys, monkeypatch, tmp_path, words, expected):
    monkeypatch.chdir(tmp_path)
    assert main([str(folder) if word == "FOLDER" else word for word in words]) == 2
    said = capsys.readouterr().err
    assert expected.replace("FOLDER", str(folder)) in said and len(said.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_inspect_shows_counts_and_shapes(folder, capsys):
    assert main(["data", "inspect", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "1 file, 4 episodes (4 by policy), 20 steps" in out
    assert "acceerl layout; front 8x8x3, wrist 8x8x3, proprio 4, actions 7; an observation every 1 step" in out
    assert "       2   50.0 %  task number 0" in out


def test_validate_and_verify_end_with_1_when_something_is_wrong(folder, capsys):
    assert main(["data", "validate", str(folder)]) == main(["data", "verify", str(folder)]) == 0
    shard = next(folder.glob("*.hdf5"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    assert main(["data", "verify", str(folder)]) == 1
    out = capsys.readouterr().out
    assert f"{shard}: sha256: differs from the manifest" in out and out.endswith(f"{folder}: 1 problem\n")


@pytest.mark.parametrize("verb", ["convert", "merge", "stats"])
def test_a_file_is_read_once_whichever_way_it_is_named(folder, tmp_path, capsys, verb):
    shard = next(folder.glob("*.hdf5"))
    (tmp_path / "link").symlink_to(folder)
    for other in (shard, tmp_path / "link"):
        words = [f"to={tmp_path / 'out'}"] if VERBS[verb].makes else []
        assert main(["data", verb, str(folder), str(other), *words]) == 2
        said = capsys.readouterr().err
        assert f"is given twice, by {folder} and by {other}: its episodes would count double" in said
    assert not (tmp_path / "out").exists()


def test_stats_name_a_number_that_is_none(folder, tmp_path, capsys):
    shard = next(folder.glob("*.hdf5"))
    with h5py.File(shard, "r+") as file:
        file["data/demo_2/obs/proprio"][1, 2] = np.nan
    assert main(["data", "stats", str(folder), f"json={tmp_path}/s.json"]) == 2
    said = capsys.readouterr()
    assert f"{shard}: demo_2 obs/proprio: holds NaN or infinity" in said.err and not said.out
    assert not (tmp_path / "s.json").exists()


def test_import_then_validate_against_the_recipe(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    libero_file(tmp_path / "in" / "open_the_drawer_demo.hdf5", demos=3)
    recipe = tmp_path / "r.yaml"
    recipe.write_text("about: x\ntasks: [open the drawer]\ncameras: [agentview, wrist]\nimage_size: 8\n"
                      "expect: {episodes: 3, episodes_per_task: 3}\n")  # fmt: skip
    words = ["data", "import", str(tmp_path / "in"), f"to={tmp_path / 'out'}", f"recipe={recipe}", "limit=0"]
    assert main(words) == 0
    assert f"{tmp_path / 'out'}: 3 episodes, 12 steps, 1 shard" in capsys.readouterr().out
    checked = ["data", "validate", str(tmp_path / "out"), f"recipe={recipe}", "limit=0"]
    assert main(checked) == 0
    recipe.write_text(
        recipe.read_text().replace("episodes: 3", "episodes: 4").replace("image_size: 8", "image_size: 9")
    )
    assert main(checked) == 1
    out = capsys.readouterr().out
    assert "episodes: 3, expected 4" in out and "demo_0 obs/agentview: 8 pixels high, expected 9" in out


def test_stats_print_and_write_numbers_and_plots(folder, tmp_path, capsys):
    assert main(["data", "stats", str(folder), f"json={tmp_path}/s.json", f"plot={tmp_path}/s.png"]) == 0
    assert "4 episodes, 20 steps (5 to 5 an episode, 5.0 on average), 75.0 % successful" in capsys.readouterr().out
    numbers = json.loads((tmp_path / "s.json").read_text())
    rows = np.tile(np.arange(5) / 10, 4)
    assert numbers["actions"]["mean"] == pytest.approx([0.2] * 7)
    assert numbers["actions"]["q99"] == pytest.approx([np.percentile(rows, 99)] * 7)
    assert numbers["actions"]["std"] == pytest.approx([rows.std()] * 7)
    assert numbers["instructions"]["task number 0"] == {"episodes": 2, "successes": 1}
    assert Image.open(tmp_path / "s.png").size[0] > 500
    seen = np.mean([open_trajectories(folder)[0].images["front"] / 255.0])
    assert numbers["images"]["front"]["mean"] == pytest.approx([seen] * 3)


def test_view_writes_a_sheet_and_a_film(folder, tmp_path, capsys):
    assert main(["data", "view", str(folder), f"to={tmp_path}/a.png", "episodes=0,3", "frames=3"]) == 0
    assert Image.open(tmp_path / "a.png").size == (3 * 130 + 12, 4 * 128 + 2 * 18 + 5 * 6)
    assert main(["data", "view", str(folder), f"to={tmp_path}/a.mp4", "count=1"]) == 0
    assert (tmp_path / "a.mp4").stat().st_size > 500
    assert "episodes 0 of 4" in capsys.readouterr().out


def test_validate_asks_the_simulator_at_the_size_of_the_images(tmp_path, capsys):
    collect = ["collect", "env=tabletop", "env.image_size=32", "collect.episodes=1", f"collect.to={tmp_path / 'in'}"]
    assert main([*collect, f"runs={tmp_path}"]) == 0
    checked = ["data", "validate", str(tmp_path / "in"), "render=tabletop"]
    assert main(checked) == 0
    assert main([*checked, "suite=object"]) == 1
    assert "name the env and suite that recorded it" in capsys.readouterr().out
    with h5py.File(next((tmp_path / "in").glob("*.hdf5")), "r+") as file:
        file["data/demo_0"].attrs["task"] = 3
    assert main(checked) == 1
    assert "demo_0 @task: is 3, but 'pick up the bowl on the red mat" in capsys.readouterr().out


def test_an_array_of_jobs_does_the_whole_import(tmp_path, monkeypatch, capsys):
    libero_file(tmp_path / "a_demo.hdf5", demos=4)
    queued = []

    class Ended:
        def __init__(self, number: int, code: int) -> None:
            self.job_id, self.code = f"7_{number}", code

        def done(self) -> bool:
            return True

    def submit_array(folder, function, arguments, settings, setup, name):
        queued.append((settings, name))
        return [Ended(i, function(words)) for i, words in enumerate(arguments)]

    monkeypatch.setattr(data_array.submission, "submit_array", submit_array)
    monkeypatch.setattr(data_array.submission, "code_of", lambda job: job.code)
    words = [
        "data",
        "import",
        str(tmp_path / "a_demo.hdf5"),
        f"to={tmp_path / 'out'}",
        "limit=0",
        "episodes_per_shard=1",
    ]
    assert main([*words, "launch=slurm", "jobs=3", "minutes=9", "site=devcluster"]) == 0
    assert len(open_trajectories(tmp_path / "out")) == 4
    assert queued[0][0]["time"] == 9 and queued[0][0]["partition"] == "cpu" and queued[0][1] == "acceerl-data-import"
    assert "job 7: an array of 3" in capsys.readouterr().out


def test_every_recipe_reads(tmp_path):
    for name in recipes.names():
        recipe = recipes.load(name)
        assert len(recipe.tasks) == 10 and len(set(recipe.tasks)) == 10
        each = recipe.expect["episodes_per_task"]
        assert recipe.expect["episodes"] == 10 * each
    for text, words in (("[]", "a recipe is a group of keys"), ("about: x", "tasks is missing"),
                        ("{about: x, tasks: [], size: 3}", "unknown key size")):  # fmt: skip
        (tmp_path / "r.yaml").write_text(text)
        with pytest.raises(ValueError, match=words):
            recipes.load(str(tmp_path / "r.yaml"))


def test_the_recipes_name_the_tasks_of_their_environments():
    from acceerl.envs.tabletop.tasks import SUITES

    assert recipes.load("tabletop_1k").tasks == tuple(task.instruction for task in SUITES["spatial"].tasks)


@pytest.mark.libero
def test_the_recipes_name_the_tasks_of_libero():
    from acceerl.envs.libero import LiberoEnv

    for suite in ("libero_spatial", "libero_object", "libero_goal", "libero_10"):
        assert recipes.load(suite).tasks == LiberoEnv(suite, cameras=()).spec.instructions
