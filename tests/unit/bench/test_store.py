"""The plain file of `bench store` holds the same windows as ours: the two readers are compared on equal work."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from acceerl.bench.store import made_up
from acceerl.stores.plain import PlainWindows, write_plain
from acceerl.stores.reader import open_trajectories
from acceerl.stores.windows import Windows
from acceerl.stores.writer import TrajectoryWriter


def test_both_readers_yield_the_same_windows(tmp_path: Path) -> None:
    episodes = [made_up(i, steps=5, size=16) for i in range(2)]
    with TrajectoryWriter(tmp_path / "ours", {}, {}, "w") as writer:
        for episode in episodes:
            writer.write(episode)
    write_plain(tmp_path / "plain.hdf5", episodes)
    ours = Windows(open_trajectories(tmp_path / "ours"), chunk=3)
    with PlainWindows(tmp_path / "plain.hdf5", chunk=3) as plain:
        assert len(plain) == len(ours) == 10
        for index in range(10):
            seen, actions = plain[index]
            window = ours[index]
            assert np.array_equal(actions, window.actions[0])
            assert np.array_equal(seen["proprio"], window.observations.proprio[0])
            for camera, frames in window.observations.images.items():
                assert np.array_equal(seen[f"{camera}_rgb"], frames[0])


def test_made_up_frames_differ_and_compress(tmp_path: Path) -> None:
    episode = made_up(0, steps=20, size=64)
    assert not np.array_equal(episode.images["front"][0], episode.images["front"][10])
    write_plain(tmp_path / "plain.hdf5", [episode])
    raw = sum(frames.nbytes for frames in episode.images.values())
    assert 0.02 < (tmp_path / "plain.hdf5").stat().st_size / raw < 0.6
