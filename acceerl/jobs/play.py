"""Plays one episode at a time and keeps every control step: how `acceerl collect` gets its trajectories."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, pairwise, repeat

import numpy as np

from acceerl.protocols import Env, Expert, Policy
from acceerl.stores.schema import Episode
from acceerl.types import Assignment, Observation, ObservationBatch, StepResult

Act = Callable[[Observation], np.ndarray]  # the next action, float32 [D]
Actor = Callable[[Assignment], Act]  # called when the episode has begun


FUMBLE = (4, 12)  # control steps
ASTRAY = (2, 6)  # control steps at full speed that a blindfolded hand is led aside by before it closes or opens
Disturbed = Callable[[np.ndarray], np.ndarray]  # an action, float32 [D] in [-1, 1], to that which is executed


@dataclass(frozen=True)
class Noise:
    """Disturbances of an actor: Gaussian noise on a share of the control steps, and fumbles.

    Noise on few steps rather than all: a chunk is decided once, so its later labels answer disturbances that the
    policy could not foresee, and too many of them put a floor under the cloning loss. Items that fall teach a world
    model what a grip takes: a fumble is a stretch of the opposite grip (the last action), `fumbles` its share of the
    steps.
    """

    std: float = 0.0
    share: float = 1.0
    fumbles: float = 0.0

    def begin(self, rng: np.random.Generator) -> Disturbed:
        """The disturbance of one episode, whose actions it is called with in their order."""
        fumbled = self._fumbling(rng)

        def disturbed(action: np.ndarray) -> np.ndarray:
            hit = rng.random() < self.share
            noisy = action + hit * self.std * rng.standard_normal(action.shape)
            return np.clip(fumbled(noisy), -1, 1).astype(np.float32)

        return disturbed

    def _fumbling(self, rng: np.random.Generator) -> Disturbed:
        left = 0

        def fumbled(action: np.ndarray) -> np.ndarray:
            nonlocal left
            if self.fumbles and not left and rng.random() < self.fumbles / np.mean(FUMBLE):
                left = int(rng.integers(*FUMBLE, endpoint=True))
            if left:
                action[-1], left = -action[-1], left - 1
            return action

        return fumbled


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


def blindfolded(env: Env, actor: Actor, share: float, misses: float = 0.0) -> Actor:
    """In a `share` of the episodes the actor rehearses undisturbed, half of the times in another initial state, and the
    actions of that rehearsal are what is then played, whatever becomes of them. Before a share `misses` of its grips
    and of its releases the hand is led aside (the first two actions), evenly since the last one.

    So hands close beside things, take others than the named one, carry nothing to a place and let go beside it, and no
    movement gives that away: who is to foretell it must look. Of a disturbed actor its jerk tells all, and of one that
    looks the gesture itself. The rehearsal's last action goes on where the episode lasts longer.
    """
    states = env.spec.train_states

    def begun(now: Assignment) -> Act:
        rng = np.random.default_rng((now.seed, now.task, now.init_state))
        if rng.random() >= share:
            return actor(now)
        other = states[int(rng.integers(len(states)))] if rng.random() < 0.5 else now.init_state
        env.reset(now.task, other, now.seed)
        actions = list(_rehearsed(env, actor(replace(now, init_state=other))))
        env.reset(now.task, now.init_state, now.seed)
        left = chain(_led_astray(np.stack(actions), misses, rng), repeat(actions[-1]))
        return lambda _: next(left)

    return begun


def _led_astray(actions: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Actions [T, D] whose last one is the grip."""
    shut = actions[:, -1] > 0
    changes = np.flatnonzero(np.diff(shut, prepend=False))
    led = actions.copy()
    for begin, end in pairwise([0, *changes]):
        if rng.random() < share:
            aside = rng.uniform(-1, 1, 2) * rng.integers(*ASTRAY, endpoint=True)
            led[begin:end, :2] += aside / max(end - begin, 1)
    return np.clip(led, -1, 1)


def _rehearsed(env: Env, act: Act) -> Iterator[np.ndarray]:
    """The actions of an undisturbed episode, as they are played."""
    result = StepResult(0.0, False, False)
    while not (result.terminated or result.truncated):
        action = np.asarray(act(env.observe()), np.float32)
        result = env.step(action)
        yield action


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
