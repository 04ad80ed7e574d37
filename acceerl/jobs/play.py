"""Plays one episode at a time and keeps every control step: how `acceerl collect` gets its trajectories."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from acceerl.protocols import Env, Expert, Policy
from acceerl.stores.schema import Episode
from acceerl.types import Assignment, Observation, ObservationBatch, StepResult

Act = Callable[[Observation], np.ndarray]  # the next action, float32 [D]
Actor = Callable[[Assignment], Act]  # called when the episode has begun


FUMBLE = 6  # control steps


@dataclass(frozen=True)
class Noise:
    """Disturbances of an actor: Gaussian noise on a share of the control steps, and fumbles.

    Noise on few steps rather than all: a chunk is decided once, so its later labels answer disturbances that the
    policy could not foresee, and too many of them put a floor under the cloning loss. A fumble is `FUMBLE` steps of
    the opposite grip (the last action), `fumbles` its share of the steps: fingers that close on nothing and items that
    fall teach a world model what a grip takes, which a good actor never shows.
    """

    std: float = 0.0
    share: float = 1.0
    fumbles: float = 0.0

    def begin(self, rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
        """The disturbance of one episode: actions float32 [D] in [-1, 1], in order, to those that are executed."""
        left = 0

        def disturbed(action: np.ndarray) -> np.ndarray:
            nonlocal left
            hit = rng.random() < self.share
            noisy = action + hit * self.std * rng.standard_normal(action.shape)
            if self.fumbles and not left and rng.random() < self.fumbles / FUMBLE:
                left = FUMBLE
            if left:
                noisy[-1], left = -noisy[-1], left - 1
            return np.clip(noisy, -1, 1).astype(np.float32)

        return disturbed


def play_episode(env: Env, assignment: Assignment, actor: Actor, noise: Noise, source: str) -> Episode:
    """Plays one episode by a fresh actor: its actions are disturbed by `noise`, and stay as the labels."""
    env.reset(assignment.task, assignment.init_state, assignment.seed)
    act, disturbed = actor(assignment), noise.begin(np.random.default_rng((assignment.seed, assignment.task)))
    seen, states, clean, executed, results = [env.observe()], [], [], [], []
    result = StepResult(0.0, False, False)
    while not (result.terminated or result.truncated):
        states.append(env.state())
        clean.append(np.asarray(act(seen[-1]), np.float32))
        executed.append(disturbed(clean[-1]))
        result = env.step(executed[-1])
        results.append(result)
        seen.append(env.observe())
    return _episode(assignment, seen, states, clean, executed, results, source)


def by_expert(expert: Expert) -> Act:
    return lambda _: expert.act()


def by_policy(policy: Policy, greedy: bool = False) -> Act:
    """Decides once a chunk and plays its actions in order. Make a new one for every episode."""
    return _Chunks(policy, greedy)


class _Chunks:
    def __init__(self, policy: Policy, greedy: bool) -> None:
        self.policy, self.greedy = policy, greedy
        self.left: Iterator[np.ndarray] = iter(())

    def __call__(self, observation: Observation) -> np.ndarray:
        action = next(self.left, None)
        if action is None:
            self.left = iter(self.policy.act(ObservationBatch.stack([observation]), self.greedy).actions[0])
            action = next(self.left)
        return action


def _episode(
    assignment: Assignment,
    seen: list[Observation],
    states: list[np.ndarray],
    clean: list[np.ndarray],
    executed: list[np.ndarray],
    results: list[StepResult],
    source: str,
) -> Episode:
    last, ending = seen[-1], results[-1]
    before = ObservationBatch.stack(seen[:-1])
    return Episode(
        images=before.images,
        proprio=before.proprio,
        actions=np.stack(executed),
        expert_actions=np.stack(clean) if source == "expert" else None,
        rewards=np.array([r.reward for r in results], np.float32),
        dones=np.array([0] * (len(results) - 1) + [1], np.uint8),
        states=np.stack(states),
        final_images=last.images,
        final_proprio=last.proprio,
        instruction=last.instruction,
        task=assignment.task,
        init_state=assignment.init_state,
        seed=assignment.seed,
        success=ending.terminated,
        terminated=ending.terminated,
        truncated=ending.truncated,
        source=source,
    )
