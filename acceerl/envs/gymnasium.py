"""GymnasiumEnv: any Gymnasium environment with a continuous action behind the Env protocol; one task, no language.

Its simulator's own state is reached for `state()` where it is plain numbers: `unwrapped.state` (classic control)
or MuJoCo's model and data.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from acceerl.envs.gl import choose_gl
from acceerl.types import EnvSpec, Observation, StepResult

TRAIN_STATES = range(100_000)
EVAL_STATES = range(100_000, 100_100)
_EPISODE = 4  # init_state, seed, steps, success


class GymnasiumEnv:
    """One Gymnasium environment; satisfies `acceerl.protocols.Env`.

    `proprio` is the flattened Box observation, actions in [-1, 1] are stretched to the Box of actions. The initial
    state's index and the seed both seed Gymnasium's reset. Success is `info["is_success"]` where the environment
    reports it; else every termination counts as success, since Gymnasium does not tell a fall from a goal.

    id: what `gymnasium.make` takes. instruction: the task in words, by default the id. step_limit: control steps
    per episode, by default the registered one. camera: render `rgb_array` as camera `front`. options: passed on.

    Raises RuntimeError without Gymnasium, ValueError for an environment that does not fit.
    """

    def __init__(
        self, id: str, instruction: str = "", step_limit: int | None = None, camera: bool = False, **options: Any
    ) -> None:
        gymnasium = _import_gymnasium()
        if camera:
            choose_gl()
        self._episode = np.zeros(_EPISODE)
        try:
            # steps are counted here: Gymnasium's own counter cannot be restored by set_state
            options |= {"max_episode_steps": -1, "disable_env_checker": True}
            self._env = gymnasium.make(id, render_mode="rgb_array" if camera else None, **options)
            self._show(self._env.reset(seed=0)[0])
            height, width = self._env.render().shape[:2] if camera else (0, 0)
        except gymnasium.error.Error as error:
            raise ValueError(f"Gymnasium cannot make {id!r}: {error}") from error
        self._low, self._high = _bounds(id, self._env.action_space, gymnasium)
        limit = step_limit or gymnasium.spec(id).max_episode_steps
        if not limit:
            raise ValueError(f"{id} has no step limit of its own: give step_limit")
        sizes = (("front",) if camera else (), (int(height), int(width)), len(self._proprio), len(self._low))
        self._spec = EnvSpec(*sizes, (instruction or id,), (limit,), TRAIN_STATES, EVAL_STATES)

    def _show(self, observation: Any) -> None:
        self._proprio = np.array(observation, np.float32).ravel()

    @property
    def spec(self) -> EnvSpec:
        return self._spec

    @property
    def success(self) -> bool:
        return bool(self._episode[3])

    def reset(self, task: int, init_state: int, seed: int) -> None:
        """Starts an episode. Raises ValueError when `task` or `init_state` is outside the spec."""
        if task != 0:
            raise ValueError(f"a GymnasiumEnv has task 0 only, got {task}")
        if init_state not in TRAIN_STATES and init_state not in EVAL_STATES:
            raise ValueError(f"GymnasiumEnv's initial states are 0 to {EVAL_STATES.stop - 1}, got {init_state}")
        generated = int(np.random.SeedSequence((init_state, seed)).generate_state(1)[0])
        self._show(self._env.reset(seed=generated)[0])
        self._episode[:] = init_state, seed, 0, 0

    def step(self, action: np.ndarray) -> StepResult:
        """One step; `action` is stretched from [-1, 1] to the environment's bounds."""
        stretched = self._low + (np.clip(action, -1, 1) + 1) / 2 * (self._high - self._low)
        observation, reward, ended, stopped, info = self._env.step(stretched.astype(self._env.action_space.dtype))
        self._show(observation)
        success = bool(info.get("is_success", ended))
        steps = self._episode[2] + 1
        self._episode[2:] = steps, success
        return StepResult(float(reward), bool(ended), not ended and bool(stopped or steps >= self._spec.step_limits[0]))

    def observe(self) -> Observation:
        """Renders where a camera was asked for."""
        images = {name: np.array(self._env.render(), np.uint8) for name in self._spec.cameras}
        return Observation(images, self._proprio.copy(), self._spec.instructions[0])

    def state(self) -> np.ndarray:
        """float64 [n]: episode, observation, simulator; an environment's own random generator is not in it.

        Raises ValueError when the environment keeps its state out of reach.
        """
        return np.concatenate((self._episode, self._proprio, self._simulator()))

    def _simulator(self) -> np.ndarray:
        inner = self._env.unwrapped
        if hasattr(inner, "model") and hasattr(inner, "data"):
            mujoco, flags = _mujoco_flags()
            physics = np.empty(mujoco.mj_stateSize(inner.model, flags))
            mujoco.mj_getState(inner.model, inner.data, physics, flags)
            return physics
        numbers = np.asarray(getattr(inner, "state", None))
        if numbers.dtype.kind != "f":
            raise ValueError(f"{inner.spec.id} keeps its state out of reach: neither MuJoCo nor an array named `state`")
        return numbers.astype(np.float64).ravel()

    def set_state(self, state: np.ndarray) -> None:
        """Restores `state()`. Raises ValueError when it is not one of this environment."""
        if np.shape(state) != self.state().shape:
            raise ValueError(f"a state of this environment has shape {self.state().shape}, got {np.shape(state)}")
        self._episode, rest = np.array(state[:_EPISODE]), state[_EPISODE:]
        self._show(rest[: len(self._proprio)])
        self._restore(rest[len(self._proprio) :])

    def _restore(self, physics: np.ndarray) -> None:
        inner = self._env.unwrapped
        if hasattr(inner, "model") and hasattr(inner, "data"):
            mujoco, flags = _mujoco_flags()
            mujoco.mj_setState(inner.model, inner.data, physics, flags)
            mujoco.mj_forward(inner.model, inner.data)
            mujoco.mj_setState(inner.model, inner.data, physics, flags)  # forward renews the solver's warm start
        else:
            like = np.asarray(inner.state)
            inner.state = physics.reshape(like.shape).astype(like.dtype)

    def close(self) -> None:
        self._env.close()


def _import_gymnasium() -> Any:
    try:
        return importlib.import_module("gymnasium")
    except ModuleNotFoundError as error:
        raise RuntimeError("GymnasiumEnv needs Gymnasium: pip install 'acceerl[gymnasium]'") from error


def _bounds(id: str, space: Any, gymnasium: Any) -> tuple[np.ndarray, np.ndarray]:
    box = isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1
    if not box or not np.isfinite(space.low).all() or not np.isfinite(space.high).all():
        raise ValueError(f"{id} does not fit: actions must be a bounded one-dimensional Box, not {space}")
    return space.low.astype(np.float64), space.high.astype(np.float64)


def _mujoco_flags() -> tuple[Any, Any]:
    mujoco = importlib.import_module("mujoco")
    return mujoco, mujoco.mjtState.mjSTATE_INTEGRATION
