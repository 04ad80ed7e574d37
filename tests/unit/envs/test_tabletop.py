"""TabletopEnv: its layouts, its physics and its pictures. How it is solved is tested in test_tabletop_expert.py."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from acceerl.envs.tabletop import SUITES, TabletopEnv
from acceerl.envs.tabletop.layouts import EVAL_STATES, SLOTS, TRAIN_STATES, layout
from acceerl.envs.tabletop.scene import OPEN


@pytest.fixture
def env() -> TabletopEnv:
    return TabletopEnv("spatial")


def drive(env: TabletopEnv, *action: float, steps: int) -> None:
    for _ in range(steps):
        env.step(np.array(action, np.float32))


def test_four_suites_of_ten_tasks() -> None:
    assert list(SUITES) == ["spatial", "object", "goal", "long"]
    for suite in SUITES.values():
        assert len({task.instruction for task in suite.tasks}) == 10
        assert len({task.goals for task in suite.tasks}) == 10


def test_unknown_suite_and_camera_list_the_choices() -> None:
    with pytest.raises(ValueError, match="'moon': choose one of spatial, object, goal, long"):
        TabletopEnv("moon")
    with pytest.raises(ValueError, match="choose from front, wrist"):
        TabletopEnv(cameras=("back",))


def test_a_bad_reset_names_the_suite_and_the_range(env: TabletopEnv) -> None:
    with pytest.raises(ValueError, match=r"'spatial': task 10 is not in 0\.\.9"):
        env.reset(10, 0, 0)
    with pytest.raises(ValueError, match=r"'spatial': init_state 100050 is not in 0\.\.100049"):
        env.reset(0, EVAL_STATES.stop, 0)


def test_evaluation_layouts_are_not_among_training_ones() -> None:
    sample = [*TRAIN_STATES[:10_000], *TRAIN_STATES[-1000:]]
    train = {layout(i).items.tobytes() for i in sample}
    assert not train & {layout(i).items.tobytes() for i in EVAL_STATES}


def test_every_item_visits_every_slot_and_every_place_every_side_equally() -> None:
    layouts = [layout(i) for i in range(2000)]
    slots = Counter(tuple(np.abs(SLOTS - entry.items[0]).sum(1).argsort()[:1]) for entry in layouts)
    sides = Counter(bool(entry.places[0, 0] > 0) for entry in layouts)
    assert len(slots) == 5
    assert min(slots.values()) > 320
    assert min(sides.values()) > 900


def test_the_scene_does_not_depend_on_the_task(env: TabletopEnv) -> None:
    """Otherwise an image would tell the task, and the instruction would be idle."""
    physics = []
    for task in range(env.spec.n_tasks):
        env.reset(task, 7, seed=3)
        physics.append(env.world.state())
    assert len({state.tobytes() for state in physics}) == 1


def test_items_rest_where_they_are_put(env: TabletopEnv) -> None:
    env.reset(0, 0, 0)
    before = {name: env.world.position(name).copy() for name in env.world.suite.items}
    drive(env, 0, 0, 0, 0, 0, 0, -1, steps=20)
    for name, position in before.items():
        np.testing.assert_allclose(env.world.position(name), position, atol=1e-3)


def test_actions_move_the_gripper_as_documented(env: TabletopEnv) -> None:
    env.reset(0, 0, 0)
    before = np.concatenate([env.world.gripper, env.world.angles])
    drive(env, 0.5, -1, 0, 1, 0, -1, -1, steps=1)
    drive(env, 0, 0, 0, 0, 0, 0, -1, steps=2)
    moved = np.concatenate([env.world.gripper, env.world.angles]) - before
    np.testing.assert_allclose(moved[:3], [0.015, -0.03, 0], atol=1e-3)
    np.testing.assert_allclose(moved[3:], [0.1, 0, -0.1], atol=1e-2)


def test_the_last_entry_closes_and_opens(env: TabletopEnv) -> None:
    env.reset(0, 0, 0)
    drive(env, 0, 0, 0, 0, 0, 0, 1, steps=8)
    assert env.world.opening < 0.01
    drive(env, 0, 0, 0, 0, 0, 0, -1, steps=8)
    assert env.world.opening == pytest.approx(2 * OPEN, abs=0.005)


def test_the_gripper_stays_within_reach(env: TabletopEnv) -> None:
    env.reset(0, 0, 0)
    drive(env, 1, 1, -1, 1, 1, 1, -1, steps=30)
    assert np.isfinite(env.state()).all()
    assert np.abs(env.world.gripper[:2]).max() < 0.26
    assert env.world.gripper[2] > 0


def test_step_never_renders(env: TabletopEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acceerl.envs.tabletop.env.Cameras", None)
    env.reset(0, 0, 0)
    drive(env, 0, 0, 0, 0, 0, 0, -1, steps=3)
    with pytest.raises(TypeError):
        env.observe()


def test_a_button_that_is_down_stays_down_and_lights_up() -> None:
    env = TabletopEnv("goal", cameras=("front",))
    env.reset(9, 0, 0)
    dark = env.observe().images["front"]
    env.world.data.joint("cap").qpos[0] = 0.018
    drive(env, 0, 0, 0, 0, 0, 0, -1, steps=10)
    lit = env.observe().images["front"]
    env.close()
    assert env.success
    assert (np.abs(lit.astype(int) - dark).max(axis=2) > 80).sum() >= 15


def test_a_restored_state_gives_the_same_picture(env: TabletopEnv) -> None:
    env.reset(0, 0, 0)
    drive(env, 0, -1, -1, 0, 0, 0.5, 1, steps=4)
    state, images = env.state(), env.observe().images
    env.reset(3, 1, 1)
    env.set_state(state)
    for name, image in env.observe().images.items():
        np.testing.assert_array_equal(image, images[name])
    env.close()


@pytest.mark.parametrize(("suite", "colours"), [
    ("spatial", {"red": (1, 0, 0), "yellow": (1, 1, 0), "blue": (0, 0, 1), "green": (0, 1, 0), "purple": (1, 0, 1)}),
    ("object", {"soup": (1, 0, 0), "butter": (1, 1, 0), "bin": (0, 0, 1), "lime": (0, 1, 0), "juice": (1, 0, 1)}),
    ("goal", {"soup": (1, 0, 0), "butter": (1, 1, 0), "cabinet": (0, 1, 1), "drawer": (0, 1, 0), "button": (1, 0, 1)}),
])  # fmt: skip
def test_every_colour_shows_in_the_front_picture(suite: str, colours: dict[str, tuple[int, int, int]]) -> None:
    env = TabletopEnv(suite, cameras=("front",))
    for init_state in range(4):
        env.reset(0, init_state, 0)
        image = env.observe().images["front"].astype(int)
        for name, colour in colours.items():
            on, off = image[..., np.array(colour) == 1], image[..., np.array(colour) == 0]
            assert (on.min(axis=2) - off.max(axis=2) > 60).sum() >= 12, f"{name} is hidden in layout {init_state}"
    env.close()


def test_the_front_picture_is_right_side_up(env: TabletopEnv) -> None:
    """Places stand nearer to the camera than items, so the white plate is in the lower half."""
    env.reset(0, 0, 0)
    white = env.observe().images["front"].min(axis=2) > 235
    env.close()
    assert white[32:].sum() > 3 * white[:32].sum()


def test_a_missing_gl_library_is_one_clear_line() -> None:
    code = "import sys; sys.modules['OpenGL'] = None; import acceerl.envs.tabletop"
    env = os.environ | {"MUJOCO_GL": "osmesa"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("RuntimeError: MuJoCo cannot load the GL backend MUJOCO_GL=osmesa")
    assert "apt-get install libosmesa6" in last


def test_neither_torch_nor_hydra_is_loaded() -> None:
    code = "import sys, acceerl.envs.tabletop; print(sorted({'torch', 'hydra'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_two_envs_take_turns_in_one_process() -> None:
    """Each renders into its own GL context, whichever rendered last."""
    envs = [TabletopEnv("spatial", image_size=size) for size in (64, 48)]
    for init_state, env in enumerate(envs):
        env.reset(0, init_state, 0)
    first = [env.observe().images["front"] for env in envs]
    for env, image in zip(envs, first, strict=True):
        np.testing.assert_array_equal(env.observe().images["front"], image)
    envs[0].close()
    np.testing.assert_array_equal(envs[1].observe().images["front"], first[1])
    envs[1].close()
