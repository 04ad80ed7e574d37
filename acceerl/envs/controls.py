"""Control experiments as environments: the same tasks for a policy that sees nothing, or is told something else.

A policy that needs its eyes and ears must fall to chance in them; one that does not has found a short cut.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from acceerl.protocols import Env
from acceerl.types import EnvSpec, Observation, StepResult


class _Wrapped:
    """Passes everything on; the controls below change what `observe` shows."""

    def __init__(self, env: Env) -> None:
        self.env = env

    @property
    def spec(self) -> EnvSpec:
        return self.env.spec

    @property
    def success(self) -> bool:
        return self.env.success

    def reset(self, task: int, init_state: int, seed: int) -> None:
        self.env.reset(task, init_state, seed)

    def step(self, action: np.ndarray) -> StepResult:
        return self.env.step(action)

    def observe(self) -> Observation:
        return self.env.observe()

    def state(self) -> np.ndarray:
        return self.env.state()

    def set_state(self, state: np.ndarray) -> None:
        self.env.set_state(state)

    def close(self) -> None:
        self.env.close()


class Blind(_Wrapped):
    """Every image is black; proprioception and the instruction stay."""

    def observe(self) -> Observation:
        seen = self.env.observe()
        return replace(seen, images={camera: np.zeros_like(image) for camera, image in seen.images.items()})


class Deaf(_Wrapped):
    """The instruction is that of a task drawn at random for the episode; success is still that of the real task."""

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        self.told = env.spec.instructions[0]

    def reset(self, task: int, init_state: int, seed: int) -> None:
        self.env.reset(task, init_state, seed)
        draw = np.random.default_rng((seed, init_state, task)).integers(self.spec.n_tasks)
        self.told = self.spec.instructions[int(draw)]

    def observe(self) -> Observation:
        return replace(self.env.observe(), instruction=self.told)


CONTROLS = {"none": lambda env: env, "blind": Blind, "deaf": Deaf}
