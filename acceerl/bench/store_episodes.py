"""Episodes for `bench store`: made up on the fly, or played with random actions in a simulator, which draws them."""

from __future__ import annotations

import os

import numpy as np

from acceerl.config import from_dict
from acceerl.jobs.build import make_env
from acceerl.jobs.play import Noise, play_episode
from acceerl.stores.schema import Episode
from acceerl.types import Assignment

CAMERAS = ("front", "wrist")
ENVS = {"tabletop": "acceerl.envs.tabletop.TabletopEnv", "libero": "acceerl.envs.libero.LiberoEnv"}


def made_up(number: int, steps: int, size: int) -> Episode:
    """An episode whose frames compress like rendered ones."""
    rng = np.random.default_rng(number)
    images = {camera: _frames(rng, steps + 1, size) for camera in CAMERAS}
    done = np.arange(steps) == steps - 1
    proprio = rng.standard_normal((steps + 1, 8)).astype(np.float32)
    return Episode(
        {camera: frames[:-1] for camera, frames in images.items()}, proprio[:-1],
        rng.uniform(-1, 1, (steps, 7)).astype(np.float32), done.astype(np.float32), done.astype(np.uint8),
        {camera: frames[-1] for camera, frames in images.items()}, proprio[-1], "do something", terminated=True,
        seed=number,
    )  # fmt: skip


def _frames(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """uint8 [count, size, size, 3]: a shaded table with a square that wanders over it."""
    shade = np.linspace(40, 200, size)[:, None, None] + np.linspace(0, 40, size)[None, :, None] + np.arange(3) * 5
    frames = np.repeat(shade[None], count, axis=0) + (rng.random((count, size, size, 1)) < 0.05)
    side = max(1, size // 6)
    path = np.cumsum(rng.integers(-2, 3, (count, 2)), axis=0) % (size - side)
    for frame, (row, column) in zip(frames, path, strict=True):
        frame[row : row + side, column : column + side] = (200, 30, 30)
    return frames.astype(np.uint8)


def rendered(kind: str, count: int, steps: int, size: int) -> list[Episode]:
    """Episodes of `tabletop` or `libero`, the tasks in turn. Raises ValueError when the simulator is not there."""
    os.environ.setdefault("MUJOCO_GL", "osmesa")
    os.environ.setdefault("PYOPENGL_PLATFORM", os.environ["MUJOCO_GL"])
    env = make_env(from_dict({"env": {"_target_": ENVS[kind], "image_size": size, "step_limit": steps}}))
    rng = np.random.default_rng(0)
    state, tasks = env.spec.train_states.start, env.spec.n_tasks

    def act(_: object) -> np.ndarray:
        return np.clip(rng.normal(0, 0.6, env.spec.action_dim), -1, 1).astype(np.float32)

    try:
        per_task = -(-count // tasks)  # a task's episodes one after the other: scenes are slow to build
        plan = [Assignment(i // per_task, state + i, i) for i in range(count)]
        return [play_episode(env, assignment, lambda _: act, Noise(), "policy") for assignment in plan]
    finally:
        env.close()
