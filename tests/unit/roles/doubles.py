"""Test doubles of this folder: a counting environment and a policy that needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from acceerl.protocols import PolicySpec
from acceerl.types import ActionBatch, EnvSpec, Observation, ObservationBatch, StepResult

SPEC = EnvSpec(("front",), (2, 2), 1, 2, ("go left", "go right"), (10, 10), range(50), range(50, 60))
CHUNK = 4


class CountingEnv:
    """Ends with success after `length` steps, or by the limit of 10; proprioception is the step count."""

    spec = SPEC

    def __init__(self, length: int = 6) -> None:
        self.length, self.steps, self.task = length, 0, 0
        self.resets: list[tuple[int, int, int]] = []
        self.rendered = 0

    def reset(self, task: int, init_state: int, seed: int) -> None:
        self.task, self.steps = task, 0
        self.resets.append((task, init_state, seed))

    def step(self, action: np.ndarray) -> StepResult:
        self.steps += 1
        return StepResult(1.0, self.success, self.steps >= SPEC.step_limits[self.task])

    def observe(self) -> Observation:
        self.rendered += 1
        pixels = np.full((2, 2, 3), self.steps, np.uint8)
        return Observation({"front": pixels}, np.array([self.steps], np.float32), SPEC.instructions[self.task])

    @property
    def success(self) -> bool:
        return self.steps >= self.length

    def state(self) -> np.ndarray:
        return np.array([self.task, self.steps], np.float64)

    def set_state(self, state: np.ndarray) -> None:
        self.task, self.steps = int(state[0]), int(state[1])

    def close(self) -> None:
        self.steps = 0


class EchoPolicy:
    """Answers with the step count it saw, in every token; remembers the batch sizes."""

    spec = PolicySpec(CHUNK, 2, 256, ("front",), (2, 2), 1)

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.greedy: list[bool | Sequence[bool]] = []

    def act(self, observations: ObservationBatch, greedy: bool | Sequence[bool]) -> ActionBatch:
        n = len(observations)
        self.batches.append(n)
        self.greedy.append(greedy)
        seen = np.broadcast_to(observations.proprio[:, :, None], (n, CHUNK, 2))
        zeros = np.zeros((n, CHUNK, 2), np.float32)
        return ActionBatch(seen.astype(np.int16), zeros, zeros, seen[:, 0, 0])
