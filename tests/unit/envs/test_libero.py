"""LiberoEnv on the real simulator: exactness against stock robosuite, upright frames, success, limits, errors."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acceerl.envs.gl import choose_gl
from acceerl.envs.libero import LiberoEnv
from acceerl.envs.libero import env as libero_env
from acceerl.envs.libero.install import find_assets, import_any, missing
from acceerl.envs.libero.scene import NO_OP, placement_rng

WHY_NOT = missing()
BOWL, PLATE = "akita_black_bowl_1", "plate_1"


def simulator(test: Callable[..., None]) -> Callable[..., None]:
    """Marks a test that runs the real thing; the others check what users see without it."""
    return pytest.mark.libero(pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)(test))


@pytest.fixture(scope="module")
def env() -> Iterator[LiberoEnv]:
    env = LiberoEnv("libero_spatial", image_size=128, scenes=2)
    yield env
    env.close()


def actions(n: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (n, 7)).astype(np.float32)


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
@pytest.mark.parametrize(("suite", "limit"), libero_env.STEP_LIMITS.items())
def test_every_suite_has_ten_tasks_and_its_published_limit(suite: str, limit: int) -> None:
    spec = LiberoEnv(suite).spec
    assert spec.n_tasks == 10
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
def test_frames_are_robosuites_rows_reversed(env: LiberoEnv) -> None:
    env.reset(0, 0, 0)
    images = env.observe().images
    for ours, theirs in (("agentview", "agentview"), ("wrist", "robot0_eye_in_hand")):
        raw = env.scene.sim.render(camera_name=theirs, height=128, width=128)
        np.testing.assert_array_equal(images[ours], raw[::-1])


@simulator
def test_physics_equals_stock_robosuite_bitwise(env: LiberoEnv) -> None:
    """Against LIBERO's own wrapper with its hard reset, from the same fixed initial state."""
    bddl, states = env._files[0]
    cameras_off = {"use_camera_obs": False, "has_offscreen_renderer": False}
    stock = import_any("libero.libero.envs.env_wrapper").ControlEnv(bddl, **cameras_off)
    with placement_rng(0, 7):
        stock.env.reset()
    stock.set_init_state(libero_env._init_states(states)[7])
    for _ in range(libero_env.SETTLING_STEPS):
        stock.step(NO_OP)
    env.reset(0, 3, 0)  # another episode first: nothing of it may be left
    env.step(actions(1)[0])
    env.reset(0, 7, 0)
    for action in actions(8):
        stock.step(action.astype(np.float64))
        env.step(action)
        np.testing.assert_array_equal(env.scene.sim.get_state().flatten(), stock.get_sim_state())
    stock.close()


@simulator
def test_evaluation_states_are_the_published_ones(env: LiberoEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libero_env, "SETTLING_STEPS", 1)
    published = libero_env._init_states(env._files[0][1])
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
@pytest.mark.slow
@pytest.mark.parametrize("suite", ["libero_object", "libero_goal", "libero_10"])
def test_a_task_of_every_other_suite_plays(suite: str) -> None:
    env = LiberoEnv(suite, image_size=(64, 96), cameras=("agentview",), scenes=1)
    for init_state in (0, 50):
        env.reset(3, init_state, 0)
        assert not env.step(actions(1)[0]).terminated
    observation = env.observe()
    assert observation.images["agentview"].shape == (64, 96, 3)
    assert observation.images["agentview"].std() > 10
    env.close()


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
        LiberoEnv("libero_90")
    with pytest.raises(ValueError, match="agentview"):
        LiberoEnv(cameras=("front",))
    with pytest.raises(ValueError, match="scenes"):
        LiberoEnv(scenes=0)


def test_missing_assets_are_named_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=f"not at {tmp_path}.*ACCEERL_LIBERO_ASSETS"):
        find_assets(str(tmp_path), tmp_path)
    monkeypatch.setenv("ACCEERL_LIBERO_ASSETS", str(tmp_path / "none"))
    assert missing() != ""


def test_gl_follows_the_visible_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    choose_gl()
    assert os.environ["MUJOCO_GL"] == os.environ["PYOPENGL_PLATFORM"] == "osmesa"
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8c3b")
    with pytest.raises(RuntimeError, match="CUDA_VISIBLE_DEVICES"):
        choose_gl()


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
