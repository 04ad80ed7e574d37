"""Imports are whole or absent: what comes out, what a broken demo does, kills, shares, full disks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from acceerl.jobs.data import importing, pieces
from acceerl.jobs.data.options import Import
from acceerl.stores.reader import open_trajectories
from acceerl.stores.validate import validate, verify
from tests.unit.stores.examples import equal, libero_file
from tests.unit.stores.others import lerobot_folder, regenerated_file, robomimic_file

ROOT = Path(__file__).parents[4]


def chosen(to: Path, **options: object) -> Import:
    return Import(to=str(to), **{"limit": 0.0, **options})


def broken(path: Path) -> Path:
    """Of four demos the second holds NaN."""
    libero_file(path, demos=4)
    with h5py.File(path, "r+") as file:
        file["data/demo_1/actions"][2, 3] = np.nan
    return path


MAKERS = {"libero": libero_file, "regenerated": regenerated_file, "robomimic": robomimic_file}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_what_is_imported_reads_as_the_original_did(tmp_path, make):
    source = make(tmp_path / "in" / "open_it_demo.hdf5") if (tmp_path / "in").mkdir() is None else None
    _, done = importing.run([tmp_path / "in"], chosen(tmp_path / "out"))
    assert done
    ours, theirs = open_trajectories(tmp_path / "out"), open_trajectories(source)
    assert len(ours) == len(theirs) == 2
    assert ours.entries[0].layout.ours
    assert all(equal(ours[i], theirs[i]) for i in range(2))
    assert sorted(ours[0].images) == ["agentview", "wrist"]
    assert validate(tmp_path / "out") == [] and verify(tmp_path / "out") == []


@pytest.mark.needs("pyarrow")
@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_lerobot_is_imported(tmp_path, version):
    lerobot_folder(tmp_path / "in", version)
    importing.run([tmp_path / "in"], chosen(tmp_path / "out"))
    ours = open_trajectories(tmp_path / "out")
    assert [(e.instruction, e.task, e.steps) for e in ours.entries] == [
        ("task number 0", 0, 4),
        ("task number 1", 1, 4),
    ]
    one = ours[1]
    assert one.images["image"][:, 1, 0, 0].tolist() == one.actions[:, 0].tolist() == one.proprio[:, 0].tolist()
    assert one.final_images["image"][1, 0, 0] == 4 and (one.final_images["image"][0] == 255).all()
    assert (one.rewards[-1], one.success) == (1, True)


@pytest.mark.needs("pyarrow")
@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_the_films_of_lerobot_are_cut_into_frames(tmp_path, version):
    lerobot_folder(tmp_path / "in", version, video=True)
    importing.run([tmp_path / "in"], chosen(tmp_path / "out"))
    ours = open_trajectories(tmp_path / "out")
    for i in range(2):
        seen = ours.frames(i, "image", 0, 5).mean(axis=(1, 2, 3))
        assert np.abs(seen - (16 * np.arange(5) + 8 * i)).max() < 3  # films are lossy


def test_a_broken_demo_stops_the_import_and_leaves_no_data_set(tmp_path):
    path = broken(tmp_path / "a_demo.hdf5")
    with pytest.raises(ValueError, match=r"a_demo.hdf5: demo_1 actions: holds NaN or infinity \(on_error=skip"):
        importing.run([path], chosen(tmp_path / "out"))
    assert [left.name for left in tmp_path.glob("out*")] == []


def test_a_second_try_may_leave_broken_demos_out(tmp_path):
    path = broken(tmp_path / "a_demo.hdf5")
    with pytest.raises(ValueError, match="on_error=skip leaves such demos out"):
        importing.run([path], chosen(tmp_path / "out", episodes_per_shard=1))
    first = next((tmp_path / "out.partial").glob("*.hdf5"))  # complete, hence kept
    made = first.stat().st_mtime_ns
    with pytest.raises(ValueError, match="a shard in progress"):
        open_trajectories(tmp_path / "out.partial")
    assert importing.run([path], chosen(tmp_path / "out", episodes_per_shard=1, on_error="skip"))[1]
    assert (tmp_path / "out" / first.name).stat().st_mtime_ns == made
    assert len(open_trajectories(tmp_path / "out")) == 3
    with pytest.raises(ValueError, match=r"demo_1 actions.*on_error=skip left it out of .*out: give that again"):
        importing.run([path], chosen(tmp_path / "out", episodes_per_shard=1))


def test_what_one_job_of_several_refuses_is_left_to_the_others(tmp_path):
    path = broken(tmp_path / "a_demo.hdf5")
    with pytest.raises(ValueError, match="demo_1 actions"):
        importing.run([path], chosen(tmp_path / "out", episodes_per_shard=1, share="2/4"))
    assert (tmp_path / "out.partial" / "dataset.json").exists()


def test_an_import_of_which_nothing_is_whole_leaves_nothing(tmp_path):
    path = broken(tmp_path / "a_demo.hdf5")
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            demo["actions"][1] = np.inf
    with pytest.raises(
        ValueError, match=r"every demo is broken \(4 faults\), the first: .*: demo_0 actions: holds NaN"
    ):
        importing.run([path], chosen(tmp_path / "out", on_error="skip"))
    assert [left.name for left in tmp_path.glob("out*")] == []


def test_the_record_of_an_import_counts_what_is_there(tmp_path):
    path = broken(tmp_path / "a_demo.hdf5")
    importing.run([path], chosen(tmp_path / "out", on_error="skip"))
    record = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert (record["planned"], record["episodes"], record["steps"]) == (4, 3, 12)
    assert [left["demo"] for left in record["skipped"]] == ["demo_1"]


def test_a_broken_demo_and_a_broken_file_are_left_out_when_asked(tmp_path):
    good, bad = broken(tmp_path / "a_demo.hdf5"), tmp_path / "b_demo.hdf5"
    bad.write_bytes(good.read_bytes()[:-100])
    plan, done = importing.run([tmp_path], chosen(tmp_path / "out", on_error="skip"))
    assert done and len(open_trajectories(tmp_path / "out")) == 3
    left = pieces.skipped_of(plan.to)
    assert [(Path(f.file).name, f.demo, f.field) for f in left] == [
        ("b_demo.hdf5", "", ""), ("a_demo.hdf5", "demo_1", "actions"),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="truncated"):
        importing.run([tmp_path], chosen(tmp_path / "strict"))


def test_demos_that_are_upside_down_against_the_others_are_left_out(tmp_path):
    path = libero_file(tmp_path / "a_demo.hdf5", demos=4)
    with h5py.File(path, "r+") as file:
        turned = file["data/demo_2/obs/eye_in_hand_rgb"][()][:, ::-1]
        file["data/demo_2/obs/eye_in_hand_rgb"][...] = turned
    plan, _ = importing.run([path], chosen(tmp_path / "out", on_error="skip"))
    assert [(f.demo, f.field) for f in pieces.skipped_of(plan.to)] == [("demo_2", "obs/eye_in_hand_rgb")]


def test_a_recipe_numbers_the_tasks_and_refuses_others(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("about: two tasks\ntasks: [close the drawer, open the drawer]\n")
    path = libero_file(tmp_path / "a_demo.hdf5")
    importing.run([path], chosen(tmp_path / "out", recipe=str(recipe)))
    assert {entry.task for entry in open_trajectories(tmp_path / "out").entries} == {1}
    recipe.write_text("about: one task\ntasks: [close the drawer]\n")
    with pytest.raises(ValueError, match="demo_0 instruction: unknown task 'open the drawer'"):
        importing.run([path], chosen(tmp_path / "other", recipe=str(recipe)))


def test_names_orientation_and_instruction_can_be_told(tmp_path):
    path = libero_file(tmp_path / "a_demo.hdf5")
    options = chosen(tmp_path / "out", flip="none", cameras="agentview_rgb:main", instruction="go on")
    importing.run([path], options)
    one = open_trajectories(tmp_path / "out")[0]
    assert list(one.images) == ["main"] and one.instruction == "go on"
    assert (one.images["main"][:, -1] == 255).all()  # left as the file has it
    with pytest.raises(ValueError, match="has no camera front_rgb: choose from agentview_rgb, eye_in_hand_rgb"):
        importing.run([path], chosen(tmp_path / "other", cameras="front_rgb"))


def test_shares_complete_the_data_set_together(tmp_path):
    libero_file(tmp_path / "a_demo.hdf5", demos=5)
    ended = [importing.run([tmp_path / "a_demo.hdf5"], chosen(tmp_path / "out", share=share, episodes_per_shard=1))[1]
             for share in ("2/3", "1/3", "3/3")]  # fmt: skip
    assert ended == [False, False, True]
    assert len(open_trajectories(tmp_path / "out")) == 5
    assert verify(tmp_path / "out") == []
    for share in ("0/3", "4/3", "x"):
        with pytest.raises(ValueError, match=f"share={share}"):
            importing.run([tmp_path / "a_demo.hdf5"], chosen(tmp_path / "new", share=share))


def test_several_processes_import_the_same(tmp_path):
    libero_file(tmp_path / "a_demo.hdf5", demos=4)
    importing.run([tmp_path / "a_demo.hdf5"], chosen(tmp_path / "out", workers=2, episodes_per_shard=2))
    assert len(open_trajectories(tmp_path / "out")) == 4


def test_the_same_command_twice_does_nothing_and_another_is_refused(tmp_path):
    path = libero_file(tmp_path / "a_demo.hdf5")
    importing.run([path], chosen(tmp_path / "out"))
    before = (tmp_path / "out" / "manifest.json").stat().st_mtime_ns
    assert importing.run([path], chosen(tmp_path / "out"))[1]
    assert (tmp_path / "out" / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="is there already: choose another to=FOLDER"):
        importing.run([path], chosen(tmp_path / "out", compression="none"))


def test_an_interrupted_import_is_continued_by_the_same_command_only(tmp_path):
    path = libero_file(tmp_path / "a_demo.hdf5", demos=3)
    importing.run([path], chosen(tmp_path / "out", episodes_per_shard=1, share="1/3"))
    first = next((tmp_path / "out.partial").glob("*.hdf5"))
    made = first.stat().st_mtime_ns
    with pytest.raises(ValueError, match="holds the beginning of another data set"):
        importing.run([path], chosen(tmp_path / "out", episodes_per_shard=2))
    importing.run([path], chosen(tmp_path / "out", episodes_per_shard=1))
    assert (tmp_path / "out" / first.name).stat().st_mtime_ns == made
    assert len(open_trajectories(tmp_path / "out")) == 3


KILLED = """
import sys
from acceerl.launch.cli import main
sys.exit(main(["data", "import", sys.argv[1], f"to={sys.argv[2]}", "limit=0", "episodes_per_shard=2"]))
"""


def test_sigkill_leaves_what_the_next_start_completes(tmp_path):
    path = libero_file(tmp_path / "a_demo.hdf5", rows=40, demos=12)
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    command = [sys.executable, "-c", KILLED, str(path), str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for shards in (1, 4):
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
            until = time.monotonic() + 60
            while len(list(partial.glob("*.hdf5"))) < shards and process.poll() is None:
                assert time.monotonic() < until
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
        assert not out.exists()
        for shard in partial.glob("*.hdf5"):
            assert validate(shard) in ([], [f for f in validate(shard) if f.field == "manifest"])
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "12 episodes" in done.stdout
    assert validate(out) == []


FULL = """
import resource, sys
from acceerl.launch.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))  # of one file: a full disk for all but small ones
sys.exit(main(["data", "import", sys.argv[1], f"to={sys.argv[2]}", "limit=0", "compression=none"]))
"""


def test_no_space_left_is_one_line_and_no_data_set(tmp_path):
    path = libero_file(tmp_path / "a_demo.hdf5", rows=60, demos=6)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", FULL, str(path), str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "cannot be written (File too large): free some disk space" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_source_that_is_being_written_is_refused(tmp_path):
    path = libero_file(tmp_path / "a_demo.hdf5")
    code = "import sys, h5py; f = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); sys.stdin.readline()"
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "open\n"
        with pytest.raises(ValueError, match="is being written by another process"):
            importing.run([path], chosen(tmp_path / "out"))
        other.communicate("\n", timeout=30)
    assert not (tmp_path / "out").exists()
