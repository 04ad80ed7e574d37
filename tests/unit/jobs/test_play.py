"""What disturbs an episode: noise on some steps, and grips that do the opposite for a while."""

from __future__ import annotations

import numpy as np
import pytest

from acceerl.jobs.play import FUMBLE, Noise

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
    turns = np.flatnonzero(np.diff(np.concatenate([[False], fumbled, [False]]).astype(int)))
    stretches = turns[1::2] - turns[::2]
    assert (stretches[:-1] % FUMBLE == 0).all(), "two in a row are one of twice the length; the last may be cut"
