"""What every readable trajectory layout promises: ours in each compression and stride, and LIBERO's published one."""

from __future__ import annotations

import multiprocessing
import pickle
from functools import partial

import h5py
import numpy as np
import pytest

from acceerl.stores.reader import Trajectories, open_trajectories
from acceerl.stores.validate import validate
from acceerl.stores.writer import TrajectoryWriter
from tests.unit.stores.examples import episode, equal, libero_file
from tests.unit.stores.others import regenerated_file, robomimic_file

LAYOUTS = ("gzip", "blosc2", "none", "decisions", "libero", "regenerated", "robomimic", "robomimic_no_next")
OTHERS = {  # each of 20 steps here
    "libero": partial(libero_file, rows=21),
    "regenerated": partial(regenerated_file, rows=21),
    "robomimic": partial(robomimic_file, rows=20),
    "robomimic_no_next": partial(robomimic_file, rows=21, next_obs=False),
}


@pytest.fixture(params=LAYOUTS)
def folder(request, tmp_path):
    if request.param in OTHERS:
        OTHERS[request.param](tmp_path / "open_the_drawer_demo.hdf5")
        return tmp_path
    compression = request.param if request.param in ("gzip", "blosc2", "none") else "gzip"
    with TrajectoryWriter(tmp_path, {}, {}, "w0", compression=compression) as out:
        for task in range(2):
            out.write(episode(20, stride=8 if request.param == "decisions" else 1, task=task))
    return tmp_path


def test_episodes_are_consistent(folder):
    found = open_trajectories(folder)
    assert len(found) == 2
    assert [len(found[i]) for i in range(2)] == [20, 20]
    assert validate(folder) == []
    assert found[1].success


def test_an_observation_was_seen_before_its_action_and_upright(folder):
    """In every example, action, state and image of time t hold t, and the top row of an image is white."""
    one = open_trajectories(folder)[0]
    for row, t in enumerate(range(0, len(one), one.decision_stride)):
        for frames in one.images.values():
            assert frames[row, 1, 0, 0] == one.actions[t, 0] == one.states[t, 0] == one.proprio[row, 0]
            assert (frames[row, 0] == 255).all()
    for image in one.final_images.values():
        assert image[1, 0, 0] == one.final_proprio[0] == one.actions[-1, 0] + 1


def test_parts_equal_the_whole(folder):
    found = open_trajectories(folder)
    one = found[1]
    for t in range(0, len(one), one.decision_stride):
        seen = found.observation(1, t)
        assert seen.images.keys() == one.images.keys()
        assert all((seen.images[c] == one.images[c][t // one.decision_stride]).all() for c in one.images)
        assert (seen.proprio == one.proprio[t // one.decision_stride]).all()
        assert seen.instruction == one.instruction
    assert (found.actions(1, 3, 9) == one.actions[3:9]).all()
    assert (found.proprio(1) == [*one.proprio, one.final_proprio]).all()
    for camera, frames in one.images.items():
        whole = found.frames(1, camera, 0, len(frames) + 1)
        assert (whole == [*frames, one.final_images[camera]]).all()


def test_the_last_step_tells_that_the_task_was_solved(folder):
    one = open_trajectories(folder)[0]
    assert (one.rewards[-1], one.dones[-1], one.success) == (1, 1, True)
    assert not one.rewards[:-1].any()


def test_arrays_have_the_promised_types(folder):
    one = open_trajectories(folder)[0]
    types = {name: getattr(one, name).dtype for name in ("actions", "proprio", "rewards", "dones", "states")}
    assert types == {"actions": np.float32, "proprio": np.float32, "rewards": np.float32, "dones": np.uint8,
                     "states": np.float64}  # fmt: skip
    assert all(frames.dtype == np.uint8 for frames in one.images.values())


def test_what_is_read_can_be_written_and_read_again(folder, tmp_path):
    """So `data import` is a loop over any readable file."""
    found = open_trajectories(folder)
    with TrajectoryWriter(tmp_path / "again", {}, {}, "w0") as out:
        out.write(found[1])
    assert equal(open_trajectories(tmp_path / "again")[0], found[1])


def test_workers_open_their_own_files(folder):
    found = open_trajectories(folder)
    found.observation(0, 0)  # a handle that must not cross the fork
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(_first_pixel, [(found, i) for i in range(2)]) == [_first_pixel((found, i)) for i in range(2)]
    assert equal(pickle.loads(pickle.dumps(found))[0], found[0])


def _first_pixel(asked: tuple[Trajectories, int]) -> int:
    found, i = asked
    return int(found.observation(i, 8).proprio[0])


def test_a_robomimic_style_reader_finds_what_it_expects(tmp_path):
    with TrajectoryWriter(tmp_path, {"env_name": "tabletop", "type": 1, "env_kwargs": {}}, {}, "w0") as out:
        out.write(episode(6))
    with h5py.File(tmp_path / "shard-w0-0.hdf5") as file:
        data = file["data"]
        assert (data.attrs["num_demos"], data.attrs["total"]) == (1, 6)
        demo = data["demo_0"]
        rows = {len(demo[name]) for name in ("actions", "states", "rewards", "dones", "obs/front_rgb", "obs/proprio")}
        assert rows == {int(demo.attrs["num_samples"])}
