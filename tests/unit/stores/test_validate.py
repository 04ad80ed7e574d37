"""Every fault that a file of demonstrations can have is named by file, demo and field."""

from __future__ import annotations

import subprocess
import sys

import h5py
import numpy as np
import pytest

from acceerl.stores.checks import Rules
from acceerl.stores.reader import open_trajectories
from acceerl.stores.validate import validate, verify
from acceerl.stores.writer import TrajectoryWriter
from tests.unit.stores.examples import episode, frames, libero_file

DEMO = "data/demo_1"


def replaced(file: h5py.File, name: str, value: object) -> None:
    del file[name]
    file[name] = value


def _flip(file: h5py.File) -> None:
    replaced(file, f"{DEMO}/obs/agentview_rgb", file[f"{DEMO}/obs/agentview_rgb"][()][:, ::-1])


def _zero(file: h5py.File) -> None:
    for name in ("actions", "rewards", "dones", "states", *(f"obs/{key}" for key in file[f"{DEMO}/obs"])):
        replaced(file, f"{DEMO}/{name}", file[f"{DEMO}/{name}"][:0])


def _nan(file: h5py.File) -> None:
    file[f"{DEMO}/actions"][2, 3] = np.nan


FAULTS = {  # what is done to a published LIBERO file -> (field, words of the message)
    "zero-length demo": (_zero, "actions", "no steps"),
    "mismatched lengths": (lambda f: replaced(f, f"{DEMO}/rewards", np.zeros(3)), "rewards", "3 rows, expected 6"),
    "fewer images": (
        lambda f: replaced(f, f"{DEMO}/obs/agentview_rgb", frames(range(4))), "obs/agentview_rgb", "4 rows, expected 6",
    ),
    "missing camera": (lambda f: f[DEMO].pop("obs/eye_in_hand_rgb"), "obs/eye_in_hand_rgb", "is missing"),
    "missing actions": (lambda f: f[DEMO].pop("actions"), "actions", "is missing"),
    "wrong dtype": (
        lambda f: replaced(f, f"{DEMO}/obs/agentview_rgb", np.ones((6, 8, 8, 3), np.float32)),
        "obs/agentview_rgb", "float32 is not uint8",
    ),
    "whole-numbered actions": (
        lambda f: replaced(f, f"{DEMO}/actions", np.ones((6, 7), np.int64)), "actions", "int64",
    ),
    "NaN actions": (_nan, "actions", "NaN"),
    "wild actions": (lambda f: replaced(f, f"{DEMO}/actions", np.full((6, 7), 99.0)), "actions", "reach 99"),
    "upside down": (_flip, "obs/agentview_rgb", "upside down"),
    "grey images": (
        lambda f: replaced(f, f"{DEMO}/obs/agentview_rgb", np.full((6, 8, 8, 3), 7, np.uint8)),
        "obs/agentview_rgb", "one colour",
    ),
    "narrower actions": (
        lambda f: replaced(f, f"{DEMO}/actions", np.zeros((6, 6))), "actions", "shape (6,), other demos have (7,)",
    ),
    "larger images": (
        lambda f: replaced(f, f"{DEMO}/obs/agentview_rgb", np.zeros((6, 9, 9, 3), np.uint8)),
        "obs/agentview_rgb", "shape (9, 9, 3), other demos have (8, 8, 3)",
    ),
    "no group": (lambda f: replaced(f, DEMO, 3), "", "is no group of datasets"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "field", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named_by_file_demo_and_field(tmp_path, damage, field, message):
    path = libero_file(tmp_path / "open_the_drawer_demo.hdf5", rows=6, demos=4)
    assert validate(path, Rules(limit=50)) == []
    with h5py.File(path, "r+") as file:
        damage(file)
    found = validate(path, Rules(limit=50))
    assert [(f.file, f.demo, f.field) for f in found] == [(str(path), "demo_1", field)]
    assert message in found[0].message


OWN_FAULTS = {  # what is done to a file of ours -> (field, words of the message)
    "no instruction": (lambda demo: demo.attrs.pop("instruction"), "@instruction", "is missing"),
    "no stride": (lambda demo: demo.attrs.modify("decision_stride", 0), "@decision_stride", "0 is no number of steps"),
    "no JSON": (lambda demo: demo.attrs.create("fixtures", "{no"), "@fixtures", "is no JSON of places"),
    "other length": (
        lambda demo: demo.attrs.modify("num_samples", 9), "actions", "5 rows, but @num_samples says 9",
    ),
    "JSON of something": (lambda demo: demo.attrs.create("fixtures", "[1]"), "@fixtures", "is no JSON of places"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "field", "message"), OWN_FAULTS.values(), ids=OWN_FAULTS)
def test_a_fault_in_a_file_of_ours_is_named_too(tmp_path, damage, field, message):
    with TrajectoryWriter(tmp_path, {}, {}, "w0") as out:
        for seed in range(2):
            out.write(episode(seed=seed))
    [path] = out.published
    with h5py.File(path, "r+") as file:
        damage(file[DEMO])
    [found] = [f for f in validate(path) if f.field != "sha256"]
    assert (found.file, found.demo, found.field) == (str(path), "demo_1", field)
    assert message in found.message
    with pytest.raises(ValueError, match=f"demo_1 {field}"):
        open_trajectories(path)


def test_what_reads_all_the_same_is_named_in_a_file_of_ours(tmp_path):
    with TrajectoryWriter(tmp_path, {}, {}, "w0") as out:
        for task in range(3):
            out.write(episode(task=task))
        out.write(episode(task=2, instruction="task number 0"))
    [path] = out.published
    with h5py.File(path, "r+") as file:
        replaced(file, f"{DEMO}/actions", file[f"{DEMO}/actions"][()].astype(np.float64))
        replaced(file, f"{DEMO}/final_obs/proprio", np.zeros((1, 4), np.int32))
    tasks = tuple(f"task number {task}" for task in range(3))
    assert [(f.demo, f.field, f.message) for f in validate(path, Rules(instructions=tasks)) if f.field != "sha256"] == [
        ("demo_1", "actions", "float64 is not float32"),
        ("demo_1", "final_obs/proprio", "int32 is not float32"),
        ("demo_3", "@task", "is 2, but 'task number 0' is number 0"),
    ]
    assert len(open_trajectories(path)) == 4


@pytest.mark.parametrize(
    ("turned", "words"),
    [
        (lambda frames: frames[:, ::-1], "upside down"),
        (lambda frames: frames[:, :, ::-1], "mirrored"),
        (lambda frames: frames[:, ::-1, ::-1], "turned by 180 degrees"),
    ],
)
def test_it_is_said_how_images_are_turned(tmp_path, turned, words):
    seen = np.zeros((5, 32, 32, 3), np.uint8)
    seen[:, :16], seen[:, :, :16] = 60, seen[:, :, :16] + 150  # brighter above, and much brighter on the left
    with TrajectoryWriter(tmp_path, {}, {}, "w0") as out:
        for i in range(4):
            now = turned(seen) if i == 2 else seen
            out.write(episode(seed=i, images={"front": now}, final_images={"front": now[0]}))
    assert [(f.demo, f.message) for f in validate(tmp_path)] == [
        ("demo_2", f"{words}, against the other demos of its task")
    ]


def test_a_mirror_of_a_nearly_symmetric_scene_is_no_fault(tmp_path):
    """An object on the left in one demo, on the right in the others: the scene is right side up in all of them."""
    with TrajectoryWriter(tmp_path, {}, {}, "w0") as out:
        for i in range(4):
            seen = np.zeros((5, 32, 32, 3), np.uint8)
            seen[:, :8] = 200
            seen[:, 16:24, 24 if i else 0 : 32 if i else 8] = 250
            out.write(episode(seed=i, images={"front": seen}, final_images={"front": seen[0]}))
    assert validate(tmp_path) == []


def test_a_file_without_demos_says_so(tmp_path):
    path = libero_file(tmp_path / "a_demo.hdf5", demos=0)
    assert [f.message for f in validate(path)] == ["holds no episode: leave it out"]


@pytest.mark.parametrize("text", ["[]", "{broken", "{}"])
def test_a_damaged_manifest_entry_is_named(tmp_path, text):
    with TrajectoryWriter(tmp_path, {}, {}, "w0") as out:
        out.write(episode())
    entry = tmp_path / "manifest" / "shard-w0-0.json"
    entry.write_text(text)
    [found] = validate(tmp_path)
    assert found.field == "manifest" and f"{entry}: is no manifest entry" in found.message
    with pytest.raises(ValueError, match="is no manifest entry: delete it"):
        verify(tmp_path)


def test_training_refuses_a_file_with_a_demo_that_cannot_be_read(tmp_path):
    path = libero_file(tmp_path / "a_demo.hdf5")
    with h5py.File(path, "r+") as file:
        replaced(file, f"{DEMO}/rewards", np.zeros(3))
    with pytest.raises(ValueError, match=r"demo_1 rewards: 3 rows, expected 5: `acceerl data import` can leave it out"):
        open_trajectories(path)


def test_an_unknown_task_is_named(tmp_path):
    path = libero_file(tmp_path / "a_demo.hdf5")
    assert validate(path, Rules(instructions=("open the drawer", "close it"))) == []
    found = validate(path, Rules(instructions=("close it",)))
    assert [(f.demo, f.message) for f in found] == [
        ("demo_0", "unknown task 'open the drawer'"), ("demo_1", "unknown task 'open the drawer'"),
    ]  # fmt: skip


def test_a_cut_file_is_named(tmp_path):
    path = libero_file(tmp_path / "a_demo.hdf5")
    path.write_bytes(path.read_bytes()[:-200])
    found = validate(path)
    assert [(f.file, f.demo) for f in found] == [(str(path), "")]
    assert "truncated" in found[0].message


WRITER = """
import sys, h5py
with h5py.File(sys.argv[1], "r+") as file:
    print("open", flush=True)
    sys.stdin.readline()
"""


def test_a_file_that_another_process_writes_is_named(tmp_path):
    path = libero_file(tmp_path / "a_demo.hdf5")
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "open\n"
        found = validate(path)
        other.communicate("\n", timeout=30)
    assert [f.message for f in found] == ["is being written by another process: wait until it is closed"]
    assert validate(path) == []


def test_verify_names_what_is_not_as_the_manifest_says(tmp_path):
    with TrajectoryWriter(tmp_path, {}, {}, "w0", max_episodes=1) as out:
        for i in range(3):
            out.write(episode(seed=i))
    assert verify(tmp_path) == []
    first, second, third = sorted(tmp_path.glob("*.hdf5"))
    first.write_bytes(first.read_bytes()[:-1] + b"x")
    second.unlink()
    third.rename(tmp_path / "other.hdf5")
    assert sorted((f.file.rsplit("/", 1)[1], f.field) for f in verify(tmp_path)) == [
        ("other.hdf5", "manifest"), ("shard-w0-0.hdf5", "sha256"), ("shard-w0-1.hdf5", ""), ("shard-w0-2.hdf5", ""),
    ]  # fmt: skip


def test_verify_needs_a_manifest(tmp_path):
    libero_file(tmp_path / "a_demo.hdf5")
    with pytest.raises(ValueError, match="has no manifest"):
        verify(tmp_path)
