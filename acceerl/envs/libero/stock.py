"""LIBERO's own environment, as its evaluations use it: what ours is compared with. Nothing here runs in a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from acceerl.envs.libero.env import CAMERAS, LiberoEnv
from acceerl.envs.libero.install import explained, import_any
from acceerl.envs.libero.placement import placement_rng


class Stock:
    """LIBERO's OffScreenRenderEnv for one task, stepped and reset as it wants to be.

    size: pixels a side; 0 leaves cameras out. `cameras` by LIBERO's names.
    """

    def __init__(self, bddl: str, size: int, cameras: Sequence[str] = tuple(CAMERAS.values())) -> None:
        wrappers = import_any("libero.libero.envs.env_wrapper")
        with explained():
            if size:
                self.env: Any = wrappers.OffScreenRenderEnv(
                    bddl_file_name=bddl, camera_heights=size, camera_widths=size, camera_names=list(cameras)
                )
            else:
                self.env = wrappers.ControlEnv(bddl, use_camera_obs=False, has_offscreen_renderer=False)

    def reset(self, entropy: tuple[int, ...], initial: np.ndarray | None) -> dict[str, Any]:
        """`reset`, then `set_init_state` where there is one; returns LIBERO's observations."""
        with placement_rng(*entropy):
            seen: dict[str, Any] = self.env.reset()
        return seen if initial is None else dict(self.env.set_init_state(initial))

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool]:
        """Observations, reward, whether the goal holds."""
        seen, reward, done, _ = self.env.step(np.asarray(action, np.float64))
        return seen, float(reward), bool(done)

    def state(self) -> np.ndarray:
        """float64 [1 + nq + nv]: time, positions, velocities."""
        return np.asarray(self.env.get_sim_state())

    def close(self) -> None:
        self.env.close()


def pictures(seen: dict[str, Any]) -> dict[str, np.ndarray]:
    """The two cameras of a stock observation by our names, right side up."""
    return {ours: np.asarray(seen[f"{theirs}_image"])[::-1] for ours, theirs in CAMERAS.items()}


def stock_of(env: LiberoEnv, task: int, cameras: bool = True) -> Stock:
    """The stock environment of one of our env's tasks, with pictures of its height."""
    return Stock(env.suite.bddl(task), env.spec.image_size[0] if cameras else 0)


def vector_of(env: LiberoEnv, task: int, processes: int) -> Any:
    """LIBERO's SubprocVectorEnv of `processes` stock environments of one of our env's tasks."""
    venv, wrappers = import_any("libero.libero.envs.venv"), import_any("libero.libero.envs.env_wrapper")
    bddl, (height, width) = env.suite.bddl(task), env.spec.image_size
    arguments = {"bddl_file_name": bddl, "camera_heights": height, "camera_widths": width}
    return venv.SubprocVectorEnv([lambda: wrappers.OffScreenRenderEnv(**arguments)] * processes)
