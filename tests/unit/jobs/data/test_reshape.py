"""Splits are reproducible and complete, merges refuse what differs, conversions change what was asked and no more."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest

from acceerl.config import from_dict
from acceerl.jobs.build import make_env
from acceerl.jobs.data import replay, reshape
from acceerl.jobs.data.options import Convert, Merge, Split
from acceerl.jobs.play import Noise, play_episode
from acceerl.stores.reader import Trajectories, open_trajectories
from acceerl.stores.validate import validate
from acceerl.stores.writer import TrajectoryWriter
from acceerl.types import Assignment
from tests.unit.stores.examples import episode, equal, libero_file


@pytest.fixture
def folder(tmp_path):
    """Ten episodes of each of two tasks, every third a failure; `seed` numbers them."""
    with TrajectoryWriter(tmp_path / "in", {}, {}, "w0", max_episodes=7) as out:
        for i in range(20):
            out.write(episode(4, task=i % 2, seed=i, success=i % 3 > 0))
    return tmp_path / "in"


def seeds(path: Path) -> list[int]:
    return sorted(entry.seed for entry in open_trajectories(path).entries)


def test_a_split_by_fraction_takes_its_share_of_every_task_again_and_again(folder, tmp_path):
    for name in ("one", "two"):
        reshape.split([folder], Split(to=str(tmp_path / name), fractions="train:0.8,val:0.2", seed=3))
    train, val = seeds(tmp_path / "one" / "train"), seeds(tmp_path / "one" / "val")
    assert sorted(train + val) == list(range(20))
    assert Counter(entry.task for entry in open_trajectories(tmp_path / "one" / "val").entries) == {0: 2, 1: 2}
    assert seeds(tmp_path / "two" / "val") == val
    reshape.split([folder], Split(to=str(tmp_path / "other"), fractions="train:0.8,val:0.2", seed=4))
    assert seeds(tmp_path / "other" / "val") != val
    assert validate(tmp_path / "one" / "train") == []


def test_splits_by_task_and_success(folder, tmp_path):
    reshape.split([folder], Split(to=str(tmp_path / "tasks"), by="task"))
    assert [path.name for path in sorted((tmp_path / "tasks").iterdir())] == ["00_task_number_0", "01_task_number_1"]
    reshape.split([folder], Split(to=str(tmp_path / "success"), by="success"))
    assert seeds(tmp_path / "success" / "failure") == list(range(0, 20, 3))


@pytest.mark.parametrize("text", ["train", "train:0.9", "a:0.5,a:0.5", "a:1.5,b:-0.5", "a:x,b:0.1"])
def test_wrong_fractions_are_named(folder, tmp_path, text):
    with pytest.raises(ValueError, match=f"fractions={text}"):
        reshape.split([folder], Split(to=str(tmp_path / "out"), fractions=text))


def test_a_part_that_gets_no_episode_is_named(folder, tmp_path):
    with pytest.raises(ValueError, match="leaves rare without an episode"):
        reshape.split([folder], Split(to=str(tmp_path / "out"), fractions="most:0.97,rare:0.03"))
    assert not (tmp_path / "out").exists()


def test_what_differs_from_its_checksum_gets_no_new_one(folder, tmp_path):
    shard = sorted(folder.glob("*.hdf5"))[0]
    with h5py.File(shard, "r+") as file:
        file["data/demo_0/rewards"][0] = 0.5
    for verb, options in (
        (reshape.merge, Merge(to=str(tmp_path / "out"))),
        (reshape.split, Split(to=str(tmp_path / "out"))),
    ):
        with pytest.raises(ValueError, match=f"{shard.name}.*differs from the manifest"):
            verb([folder], options)
    assert not (tmp_path / "out").exists()


def test_a_merge_keeps_every_byte_of_every_episode(folder, tmp_path):
    with TrajectoryWriter(tmp_path / "more", {}, {}, "w0") as out:
        out.write(episode(4, seed=99))
    reshape.merge([folder, tmp_path / "more"], Merge(to=str(tmp_path / "all"), episodes_per_shard=8))
    assert seeds(tmp_path / "all") == [*range(20), 99]
    before, after = open_trajectories(folder), open_trajectories(tmp_path / "all")
    where = {entry.seed: i for i, entry in enumerate(after.entries)}
    assert all(equal(before[i], after[where[entry.seed]]) for i, entry in enumerate(before.entries))
    assert after.summary()["files"] == 3 and validate(tmp_path / "all") == []


def test_a_merge_of_different_things_is_refused(folder, tmp_path):
    with TrajectoryWriter(tmp_path / "more", {}, {}, "w0") as out:
        out.write(episode(8, stride=4))
    with pytest.raises(ValueError, match=r"a frame every 4 steps, .* `acceerl data convert` one of them first"):
        reshape.merge([folder, tmp_path / "more"], Merge(to=str(tmp_path / "all")))
    libero_file(tmp_path / "a_demo.hdf5")
    with pytest.raises(ValueError, match="merge works on what acceerl wrote: `acceerl data import` it first"):
        reshape.merge([tmp_path / "a_demo.hdf5"], Merge(to=str(tmp_path / "all")))


def converted(folder: Path, tmp_path: Path, **options: object) -> Trajectories:
    reshape.convert([folder], Convert(to=str(tmp_path / "out"), **options), None)
    assert validate(tmp_path / "out") == []
    return open_trajectories(tmp_path / "out")


@pytest.mark.parametrize("options", [{"compression": "blosc2"}, {"compression": "none"}, {"frames_a_chunk": 3}])
def test_storage_changes_and_contents_do_not(folder, tmp_path, options):
    before, after = open_trajectories(folder), converted(folder, tmp_path, **options)
    assert all(equal(before[i], after[i]) for i in range(len(before)))
    assert (after.frames(3, "front", 1, 5) == before.frames(3, "front", 1, 5)).all()


def test_images_are_resized_and_cameras_left_out(folder, tmp_path):
    after = converted(folder, tmp_path, image_size=4, cameras="wrist")
    assert after.shapes(0) == {"wrist": (4, 4, 3), "proprio": (4,), "actions": (7,)}
    assert after[0].images["wrist"][2, 1:].tolist() == np.full((3, 4, 3), 2).tolist()
    with pytest.raises(ValueError, match="the data has no camera side, only front, wrist"):
        reshape.convert([folder], Convert(to=str(tmp_path / "other"), cameras="side"), None)


@pytest.mark.parametrize("field", ["actions", "states", "obs/proprio", "final_obs/proprio"])
def test_numbers_that_are_none_are_refused_by_file_demo_and_field(folder, tmp_path, field):
    shard = sorted(folder.glob("*.hdf5"))[1]
    with h5py.File(shard, "r+") as file:
        file[f"data/demo_2/{field}"][-1, 0] = np.nan
    to = str(tmp_path / "out")
    for make in (
        lambda: reshape.convert([folder], Convert(to=to), None),
        lambda: reshape.merge([folder], Merge(to=to)),
        lambda: reshape.split([folder], Split(to=to)),
    ):
        with pytest.raises(
            ValueError, match=rf"{shard}: demo_2 {field}: holds NaN or infinity: `acceerl data import on_"
        ):
            make()
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert [(f.demo, f.field) for f in validate(folder) if f.field != "sha256"] == [("demo_2", field)]


def tabletop(size: int):
    return from_dict({"env": {"_target_": "acceerl.envs.tabletop.TabletopEnv", "image_size": size}})


@pytest.fixture(scope="module")
def played():
    env = make_env(tabletop(32))
    rng = np.random.default_rng(0)
    assignment = Assignment(2, env.spec.train_states.start, 5)

    def actor(_):
        return lambda _: np.clip(rng.normal(0, 0.7, 7), -1, 1)

    yield env, play_episode(env, assignment, actor, Noise(), "policy")
    env.close()


def test_images_drawn_anew_are_those_that_were_recorded(played):
    env, one = played
    again = replay.drawn_anew(env, one, "it")
    assert equal(one, again)


def test_images_are_drawn_at_another_size_from_stored_states(played, tmp_path):
    _, one = played
    with TrajectoryWriter(tmp_path / "in", {}, {}, "w0") as out:
        out.write(one)
    reshape.convert([tmp_path / "in"], Convert(to=str(tmp_path / "out"), render="tabletop"), tabletop(48))
    after = open_trajectories(tmp_path / "out")[0]
    assert after.images["front"].shape == (len(one), 48, 48, 3)
    assert (after.states == one.states).all() and after.final_images["wrist"].std() > 0


def test_the_simulator_sees_images_that_are_late_or_turned(played):
    env, one = played
    assert replay.alignment(env, one, "it") == []
    late = {name: np.concatenate([frames[1:], frames[-1:]]) for name, frames in one.images.items()}
    turned = {name: frames[:, ::-1] for name, frames in one.images.items()}
    other = {name: np.roll(frames, 9, 0) for name, frames in one.images.items()}
    for images, words in ((late, "obs[t] was taken after actions[t]"), (turned, "upside down"), (other, "show")):
        found = replay.alignment(env, _with(one, images), "it")
        assert {field for field, _ in found} <= {"obs/front_rgb", "obs/wrist_rgb"}
        assert any(words in message for _, message in found), (words, found)


@pytest.mark.parametrize("steps", [-3, -2, 2, 3, 7])
def test_the_simulator_sees_images_that_are_some_steps_late_in_a_camera_that_stands_still(played, steps):
    env, one = played
    rows = np.clip(np.arange(len(one)) - steps, 0, len(one) - 1)
    images = {**one.images, "front": one.images["front"][rows]}
    [(field, message)] = replay.alignment(env, _with(one, images), "it")
    assert field == "obs/front_rgb"
    assert f"show the state {abs(steps)} rows {'earlier' if steps > 0 else 'later'}" in message


def _with(one, images):
    from dataclasses import replace

    return replace(one, images=images)


def test_an_environment_that_cannot_take_the_states_says_so(played):
    env, _ = played
    with pytest.raises(ValueError, match="TabletopEnv does not take its states"):
        replay.drawn_anew(env, episode(3), "it")
