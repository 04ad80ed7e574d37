"""What disturbs an episode: noise on some steps, grips that do the opposite for a while, and hands led aside."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from acceerl.jobs.play import ASTRAY, FUMBLE, STAY, Act, Noise, blindfolded, play_episode
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


def gestures(noise: Noise, episodes: int = 300, shut: tuple[int, int] = (5, 25), steps: int = 50) -> np.ndarray:
    """An actor that closes its fingers once, and opens them once, float32 [episodes, steps, D]."""
    asked = [ACTION * np.array([1, 1, 1, 1 if step in range(*shut) else -1], np.float32) for step in range(steps)]
    return np.stack([[*map(noise.begin(np.random.default_rng(n)), asked)] for n in range(episodes)])


@pytest.mark.parametrize(("closes", "first", "last"), [(True, 5, 25), (False, 25, 50)])
def test_misses_lead_the_hand_aside_before_a_share_of_grips_and_releases(closes: bool, first: int, last: int):
    actions = gestures(Noise(misses=0.3))
    assert (actions[:, :5, :3] == ACTION[:3]).all() and (actions[:, :5, 3] == -1).all(), "nothing before the grip"
    part = actions[:, first:last]
    aside = (part[:, :, :2] != ACTION[:2]).any(axis=2)
    assert 0.2 < aside.any(axis=1).mean() < 0.4
    low, high = ASTRAY[closes]
    assert {int(n) for n in aside.sum(axis=1)} == {0, *range(low, high + 1)}
    meant = 1 if closes else -1
    assert (part[aside][:, 3] == -meant).all(), "it closes, or opens, only there"
    assert (part[:, :, 3][~aside] == meant).all()


@pytest.mark.parametrize("meant", [1, -1])
def test_missed_fingers_stay_as_they_are_whatever_the_actor_asks_for(meant: int):
    noise = Noise(misses=1.0)
    shut, opened = ACTION, ACTION * np.array([1, 1, 1, -1], np.float32)
    disturbed = noise.begin(np.random.default_rng(0))
    if meant < 0:
        for action in [shut] * 30:  # a grip that is over
            disturbed(action)
    turned, back = (shut, opened) if meant > 0 else (opened, shut)
    asked = [turned, *[back] * 8, *[back] * 30]
    executed = np.stack([disturbed(action) for action in asked])
    assert _stretches(executed[:20, 3] == meant)[0] == STAY


class Line:
    """An env whose hand is where its actions took it; it ends with success at 1, or after ten steps."""

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
    rehearsed = astray(0.0, noise=Noise()).expert_actions
    assert len(rehearsed) == 3 and np.array_equal(astray(1.0, noise=Noise()).expert_actions, rehearsed)
    for seed in range(20):
        blind = astray(1.0, seed)
        assert not blind.success and len(blind.actions) == 10
        assert np.array_equal(blind.expert_actions[:3], rehearsed)
        assert (blind.expert_actions[3:] == rehearsed[-1]).all(), "it goes on with its last action to the end"
        assert (blind.actions != blind.expert_actions).any()
    seeing = [astray(0.0, seed, Noise(0.3, 0.5)) for seed in range(20)]
    assert np.mean([episode.success for episode in seeing]) > 0.5, "which sees where it is"


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
