"""The readers of `bench store` do equal work, and its drill finds what a writer loses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from acceerl.bench.options import parse
from acceerl.bench.store import FIGURES, Options, run
from acceerl.bench.store_episodes import made_up
from acceerl.bench.store_kills import drill
from acceerl.bench.store_reading import Peer
from acceerl.stores.clips import Clips
from acceerl.stores.plain import PlainSequences, write_plain
from acceerl.stores.reader import open_trajectories
from acceerl.stores.writer import TrajectoryWriter


def test_ours_and_the_peer_yield_the_same_windows(tmp_path: Path) -> None:
    episodes = [made_up(i, steps=6, size=16) for i in range(2)]
    with TrajectoryWriter(tmp_path / "ours", {}, {}, "w") as writer:
        for episode in episodes:
            writer.write(episode)
    write_plain(tmp_path / "plain.hdf5", episodes)
    clips = Clips(open_trajectories(tmp_path / "ours"), 1, 2)
    for path in (tmp_path / "plain.hdf5", tmp_path / "ours" / "shard-w-0.hdf5"):
        with PlainSequences(path, 3, ("front_rgb", "wrist_rgb", "proprio")) as plain:
            ours, seen = clips.read([5 + 1]), plain.read("demo_1", 1)  # five windows an episode, the final frame too
        for camera, frames in ours.images.items():
            assert np.array_equal(seen[f"obs/{camera}_rgb"], frames[0])
        assert np.array_equal(seen["obs/proprio"], ours.proprio[0])
        assert np.allclose(seen["actions"][:2], ours.actions[0, :, 0])


def test_made_up_frames_differ_and_compress(tmp_path: Path) -> None:
    episode = made_up(0, steps=20, size=64)
    assert not np.array_equal(episode.images["front"][0], episode.images["front"][10])
    write_plain(tmp_path / "plain.hdf5", [episode])
    raw = sum(frames.nbytes for frames in episode.images.values())
    assert 0.02 < (tmp_path / "plain.hdf5").stat().st_size / raw < 0.6


def test_the_bench_fills_its_figures() -> None:
    words = ["episodes=2", "steps=6", "image_size=16", "frames=3", "windows=3", "turns=1"]
    result = run(parse(Options, "bench store", words))
    assert set(result.figures) == {name for name in FIGURES if not name.startswith("store.kills")}
    assert all(value > 0 for value in result.figures.values())


def test_a_writer_that_is_killed_again_and_again_reaches_its_target(tmp_path: Path) -> None:
    outcome = drill(tmp_path, kills=5, target=20)
    assert (outcome.kills, outcome.broken, outcome.lost_most, outcome.missing, outcome.double) == (5, 0, 0, 0, 0)


def test_a_peer_that_does_not_start_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="peer=/nowhere/python: No such file"):
        Peer("/nowhere/python", tmp_path / "x", 2, ["a"])
