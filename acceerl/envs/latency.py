"""LatencyEnv: a cart-pole whose steps take a chosen time, for throughput benchmarks; nothing to learn here.

It stands in for a simulator whose cost is known exactly, so that a benchmark measures the system around it.
"""

from __future__ import annotations

import math
import time

import numpy as np

from acceerl.types import EnvSpec, Observation, StepResult

TRAIN_STATES = range(1000)
EVAL_STATES = range(1000, 1050)
MODES = ("constant", "tail", "cpu")
# share of slow steps, duration of a fast and of a slow one in means: 0.95 * 0.3 + 0.05 * 14.3 = 1
SLOW_SHARE, FAST, SLOW = 0.05, 0.3, 14.3
_STATE = 9
Pole = tuple[float, ...]  # cart position (m), velocity, pole angle (rad), angular velocity
_FALLEN_RAD, _OFF_TRACK_M, _FORCE_N, _DT_S = math.radians(12), 2.4, 10.0, 0.02


class LatencyEnv:
    """Cart-pole dynamics with synthetic step times; satisfies `acceerl.protocols.Env`.

    The first action dimension is the force on the cart in tens of newtons. Reward is 1 per step. An episode ends
    truncated, when the pole falls or at the limit: balancing has no success. Times depend on the arguments of
    `reset` and the step's number only, so two systems that are compared meet the same times.

    mean_ms: mean duration of a step. mode: `constant` sleeps; `tail` sleeps too, 95 % of the steps for 0.3 of the
    mean and 5 % for 14.3 of it; `cpu` computes for that much processor time, so that processes compete for cores.
    limit: control steps per episode. action_dim: dimensions of the action. camera: side in pixels of a small
    picture as camera `front`, 0 for none. tasks: how many (equal) tasks the spec shows.

    Raises ValueError for an unknown mode or a negative time.
    """

    def __init__(
        self,
        mean_ms: float = 5.0,
        mode: str = "constant",
        limit: int = 200,
        action_dim: int = 1,
        camera: int = 0,
        tasks: int = 1,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"no latency mode {mode!r}: choose one of {', '.join(MODES)}")
        if mean_ms < 0:
            raise ValueError(f"mean_ms must not be negative, got {mean_ms}")
        self._mean_s, self._mode = mean_ms / 1000, mode
        instructions = tuple(f"balance the pole, task {i}" for i in range(tasks))
        cameras = ("front",) if camera else ()
        size = (camera, camera)
        self._spec = EnvSpec(cameras, size, 4, action_dim, instructions, (limit,) * tasks, TRAIN_STATES, EVAL_STATES)
        self._task = 0
        self._start = (0, 0)  # init_state, seed
        self._steps, self._fallen = 0, False
        self._pole: Pole = (0.0, 0.0, 0.0, 0.0)
        self._times: list[float] = []

    @property
    def spec(self) -> EnvSpec:
        return self._spec

    @property
    def success(self) -> bool:
        return False

    def reset(self, task: int, init_state: int, seed: int) -> None:
        """Starts an episode at once. Raises ValueError when `task` or `init_state` is outside the spec."""
        if not 0 <= task < self._spec.n_tasks:
            raise ValueError(f"LatencyEnv has tasks 0 to {self._spec.n_tasks - 1}, got {task}")
        if init_state not in TRAIN_STATES and init_state not in EVAL_STATES:
            raise ValueError(f"LatencyEnv's initial states are 0 to {EVAL_STATES.stop - 1}, got {init_state}")
        self._task, self._start = task, (init_state, seed)
        self._steps, self._fallen = 0, False
        self._pole = tuple(np.random.default_rng((task, init_state)).uniform(-0.05, 0.05, 4).tolist())
        self._times = self.times(task, init_state, seed).tolist()

    def times(self, task: int, init_state: int, seed: int) -> np.ndarray:
        """float64 [limit]: seconds that each step of such an episode takes."""
        limit = self._spec.step_limits[task]
        if self._mode != "tail":
            return np.full(limit, self._mean_s)
        slow = np.random.default_rng((task, init_state, seed)).random(limit) < SLOW_SHARE
        return np.where(slow, SLOW, FAST) * self._mean_s

    def step(self, action: np.ndarray) -> StepResult:
        """One control step, which takes the time that was chosen for it."""
        self._spend(self._times[min(self._steps, len(self._times) - 1)])
        self._pole = _cart_pole(self._pole, max(-1.0, min(1.0, float(action[0]))))
        self._fallen = abs(self._pole[2]) > _FALLEN_RAD or abs(self._pole[0]) > _OFF_TRACK_M
        self._steps += 1
        return StepResult(1.0, False, self._fallen or self._steps >= len(self._times))

    def _spend(self, seconds: float) -> None:
        if self._mode == "cpu":
            # processor time, not wall time: the amount of work stays the same on a busy machine
            until = time.thread_time() + seconds
            while time.thread_time() < until:
                math.sqrt(seconds)
        elif seconds > 0:
            time.sleep(seconds)

    def observe(self) -> Observation:
        """Cart position (m), velocity, pole angle (rad), angular velocity; and the picture, if asked for."""
        images = {name: self._picture() for name in self._spec.cameras}
        return Observation(images, np.array(self._pole, np.float32), self._spec.instructions[self._task])

    def _picture(self) -> np.ndarray:
        side = self._spec.image_size[0]
        image = np.zeros((side, side, 3), np.uint8)
        cart, angle = self._pole[0], self._pole[2]
        heights = np.arange(side)
        along = cart / _OFF_TRACK_M + np.sin(angle) * heights / side
        columns = np.clip((0.5 + along / 2) * side, 0, side - 1).astype(int)
        image[side - 1 - heights, columns] = 255
        return image

    def state(self) -> np.ndarray:
        """float64 [9]: task, initial state, seed, steps, fallen, the four of the cart-pole."""
        return np.array([self._task, *self._start, self._steps, self._fallen, *self._pole], np.float64)

    def set_state(self, state: np.ndarray) -> None:
        """Restores `state()` exactly, the times of the steps to come included."""
        if np.shape(state) != (_STATE,):
            raise ValueError(f"a LatencyEnv state has {_STATE} entries, got shape {np.shape(state)}")
        self._task, init_state, seed, self._steps = (int(number) for number in state[:4])
        self._start, self._fallen, self._pole = (init_state, seed), bool(state[4]), tuple(state[5:].tolist())
        self._times = self.times(self._task, init_state, seed).tolist()

    def close(self) -> None:
        """There is nothing to free."""


def _cart_pole(pole: Pole, push: float) -> Pole:
    """One Euler step of the cart-pole of Barto, Sutton and Anderson (1983), with a graded force.

    In plain numbers: in numpy these few operations took a third of a rollout's time.
    """
    x, dx, angle, spin = pole
    cart_kg, pole_kg, half_m, gravity = 1.0, 0.1, 0.5, 9.8
    total = cart_kg + pole_kg
    sine, cosine = math.sin(angle), math.cos(angle)
    force = (push * _FORCE_N + pole_kg * half_m * spin**2 * sine) / total
    bend = half_m * (4 / 3 - pole_kg * cosine**2 / total)
    turn = (gravity * sine - cosine * force) / bend
    pull = force - pole_kg * half_m * turn * cosine / total
    return x + _DT_S * dx, dx + _DT_S * pull, angle + _DT_S * spin, spin + _DT_S * turn
