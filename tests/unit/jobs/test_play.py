"""What disturbs an episode: noise on some steps, grips that do the opposite for a while, and actors that cannot see."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from acceerl.jobs.play import ASTRAY, FUMBLE, Act, Noise, blindfolded, play_episode
from acceerl.stores.schema import Episode
from acceerl.types import Assignment, Observation, StepResult

ACTION = np.array([0.2, -0.4, 0.6, 1.0], np.float32)


def played(noise: Noise, steps: int = 2000) -> np.ndarray:
    disturbed = noise.begin(np.random.default_rng(0))
    return np.stack([disturbed(ACTION) for _ in range(steps)])


def test_without_noise_actions_stay_what_they_are():
    assert (played(Noise(), 5) == ACTION).all()
    assert ACTION.tolist() == pytest.approx([0.2, -0.4, 0.6, 1.0]), "and what is handed in is not written to"


def test_noise_is_on_a_share_of_the_steps_and_stays_in_bounds():
    actions = played(Noise(std=0.5, share=0.3))
    hit = (actions != ACTION).any(axis=1)
    assert 0.25 < hit.mean() < 0.35
    assert np.abs(actions).max() == 1.0


def test_fumbles_turn_the_grip_over_for_a_stretch_and_nothing_else():
    actions = played(Noise(fumbles=0.2))
    assert (actions[:, :-1] == ACTION[:-1]).all()
    fumbled = actions[:, -1] == -1.0
    assert (actions[~fumbled, -1] == 1.0).all()
    assert 0.1 < fumbled.mean() < 0.25
    stretches = _stretches(fumbled)[:-1]  # the last may be cut
    assert stretches.min() >= FUMBLE[0] and len(set(stretches)) > 3


def _stretches(those: np.ndarray) -> np.ndarray:
    turns = np.flatnonzero(np.diff(np.concatenate([[False], those, [False]]).astype(int)))
    return turns[1::2] - turns[::2]


class Line:
    """An env whose hand is where its actions took it; it ends with success at 1, or after ten steps."""

    spec = SimpleNamespace(train_states=range(8))

    def reset(self, task: int, init_state: int, seed: int) -> None:
        self.at, self.steps = init_state / 10, 0

    def observe(self) -> Observation:
        return Observation({}, np.array([self.at], np.float32), "go to 1")

    def state(self) -> np.ndarray:
        return np.zeros(1)

    def step(self, action: np.ndarray) -> StepResult:
        self.at, self.steps = self.at + 0.3 * float(action[0]), self.steps + 1
        return StepResult(0.0, abs(self.at - 1) < 0.01, self.steps == 10)


def towards(_: Assignment) -> Act:
    """It sees where the hand is, and corrects itself."""
    return lambda seen: np.array([np.clip((1 - seen.proprio[0]) / 0.3, -1, 1), 1.0], np.float32)


def astray(share: float, seed: int = 0, noise: Noise | None = None) -> Episode:
    env: Any = Line()
    return play_episode(env, Assignment(0, 2, seed), blindfolded(env, towards, share), noise or Noise(0.3), "expert")


def test_a_blindfolded_actor_plays_what_it_rehearsed_whatever_becomes_of_it():
    blind = [astray(1.0, seed) for seed in range(20)]
    for episode in blind:
        rehearsed = episode.expert_actions
        assert (rehearsed[:1] == 1).all() and (rehearsed[3:] == rehearsed[-1]).all(), "then its last action to the end"
        assert (episode.actions != rehearsed).any()
    assert np.mean([episode.success for episode in blind]) < 0.2
    seeing = [astray(0.0, seed, Noise(0.3, 0.5)) for seed in range(20)]
    assert np.mean([episode.success for episode in seeing]) > 0.5, "which sees where it is"


def test_half_of_the_rehearsals_are_in_other_training_states():
    seen: list[int] = []

    def noting(now: Assignment) -> Act:
        seen.append(now.init_state)
        return towards(now)

    env: Any = Line()
    begun = blindfolded(env, noting, 1.0)
    for seed in range(200):
        begun(Assignment(0, 2, seed))
        assert env.at == 0.2, "and then the episode begins where it should"
    assert 0.4 < np.mean(np.array(seen) == 2) < 0.7 and set(seen) == set(Line.spec.train_states)


class Hand(Line):
    """Its grip is asked for at step 4, and let go at step 8."""

    def observe(self) -> Observation:
        return Observation({}, np.array([self.steps], np.float32), "")

    def step(self, action: np.ndarray) -> StepResult:
        self.steps += 1
        return StepResult(0.0, False, self.steps == 10)


def gesturing(_: Assignment) -> Act:
    return lambda seen: np.array([0.1, -0.1, 0.0, 1.0 if 4 <= seen.proprio[0] < 8 else -1.0], np.float32)


@pytest.mark.parametrize(("first", "last"), [(0, 4), (4, 8)])
def test_misses_lead_a_blindfolded_hand_aside_evenly_before_grips_and_before_releases(first: int, last: int):
    env: Any = Hand()
    actor = blindfolded(env, gesturing, 1.0, misses=0.3)
    played = [play_episode(env, Assignment(0, 2, n), actor, Noise(), "expert").actions for n in range(300)]
    led = np.stack(played)[:, first:last, :2] - np.array([0.1, -0.1], np.float32)
    aside = (np.abs(led) > 1e-6).any(axis=(1, 2))
    assert 0.2 < aside.mean() < 0.4, "a share"
    assert np.allclose(led.std(axis=1)[np.abs(led).max(axis=(1, 2)) < 0.85], 0, atol=1e-6), "no jerk gives it away"
    far = np.abs(led.sum(axis=1)).max(axis=1)
    assert 0.4 * ASTRAY[1] < far.max() <= ASTRAY[1] and (far[aside] < ASTRAY[0]).any()
    grips = [-1.0] * 4 + [1.0] * 4 + [-1.0] * 2
    assert (np.stack(played)[:, :, 2] == 0).all() and (np.stack(played)[:, :, 3] == grips).all()
    assert (np.stack(played)[:, 8:, :2] == np.array([0.1, -0.1], np.float32)).all(), "nothing after the release"


def test_a_share_of_the_episodes_is_played_blindfolded_and_always_the_same_ones():
    env, rehearsals = Line(), []

    def counting(now: Assignment) -> Act:
        rehearsals.append(now.seed)
        return towards(now)

    begun = blindfolded(env, counting, 0.4)  # type: ignore[arg-type]
    steps = []
    for seed in [*range(100), *range(100)]:
        env.reset(0, 2, seed)
        env.steps = 3
        begun(Assignment(0, 2, seed))
        steps.append(env.steps)  # a rehearsal ends with a reset
    blind = np.array(steps).reshape(2, 100) == 0
    assert 0.25 < blind.mean() < 0.55 and (blind[0] == blind[1]).all()
