"""What disturbs an episode: noise on some steps, grips that do the opposite for a while, and hands led aside."""

from __future__ import annotations

import numpy as np
import pytest

from acceerl.jobs.play import ASTRAY, FUMBLE, SHUT, Noise

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


def grips(noise: Noise, episodes: int = 200, opened: int = 5, closed: int = 20) -> np.ndarray:
    """An actor that closes its fingers once, after `opened` steps, float32 [episodes, steps, D]."""
    asked = [ACTION * np.array([1, 1, 1, -1 if step < opened else 1], np.float32) for step in range(opened + closed)]
    return np.stack([[*map(noise.begin(np.random.default_rng(n)), asked)] for n in range(episodes)])


def test_misses_lead_the_hand_aside_before_a_share_of_the_grips_and_then_close():
    actions = grips(Noise(misses=0.3))
    assert (actions[:, :5, :3] == ACTION[:3]).all() and (actions[:, :5, 3] == -1).all(), "nothing before the grip"
    aside = (actions[:, :, :2] != ACTION[:2]).any(axis=2)
    assert 0.2 < aside.any(axis=1).mean() < 0.4
    assert {int(n) for n in aside.sum(axis=1)} == {0, *range(ASTRAY[0], ASTRAY[1] + 1)}
    assert (actions[aside][:, 3] == -1).all(), "it opens its fingers there"
    assert (actions[:, 5:, 3][~aside[:, 5:]] == 1).all()


def test_a_missed_grip_stays_shut_whatever_the_actor_asks_for():
    disturbed = Noise(misses=1.0).begin(np.random.default_rng(0))
    opened, closed = ACTION * np.array([1, 1, 1, -1], np.float32), ACTION
    executed = np.stack([disturbed(a) for a in [opened, closed, *[opened] * 30]])
    shut = executed[:, 3] == 1
    assert shut.sum() == SHUT and _stretches(shut).tolist() == [SHUT]
    assert (executed[-10:] == opened).all()
