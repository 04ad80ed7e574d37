"""Episodes in memory: the same windows as from the files, no more bytes than the episodes, and the oldest leave."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest

from acceerl.stores.clips import Clips
from acceerl.stores.memory import Kept, Memory, recorded
from acceerl.stores.reader import Trajectories, open_trajectories
from acceerl.stores.writer import TrajectoryWriter
from acceerl.types import ClipBatch
from tests.unit.stores.examples import CAMERAS, episode, frames

NUMBERS = [
    {"context": 1, "horizon": 1},
    {"context": 3, "horizon": 2, "pad": True},
    {"context": 2, "horizon": 1, "stride": 8},
]


def written(folder: Path, stride: int = 1) -> Trajectories:
    with TrajectoryWriter(folder, {}, {}, "w0") as out:
        out.write(episode(21, task=1, stride=stride))
        out.write(episode(30, task=2, stride=stride, success=False))
    return open_trajectories(folder)


def live(number: int, steps: int = 4) -> Kept:
    times = np.arange(steps + 1)
    return Kept(
        {"front": frames(times)}, np.repeat(times[:, None], 4, 1).astype(np.float32),
        np.full((steps, 7), number, np.float32), 1, f"task number {number}", number, 0, False, f"episode {number}",
        live=True,
    )  # fmt: skip


def same(one: ClipBatch, other: ClipBatch) -> bool:
    pairs = [(getattr(one, n), getattr(other, n)) for n in ("proprio", "actions", "executed", "valid", "succeeded")]
    pairs += [(x, other.images[c]) for c, x in one.images.items()]
    alike = all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)
    return alike and one.instructions == other.instructions and one.images.keys() == other.images.keys()


@pytest.mark.parametrize("numbers", NUMBERS, ids=str)
@pytest.mark.parametrize("stride", [1, 4])
def test_windows_are_those_of_the_files(tmp_path: Path, stride: int, numbers: dict):
    trajectories = written(tmp_path, stride)
    of_files = Clips(trajectories, **numbers)
    of_memory = Clips(Memory(recorded(trajectories, CAMERAS)), **numbers)
    assert len(of_memory) == len(of_files)
    every = range(len(of_files))
    assert same(of_memory.read(every), of_files.read(every))


def test_an_episode_is_kept_whole(tmp_path: Path):
    first, second = recorded(written(tmp_path, stride=4), ["wrist"])
    assert (first.steps, first.rows, first.stride, first.cameras) == (21, 6, 4, ("wrist",))
    assert first.images["wrist"][:, 1, 0, 0].tolist() == [0, 4, 8, 12, 16, 20, 21]
    assert first.proprio[:, 0].tolist() == [0, 4, 8, 12, 16, 20, 21]
    assert first.actions[:, 0].tolist() == list(range(21))
    assert (first.success, second.success) == (True, False)
    assert (first.task, first.init_state, first.instruction) == (1, 3, "task number 1")
    assert not first.live


def test_a_missing_camera_is_named_before_anything_is_read(tmp_path: Path):
    beats: list[int] = []
    with pytest.raises(ValueError, match=r"demo_0.* has no camera side: choose from front, wrist"):
        recorded(written(tmp_path), ["front", "side"], lambda: beats.append(1))
    assert not beats


@pytest.mark.parametrize("field", ["actions", "obs/proprio"])
def test_what_is_no_number_is_named(tmp_path: Path, field: str):
    shard = written(tmp_path).entries[0].path
    with h5py.File(shard, "r+") as file:
        file["data/demo_1"][field][3, 0] = np.nan
    with pytest.raises(ValueError, match=f"{shard.name}: demo_1 {field}: holds NaN"):
        recorded(open_trajectories(tmp_path), CAMERAS)


def test_reading_tells_that_it_goes_on(tmp_path: Path):
    beats: list[int] = []
    recorded(written(tmp_path), CAMERAS, lambda: beats.append(1))
    assert len(beats) == 2


def test_the_oldest_live_episodes_leave_and_recorded_ones_stay(tmp_path: Path):
    memory = Memory(recorded(written(tmp_path), ["front"]), capacity=2)
    for number in range(4):
        memory.add(live(number))
    assert [kept.where for kept in memory.entries[2:]] == ["episode 2", "episode 3"]
    assert len(memory) == 4
    assert [memory[i].instruction for i in range(4)] == ["task number 1", "task number 2"] * 1 + [
        "task number 2", "task number 3",
    ]  # fmt: skip
    assert memory.executed(3, 1, 3).tolist() == [[3.0] * 7] * 2
    assert memory.frames(3, "front", 0, 5, 2)[:, 1, 0, 0].tolist() == [0, 2, 4]
    assert memory.nbytes == sum(kept.nbytes for kept in memory.entries)


def test_recorded_and_live_episodes_are_cut_side_by_side(tmp_path: Path):
    memory = Memory(recorded(written(tmp_path), ["front"]))
    memory.add(live(7))
    clips = Clips(memory, context=1, horizon=1, cameras=["front"])
    assert len(clips) == 21 + 30 + 4
    assert clips[len(clips) - 1].instructions == ("task number 7",)


def test_host_memory_is_that_of_the_episodes(tmp_path: Path):
    """Reading keeps one copy, and windows are sliced from it: at most 1.2 times the episodes' own bytes."""
    big, times = 64, np.arange(60)
    with TrajectoryWriter(tmp_path, {}, {}, "w0") as out:
        for task in range(6):
            shown = {c: frames(times, big) for c in CAMERAS}
            out.write(episode(60, task=task, images=shown, final_images={c: x[0] for c, x in shown.items()}))
    trajectories = open_trajectories(tmp_path)
    bytes_of = 6 * 61 * 2 * big * big * 3
    tracemalloc.start()
    memory = Memory(recorded(trajectories, CAMERAS))
    clips, rng = Clips(memory, context=2, horizon=1, stride=4), np.random.default_rng(0)
    for _ in range(20):
        clips.draw(4, rng)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert bytes_of <= memory.nbytes <= 1.05 * bytes_of
    assert bytes_of <= held <= 1.2 * bytes_of
