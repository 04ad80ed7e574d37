"""SkeletonEnv: large observations and no simulation, for benchmarks of what moves and trains on them.

The workload of the method authors' public Ray and DeepSpeed skeleton: float32 arrays of 3 x 224 x 224 beside a
little proprioception. Nothing to learn here.
"""

from __future__ import annotations

import numpy as np

from acceerl.types import EnvSpec, Observation, StepResult

TRAIN_STATES, EVAL_STATES = range(1000), range(1000, 1050)
BANK = 16  # different observations; drawing noise for each one would be a simulation cost


class SkeletonEnv:
    """Noise to look at, steps that cost nothing; satisfies `acceerl.protocols.Env` but for the kind of its images.

    Unlike other environments' images, which are uint8 [H, W, 3], camera `front` is float32 [3, side, side]. Reward is
    the negative distance of the action from 0. side: pixels. proprio: entries. action_dim: of an action. limit:
    control steps per episode.
    """

    def __init__(self, side: int = 224, proprio: int = 7, action_dim: int = 3, limit: int = 50) -> None:
        rng = np.random.default_rng(0)
        self._frames = rng.standard_normal((BANK, 3, side, side), np.float32)
        self._proprio = rng.standard_normal((BANK, proprio), np.float32)
        instructions, limits = ("do nothing well",), (limit,)
        self._spec = EnvSpec(
            ("front",), (side, side), proprio, action_dim, instructions, limits, TRAIN_STATES, EVAL_STATES
        )
        self._state = np.zeros(3)  # task, initial state, steps

    @property
    def spec(self) -> EnvSpec:
        return self._spec

    @property
    def success(self) -> bool:
        return False

    def reset(self, task: int, init_state: int, seed: int) -> None:
        """Raises ValueError when `task` or `init_state` is outside the spec."""
        if task != 0:
            raise ValueError(f"SkeletonEnv has task 0 only, got {task}")
        if init_state not in TRAIN_STATES and init_state not in EVAL_STATES:
            raise ValueError(
                f"SkeletonEnv's initial states are 0 to {EVAL_STATES.stop - 1}, got init_state {init_state}"
            )
        self._state[:] = task, init_state, 0

    def step(self, action: np.ndarray) -> StepResult:
        self._state[2] += 1
        return StepResult(-float(np.abs(action).mean()), False, bool(self._state[2] >= self._spec.step_limits[0]))

    def observe(self) -> Observation:
        """One of a few fixed observations; they are shared, so do not write into them."""
        which = int(self._state[1] + self._state[2]) % BANK
        return Observation({"front": self._frames[which]}, self._proprio[which], self._spec.instructions[0])

    def state(self) -> np.ndarray:
        """float64 [3]: task, initial state, steps."""
        return self._state.copy()

    def set_state(self, state: np.ndarray) -> None:
        self._state[:] = state

    def close(self) -> None:
        """There is nothing to free."""
