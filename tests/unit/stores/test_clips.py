"""Windows of frames: what they hold at both ends, from every layout, in several processes, and mixed."""

from __future__ import annotations

import multiprocessing
import pickle

import numpy as np
import pytest

from acceerl.stores.clips import ClipBatch, Clips, Mixture
from acceerl.stores.reader import open_trajectories
from acceerl.stores.windows import Windows
from acceerl.stores.writer import TrajectoryWriter
from tests.unit.stores.examples import CAMERAS, episode, frames, libero_file


@pytest.fixture
def folder(tmp_path):
    with TrajectoryWriter(tmp_path / "data", {}, {}, "w0", max_episodes=1) as out:
        out.write(episode(6, task=1))
        out.write(episode(9, task=2))
    return tmp_path / "data"


def times(batch: ClipBatch) -> list[list[int]]:
    """In every example frame and proprioception of time t hold t."""
    seen = batch.images["front"][:, :, 1, 0, 0]
    assert (seen == batch.proprio[:, :, 0]).all()
    return seen.tolist()


def test_whole_windows_end_with_the_final_observation(folder):
    clips = Clips(open_trajectories(folder), context=2, horizon=3)
    assert len(clips) == (7 - 4) + (10 - 4)
    batch = clips.read([2, 0, 8])
    assert times(batch) == [[2, 3, 4, 5, 6], [0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert batch.actions[:, :, 0, 0].tolist() == [[2, 3, 4, 5], [0, 1, 2, 3], [5, 6, 7, 8]]
    assert (batch.executed == 1).all() and batch.valid.all()
    assert batch.instructions == ("task number 1", "task number 1", "task number 2")
    assert batch.images["front"].dtype == np.uint8


def test_padded_windows_make_every_frame_now(folder):
    clips = Clips(open_trajectories(folder), context=3, horizon=2, pad=True)
    assert len(clips) == 6 + 9
    batch = clips.read([0, 5])
    assert times(batch) == [[0, 0, 0, 1, 2], [3, 4, 5, 6, 6]]
    assert batch.valid.tolist() == [[False, False, True, True, True], [True, True, True, True, False]]
    assert batch.executed.tolist() == [[0, 0, 1, 1], [1, 1, 1, 0]]


def test_frames_kept_at_decisions_come_with_all_actions_between_them(tmp_path):
    with TrajectoryWriter(tmp_path, {}, {}, "w0") as out:
        out.write(episode(20, stride=8))  # frames at 0, 8, 16 and the final one at 20
    batch = Clips(open_trajectories(tmp_path), context=1, horizon=2)[1]
    assert times(batch) == [[8, 16, 20]]
    assert batch.actions[0, :, :, 0].tolist() == [[8, 9, 10, 11, 12, 13, 14, 15], [16, 17, 18, 19, 19, 19, 19, 19]]
    assert batch.executed.tolist() == [[8, 4]]


@pytest.fixture
def by_two(tmp_path):
    """Frames at every second control step; 11 steps, so the last tick is short: rows 0, 2, 4, 6, 8, 10 and 11."""
    with TrajectoryWriter(tmp_path / "two", {}, {}, "w0") as out:
        out.write(episode(11, stride=2))
    return open_trajectories(tmp_path / "two")


def test_a_wider_stride_begins_at_every_recorded_frame(by_two):
    clips = Clips(by_two, context=1, horizon=2, stride=4)
    batch = clips.read(range(len(clips)))
    assert times(batch) == [[0, 4, 8], [2, 6, 10], [4, 8, 11], [6, 10, 11]]
    assert batch.executed.tolist() == [[4, 4], [4, 4], [4, 3], [4, 1]]
    assert batch.actions[2, :, :, 0].tolist() == [[4, 5, 6, 7], [8, 9, 10, 10]]
    assert batch.actions[3, :, :, 0].tolist() == [[6, 7, 8, 9], [10, 10, 10, 10]]
    assert batch.succeeded.tolist() == [[False] * 3] * 2 + [[False, False, True]] * 2
    assert batch.valid.all()


def test_a_wider_stride_with_padding_makes_every_recorded_frame_now(by_two):
    clips = Clips(by_two, context=2, horizon=2, stride=4, pad=True)
    batch = clips.read(range(len(clips)))
    assert [row[1] for row in times(batch)] == [0, 2, 4, 6, 8, 10]
    assert times(batch)[1:3] == [[0, 2, 6, 10], [0, 4, 8, 11]]
    assert times(batch)[4:] == [[4, 8, 11, 11], [6, 10, 11, 11]]
    assert batch.valid.tolist() == [[False, True, True, True]] * 2 + [[True] * 4] * 2 + [[True, True, True, False]] * 2
    assert batch.executed.tolist() == [[0, 4, 4], [0, 4, 4], [4, 4, 3], [4, 4, 1], [4, 3, 0], [4, 1, 0]]
    assert batch.succeeded[4:].tolist() == [[False, False, True, True]] * 2, "the last frame is repeated"


@pytest.mark.parametrize("steps", [8, 9, 15, 16, 17])
def test_every_stride_agrees_with_the_slow_version(tmp_path, steps):
    """The frame of time t and action t hold t, so what a window must hold can be counted."""
    with TrajectoryWriter(tmp_path, {}, {}, "w0") as out:
        out.write(episode(steps, success=False))
    clips = Clips(open_trajectories(tmp_path), context=2, horizon=1, stride=4, pad=True)
    batch = clips.read(range(len(clips)))
    assert len(batch) == steps
    for now, (seen, valid, executed) in enumerate(zip(times(batch), batch.valid, batch.executed, strict=True)):
        moments = [now - 4, now, now + 4]
        assert seen == [min(max(moment, 0), steps) for moment in moments]
        assert valid.tolist() == [now >= 4, True, now < steps]
        assert executed.tolist() == [4 if now >= 4 else 0, min(4, steps - now)]
        played = batch.actions[now, 1, : executed[1], 0]
        assert played.tolist() == list(range(now, now + executed[1]))
    assert not batch.succeeded.any(), "the last frame of a failure shows none"


def test_a_stride_that_does_not_fit_is_refused_by_name(by_two):
    with pytest.raises(ValueError, match=r"demo_0.* has a frame every 2 control steps: windows 3 apart do not fit"):
        Clips(by_two, context=1, horizon=1, stride=3)
    with pytest.raises(ValueError, match=r"no episode has 8 frames 2 control steps apart \(the longest has 7\)"):
        Clips(by_two, context=4, horizon=4)


def test_a_share_of_what_is_drawn_ends_with_a_success(tmp_path):
    with TrajectoryWriter(tmp_path, {}, {}, "w0") as out:
        out.write(episode(40, task=1))
        out.write(episode(40, task=2, success=False))
    for arguments, finals in (({}, 1), ({"pad": True}, 2), ({"stride": 4}, 4), ({"stride": 4, "pad": True}, 8)):
        clips = Clips(open_trajectories(tmp_path), context=2, horizon=2, **arguments)
        every = clips.read(range(len(clips))).succeeded[:, -1]
        assert every.sum() == finals
        drawn = clips.draw(400, np.random.default_rng(0), final_share=0.5).succeeded[:, -1]
        assert 0.45 < drawn.mean() < 0.6
        assert clips.draw(50, np.random.default_rng(0), final_share=1.0).succeeded[:, -1].all()
        assert clips.draw(400, np.random.default_rng(0)).succeeded[:, -1].mean() < 0.2


def test_as_many_windows_end_less_than_a_tick_before_a_success(tmp_path):
    """Proprioception counts the rows here, so that a window's last one tells how far the success still is."""
    with TrajectoryWriter(tmp_path, {}, {}, "w0") as out:
        out.write(episode(40, task=1))
    clips = Clips(open_trajectories(tmp_path), context=1, horizon=1, pad=True, stride=4)
    last = np.array([np.flatnonzero((clips.trajectories.proprio(0) == row).all(axis=1))[0]
                     for row in clips.draw(400, np.random.default_rng(0), final_share=0.5).proprio[:, -1]])  # fmt: skip
    assert set(last.tolist()) == {36, 37, 38, 39, 40}, "the last row is 40"
    assert 0.45 < (last < 40).mean() < 0.55


def test_without_successes_windows_are_drawn_all_the_same(tmp_path):
    with TrajectoryWriter(tmp_path, {}, {}, "w0") as out:
        out.write(episode(10, success=False))
    clips = Clips(open_trajectories(tmp_path), context=1, horizon=1)
    assert not clips.draw(20, np.random.default_rng(0), final_share=0.5).succeeded.any()


def test_a_libero_file_is_cut_into_upright_windows(tmp_path):
    path = libero_file(tmp_path / "a_demo.hdf5", rows=6)
    batch = Clips(open_trajectories(path), context=1, horizon=3, cameras=["wrist"])[1]
    assert list(batch.images) == ["wrist"]
    assert batch.images["wrist"][0, :, 1, 0, 0].tolist() == [2, 3, 4, 5]
    assert (batch.images["wrist"][0, :, 0] == 255).all()
    assert batch.actions[0, :, 0, 0].tolist() == [2, 3, 4]


def test_without_pictures_all_else_is_the_same(folder):
    whole, motion = (Clips(open_trajectories(folder), 2, 2, pad=True, pictures=yes)[3] for yes in (True, False))
    assert motion.images == {}
    assert whole.images
    for name in ("proprio", "actions", "executed", "valid", "succeeded"):
        assert np.array_equal(getattr(whole, name), getattr(motion, name)), name


def test_a_pass_shows_every_window_once(folder):
    clips = Clips(open_trajectories(folder), context=1, horizon=1)
    seen = [tuple(row) for batch in clips.batches(5, np.random.default_rng(0)) for row in times(batch)]
    assert len(seen) == 15
    assert len({(words, *row) for words, row in zip([0] * 15, sorted(seen), strict=True)}) >= 9


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_read_the_same(folder, method):
    clips = Clips(open_trajectories(folder), context=1, horizon=2)
    mine = [times(clips[i]) for i in range(len(clips))]  # opens files, which a fork inherits
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(_times, [(clips, i) for i in range(len(clips))], chunksize=1) == mine


def _times(asked: tuple[Clips, int]) -> list[list[int]]:
    clips, i = asked
    return times(clips[i])


def test_a_torch_loader_takes_them_as_they_are(folder):
    from torch.utils.data import DataLoader

    clips = Clips(open_trajectories(folder), context=1, horizon=2)
    loader = DataLoader(clips, batch_size=4, num_workers=1, collate_fn=ClipBatch.joined)
    assert [row for batch in loader for row in times(batch)] == times(clips.read(range(len(clips))))
    assert times(pickle.loads(pickle.dumps(clips))[0]) == times(clips[0])


def test_a_mixture_draws_by_weight_and_not_by_size(folder, tmp_path):
    with TrajectoryWriter(tmp_path / "other", {}, {}, "w0") as out:
        out.write(episode(4, task=7))
    parts = [Clips(open_trajectories(path), 1, 1) for path in (folder, tmp_path / "other")]
    batch = Mixture(parts, [1, 3]).draw(400, np.random.default_rng(0))
    share = sum(words == "task number 7" for words in batch.instructions) / 400
    assert 0.7 < share < 0.8
    assert Mixture(parts, [1, 3]).draw(3, np.random.default_rng(1)).valid.shape == (3, 2)
    windows = Mixture([Windows(open_trajectories(folder), 2)] * 2, [1, 1]).draw(6, np.random.default_rng(0))
    assert windows.actions.shape == (6, 2, 7)


UNLIKE = {  # what is other about the second data set -> words of the complaint
    "size": ({"images": dict.fromkeys(CAMERAS, frames(range(5), 16)),
              "final_images": dict.fromkeys(CAMERAS, frames([5], 16)[0])},
             r"images front is \(2, 8, 8, 3\) in a window of the one, \(2, 16, 16, 3\) of the other"),
    "actions": ({"actions": np.zeros((5, 6), np.float32)}, r"actions is \(1, 1, 7\) .* \(1, 1, 6\) of the other"),
    "camera": ({"images": {"front": frames(range(5))}, "final_images": {"front": frames([5])[0]}},
               r"images wrist is \(2, 8, 8, 3\) in a window of the one, missing of the other"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "words"), UNLIKE.values(), ids=UNLIKE)
def test_a_mixture_of_unlike_data_sets_names_both(folder, tmp_path, changes, words):
    with TrajectoryWriter(tmp_path / "other", {}, {}, "w0") as out:
        out.write(episode(5, **changes))
    parts = [Clips(open_trajectories(path), 1, 1) for path in (folder, tmp_path / "other")]
    with pytest.raises(ValueError, match=rf"{folder}.*: demo_0 and .*{tmp_path / 'other'}.* cannot be mixed: {words}"):
        Mixture(parts, [1, 1])
    windows = [Windows(open_trajectories(path), 2) for path in (folder, tmp_path / "other")]
    with pytest.raises(ValueError, match="cannot be mixed"):
        Mixture(windows, [1, 1])


def test_what_cannot_be_is_refused(folder, tmp_path):
    trajectories = open_trajectories(folder)
    for arguments, message in (
        ((0, 4), "context=0, horizon=4"),
        ((1, 0), "needs a frame for now and one more"),
        ((5, 20), "no episode has 25 frames"),
        ((1, 1, ["side"]), "has no camera side: choose from front, wrist"),
    ):
        with pytest.raises(ValueError, match=message):
            Clips(trajectories, *arguments)
    with TrajectoryWriter(folder, {}, {}, "w1") as out:
        out.write(episode(20, stride=8))
    with pytest.raises(ValueError, match=r"\[1, 8\] control steps apart"):
        Clips(open_trajectories(folder), 1, 1)
    with pytest.raises(ValueError, match="2 data sets with 1 weights"):
        Mixture([Clips(trajectories, 1, 1)] * 2, [1])
