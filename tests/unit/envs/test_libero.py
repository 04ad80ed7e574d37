"""LiberoEnv on the real simulator: upright frames, success, limits, states, errors. Equality: test_libero_stock.py."""

from __future__ import annotations

import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acceerl.envs.libero import LiberoEnv
from acceerl.envs.libero import env as libero_env
from acceerl.envs.libero.frustum import Frustum
from acceerl.envs.libero.install import find_assets, missing
from acceerl.envs.libero.placement import placement_rng
from acceerl.envs.libero.scene import NO_OP
from acceerl.envs.libero.suites import STEP_LIMITS
from tests.unit.envs.libero_cases import actions, simulator

BOWL, PLATE = "akita_black_bowl_1", "plate_1"


@pytest.fixture(scope="module")
def env() -> Iterator[LiberoEnv]:
    env = LiberoEnv("libero_spatial", image_size=128, scenes=2)
    yield env
    env.close()


def place(env: LiberoEnv, thing: str, position: np.ndarray) -> None:
    """Puts an object somewhere, upright and at rest."""
    data, joint = env.scene.sim.data, f"{thing}_joint0"
    orientation = data.get_joint_qpos(joint)[3:]
    data.set_joint_qpos(joint, np.concatenate((position, orientation)))
    data.set_joint_qvel(joint, np.zeros(6))


def position(env: LiberoEnv, thing: str) -> np.ndarray:
    return env.scene.sim.data.get_joint_qpos(f"{thing}_joint0")[:3].copy()


def pixel(sim: Any, point: np.ndarray, size: int) -> tuple[int, int]:
    """Row and column at which an upright, unmirrored picture of agentview shows a point of the world."""
    camera = sim.model.camera_name2id("agentview")
    x, y, z = sim.data.cam_xmat[camera].reshape(3, 3).T @ (point - sim.data.cam_xpos[camera])
    focal = size / 2 / np.tan(np.radians(sim.model.cam_fovy[camera]) / 2)
    return round(size / 2 - focal * y / -z), round(size / 2 + focal * x / -z)


@simulator
@pytest.mark.parametrize(("suite", "limit"), STEP_LIMITS.items())
def test_every_suite_has_its_tasks_and_its_published_limit(suite: str, limit: int) -> None:
    spec = LiberoEnv(suite).spec
    assert spec.n_tasks == (90 if suite == "libero_90" else 10)
    assert set(spec.step_limits) == {limit}
    assert spec.eval_states == range(50)
    assert spec.train_states == range(50, 100_000)


@simulator
def test_frames_are_upright_and_not_mirrored(env: LiberoEnv) -> None:
    env.reset(0, 0, 0)
    picture = env.observe().images["agentview"].mean(-1)
    bowl, plate = (pixel(env.scene.sim, position(env, thing), 128) for thing in (BOWL, PLATE))
    assert picture[bowl] < 60, "the black bowl is not where the camera sees it"
    assert picture[plate] > 150, "the white plate is not where the camera sees it"
    upside_down, mirrored = picture[::-1], picture[:, ::-1]
    assert upside_down[bowl] > 60 or upside_down[plate] < 150
    assert mirrored[bowl] > 60 or mirrored[plate] < 150
    hand = pixel(env.scene.sim, env.observe().proprio[:3], 128)
    assert hand[0] < plate[0], "the gripper above the table is not higher in the picture than the plate"


@simulator
def test_rotated_frames_are_mirrored_ones(env: LiberoEnv) -> None:
    """LIBERO's images turned by 180 degrees, as the OpenVLA family sees them."""
    other = LiberoEnv("libero_spatial", image_size=128, orientation="rotated")
    env.reset(0, 0, 0)
    other.reset(0, 0, 0)
    for name, image in other.observe().images.items():
        np.testing.assert_array_equal(image, env.observe().images[name][:, ::-1])
    other.close()


@simulator
def test_fast_frames_show_the_same_scene(env: LiberoEnv) -> None:
    """Other pixels, since edges are not smoothed and nothing is mirrored, but of the same things."""
    fast = LiberoEnv("libero_spatial", image_size=128, render="fast")
    env.reset(0, 0, 0)
    fast.reset(0, 0, 0)
    np.testing.assert_array_equal(fast.state(), env.state())
    for name, image in fast.observe().images.items():
        difference = np.abs(image.astype(int) - env.observe().images[name])
        assert 0 < difference.mean() < 8
    fast.close()


@simulator
def test_what_is_not_drawn_would_not_be_seen(env: LiberoEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """The arm on its way through both pictures and over the stove, which is a mirror."""
    env.reset(0, 0, 0)
    env.observe()
    assert env.scene._painter is not None
    hidden = 0
    for towards in np.array([[1, 0, 0], [0, 1, -1], [-1, -1, 0], [0, -1, 1]], float):
        env.step_chunk(np.tile(np.concatenate((towards, towards, [1.0])), (12, 1)))
        drawn = env.observe().images
        with monkeypatch.context() as patch:
            patch.setattr(Frustum, "hide", lambda *_: None)
            everything = env.observe().images
        for name, image in drawn.items():
            np.testing.assert_array_equal(image, everything[name])
        env.scene._painter._frustum.hide(env.scene._seen, env.scene.sim.model.camera_name2id("robot0_eye_in_hand"))
        groups = env.scene.sim.model._model.geom_group
        hidden += int((groups != env.scene._painter._frustum._groups).sum())
        env.scene._painter._frustum.show()
    assert hidden > 40, "nothing is left out: the test shows nothing"


@simulator
def test_a_chunk_ends_with_the_episode(env: LiberoEnv) -> None:
    env.reset(0, 60, 0)
    late = env.state()
    late[2] = 215
    env.set_state(late)
    results = env.step_chunk(actions(8))
    assert [r.truncated for r in results] == [False] * 4 + [True]


@simulator
def test_a_picture_is_restored_with_the_state(env: LiberoEnv) -> None:
    """It shows an instant shortly before the state's own."""
    env.reset(0, 0, 0)
    env.step_chunk(actions(5))
    saved, before = env.state(), env.observe()
    env.step_chunk(actions(5))
    env.set_state(saved)
    for name, image in env.observe().images.items():
        np.testing.assert_array_equal(image, before.images[name])


@simulator
def test_a_published_simulator_state_is_shown_as_it_was_seen(env: LiberoEnv) -> None:
    env.reset(0, init_state=0, seed=0)
    env.step_chunk(np.tile([0.5, 0.0, -0.5, 0.0, 0.0, 0.0, -1.0], (10, 1)))
    published = env.scene.sim.get_state().flatten()
    env.set_simulator_state(0, published)
    once = env.observe()
    env.reset(0, init_state=1, seed=0)
    another = env.observe()
    env.set_simulator_state(0, published)
    again = env.observe()
    for name, picture in once.images.items():
        assert np.array_equal(again.images[name], picture)
        assert not np.array_equal(another.images[name], picture)
    assert np.array_equal(again.proprio, once.proprio)
    assert np.array_equal(env.scene.sim.get_state().flatten(), published)
    with pytest.raises(ValueError, match="a simulator state of this task has"):
        env.set_simulator_state(0, published[:-1])
    with pytest.raises(ValueError, match="has tasks 0 to 9, got 10"):
        env.set_simulator_state(10, published)


@simulator
def test_no_more_scenes_stay_than_were_asked_for(env: LiberoEnv) -> None:
    env.reset(0, 0, 0)
    kept = env.scene
    env.reset(1, 0, 0)
    env.reset(0, 1, 0)
    assert env.scene is kept
    oldest = weakref.ref(env._scenes[1]._env)
    env.reset(2, 0, 0)
    assert sorted(env._scenes) == [0, 2]
    assert oldest() is None, "a scene that is given up leaks"


@simulator
def test_evaluation_states_are_the_published_ones(env: LiberoEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libero_env, "SETTLING_STEPS", 1)
    published = env.suite.initial_states(0)
    assert published.shape[0] == len(env.spec.eval_states)
    env.reset(0, 11, 0)
    plate = published[11][1:][env.scene.sim.model.get_joint_qpos_addr(f"{PLATE}_joint0")[0] :][:3]
    np.testing.assert_allclose(position(env, PLATE)[:2], plate[:2], atol=2e-3)


@simulator
def test_a_bowl_on_the_plate_is_success_and_survives_a_round_trip(env: LiberoEnv) -> None:
    env.reset(0, 0, 0)
    place(env, BOWL, position(env, PLATE) + np.array([0, 0, 0.03]))
    outcomes = [env.step(NO_OP) for _ in range(20)]
    assert outcomes[-1].terminated
    assert outcomes[-1].reward == 1
    assert not outcomes[-1].truncated
    assert env.success
    done = env.state()
    env.reset(0, 0, 0)
    assert not env.success
    env.set_state(done)
    assert env.success
    assert env.step(NO_OP).terminated


@simulator
def test_the_published_limit_truncates(env: LiberoEnv) -> None:
    env.reset(0, 60, 0)
    late = env.state()
    late[2] = 217  # steps so far: 220 real ones take long
    env.set_state(late)
    outcomes = [env.step(NO_OP) for _ in range(3)]
    assert [o.truncated for o in outcomes] == [False, False, True]
    assert not any(o.terminated for o in outcomes)


@simulator
def test_two_scenes_alive_draw_their_own_pictures(env: LiberoEnv) -> None:
    """robosuite does not make a scene's GL context current again by itself."""
    env.reset(0, 0, 0)
    state, before = env.state(), env.observe().images
    env.reset(1, 0, 0)
    other = env.observe().images
    env.set_state(state)
    assert env.observe().instruction == env.spec.instructions[0]
    for name, image in env.observe().images.items():
        np.testing.assert_array_equal(image, before[name])
    assert (other["agentview"] != before["agentview"]).any()


@simulator
def test_misuse_is_refused_by_name(env: LiberoEnv) -> None:
    fresh = LiberoEnv("libero_goal")
    with pytest.raises(ValueError, match="call reset first"):
        fresh.step(NO_OP)
    env.reset(0, 0, 0)
    with pytest.raises(ValueError, match="7 numbers"):
        env.step(np.zeros(4, np.float32))
    with pytest.raises(ValueError, match="state of libero_spatial"):
        env.set_state(np.full(9, 77.0))
    with pytest.raises(ValueError, match="entries"):
        env.set_state(np.zeros(9))


def test_unknown_parts_are_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="libero_goal"):
        LiberoEnv("libero_91")
    with pytest.raises(ValueError, match="agentview"):
        LiberoEnv(cameras=("front",))
    with pytest.raises(ValueError, match="scenes"):
        LiberoEnv(scenes=0)
    with pytest.raises(ValueError, match="exact, fast"):
        LiberoEnv(render="slow")
    with pytest.raises(ValueError, match="upright, rotated"):
        LiberoEnv(orientation="turned")


def test_missing_assets_are_named_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=f"not at {tmp_path}.*ACCEERL_LIBERO_ASSETS"):
        find_assets(str(tmp_path), tmp_path)
    monkeypatch.setenv("ACCEERL_LIBERO_ASSETS", str(tmp_path / "none"))
    assert missing() != ""


def test_placements_leave_the_global_generator_alone() -> None:
    before = np.random.get_state()[1]  # noqa: NPY002
    with placement_rng(1, 2):
        first = np.random.random()  # noqa: NPY002
    with placement_rng(1, 2):
        assert np.random.random() == first  # noqa: NPY002
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@simulator
def test_starting_asks_nothing_says_nothing_and_leaves_the_home_folder_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "LIBERO_CONFIG_PATH"} | {"HOME": str(home)}
    code = "from acceerl.envs.libero import LiberoEnv; LiberoEnv()"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (home / ".libero").exists()
