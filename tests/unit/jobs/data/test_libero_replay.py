"""LIBERO's published layout, written by the simulator itself: imported, drawn anew from its states, checked by them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from acceerl.envs.libero import LiberoEnv
from acceerl.jobs.data import replay
from acceerl.launch.cli import main
from acceerl.stores.layouts import still_bodies
from acceerl.stores.reader import open_trajectories
from acceerl.stores.writer import TrajectoryWriter
from tests.unit.envs.libero_cases import simulator
from tests.unit.stores.examples import episode

SUITE, TASK, SIZE, ROWS = "libero_spatial", 4, 64, 10  # a drawer stands open: its cabinet is placed anew each episode
KEYS = {"agentview": "agentview_rgb", "wrist": "eye_in_hand_rgb"}


@pytest.fixture(scope="module")
def env() -> Iterator[LiberoEnv]:
    env = LiberoEnv(SUITE, image_size=SIZE, scenes=1)
    yield env
    env.close()


def demonstration(env: LiberoEnv, file: Path) -> None:
    """One demo as LIBERO's own script writes it: states before the actions, images after them, upside down."""
    env.reset(TASK, env.spec.train_states.start + 3, 0)
    closing = np.arange(ROWS) >= 3
    actions = np.random.default_rng(0).uniform(-1, 1, (ROWS, 7))
    actions[:, 6] = np.where(closing, 1, -1)
    model, states, seen = env.scene.sim.model.get_xml(), [], []
    for action in actions:
        states.append(env.scene.sim.get_state().flatten())
        env.step(action)
        seen.append(env.observe())
    with h5py.File(file, "w") as out:
        data = out.create_group("data")
        data.attrs["problem_info"] = json.dumps({"language_instruction": "other words"})
        data.attrs["bddl_file_name"] = env.suite.bddl(TASK)
        demo = data.create_group("demo_0")
        demo.attrs["model_file"] = model
        demo["actions"], demo["states"] = actions, np.stack(states)
        demo["rewards"] = demo["dones"] = (np.arange(ROWS) == ROWS - 1).astype(np.uint8)
        for camera, key in KEYS.items():
            demo[f"obs/{key}"] = np.stack([o.images[camera][::-1] for o in seen])
        demo["obs/ee_states"] = np.stack([o.proprio[:6] for o in seen])
        demo["obs/gripper_states"] = np.stack([o.proprio[6:] for o in seen])


@pytest.fixture(scope="module")
def imported(env: LiberoEnv, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("libero")
    (folder / "in").mkdir()
    demonstration(env, folder / "in" / "a_demo.hdf5")
    assert main(["data", "import", str(folder / "in"), f"to={folder / 'out'}"]) == 0
    return folder


def grey_levels(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other).mean())


@simulator
def test_images_of_published_states_are_drawn_at_another_size_and_shown_to_be_right(imported, capsys):
    words = ["render=libero", f"suite={SUITE}"]
    assert main(["data", "convert", str(imported / "out"), f"to={imported / 'small'}", "image_size=32", *words]) == 0
    [before], [after] = open_trajectories(imported / "out"), open_trajectories(imported / "small")
    assert after.images["wrist"].shape == (ROWS - 1, 32, 32, 3)
    assert np.array_equal(after.states, before.states) and after.fixtures == before.fixtures
    assert len(after.fixtures) > 2 and after.instruction == before.instruction
    np.testing.assert_allclose(after.proprio, before.proprio, atol=0.02)
    np.testing.assert_allclose(after.final_proprio, before.final_proprio, atol=0.02)
    for folder in ("in", "small"):  # the published file itself, too
        assert main(["data", "validate", str(imported / folder), *words]) == 0, capsys.readouterr().out


@simulator
def test_the_same_size_gives_the_same_images_the_last_one_too(imported, env):
    """But for the four milliseconds by which robosuite's pictures are older than its states."""
    [one] = open_trajectories(imported / "out")
    again = replay.drawn_anew(env, one, "it")
    moved = replay.drawn_anew(env, replace(one, fixtures={}), "it")
    for camera, frames in one.images.items():
        assert grey_levels(again.images[camera], frames) < 1.5
        assert grey_levels(again.final_images[camera], one.final_images[camera]) < 1.5
    assert grey_levels(moved.images["agentview"], one.images["agentview"]) > 2 * grey_levels(
        again.images["agentview"], one.images["agentview"]
    ), "where the cabinet stands makes no difference: the test shows nothing"


@simulator
def test_late_and_turned_images_and_another_suite_are_named(imported, env, capsys):
    [one] = open_trajectories(imported / "out")
    late = {camera: np.concatenate([frames[:1]] * 3 + [frames[:-3]]) for camera, frames in one.images.items()}
    turned = {camera: frames[:, ::-1] for camera, frames in one.images.items()}
    for images, says in ((late, "show"), (turned, "are upside down")):
        found = replay.alignment(env, replace(one, images=images), "it")
        assert any(says in message for field, message in found if field == "obs/wrist_rgb"), found
    assert main(["data", "validate", str(imported / "out"), "render=libero", "suite=libero_goal"]) == 1
    assert "no task is called 'pick up the black bowl in the top drawer" in capsys.readouterr().out


def test_where_libero_is_missing_one_line_says_so(tmp_path, monkeypatch, capsys):
    def absent(assets: str = "") -> None:
        raise RuntimeError("LIBERO is not installed (no package 'libero'): make libero")

    monkeypatch.setattr("acceerl.envs.libero.env.load", absent)
    with TrajectoryWriter(tmp_path / "in", {}, {}, "w0") as out:
        out.write(episode(3))
    for words in (["validate", str(tmp_path / "in")], ["convert", str(tmp_path / "in"), f"to={tmp_path / 'out'}"]):
        assert main(["data", *words, "render=libero"]) == 2
        [line] = capsys.readouterr().err.strip().splitlines()
        assert "LIBERO is not installed" in line
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_what_stands_still_is_read_from_the_model():
    model = """<mujoco><worldbody><light/><body name="cabinet" pos="1 2 3" quat="0 0 0 1"><body name="drawer"/></body>
        <body name="bowl" pos="1 1 1"><freejoint/></body><body name="pot"><joint type="free"/></body>
        <body name="stove" pos="0.5 0 1"/></worldbody></mujoco>"""
    assert still_bodies(model) == {"cabinet": [1, 2, 3, 0, 0, 0, 1], "stove": [0.5, 0, 1, 1, 0, 0, 0]}
    assert still_bodies("") == still_bodies("<mujoco") == still_bodies("<mujoco/>") == {}
