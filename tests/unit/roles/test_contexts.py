"""Segments as episodes to train on and as starts to dream from: frame, body and action of time t hold t."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from acceerl.protocols import WorldSpec
from acceerl.roles.contexts import RECORDED, Alphabet, context, kept, start_at
from acceerl.stores.memory import Kept
from acceerl.types import Assignment, Segment

CHUNK, BINS = 4, 32
ALPHABET = Alphabet(np.linspace(-1, 1, BINS, dtype=np.float32), CHUNK)


def spec(stride: int = CHUNK, frames: int = 1) -> WorldSpec:
    return WorldSpec(("front",), (2, 2), proprio=1, action_dim=2, stride=stride, context=frames)


def pictures(times: np.ndarray) -> np.ndarray:
    """uint8 [..., 2, 2, 3]."""
    return np.broadcast_to(np.asarray(times, np.uint8)[..., None, None, None], (*np.shape(times), 2, 2, 3)).copy()


def segment(steps: int = 10, *, recorded: bool = True, first: int = 0, success: bool = True) -> Segment:
    """Token t chose the action of step t; `recorded`: with frames between decisions."""
    t = -(-steps // CHUNK)
    seen = np.minimum(np.arange(t + 1) * CHUNK, steps)
    played = np.arange(t * CHUNK).reshape(t, CHUNK)
    return Segment(
        assignment=Assignment(1, 5, 9),
        episode=77,
        start=first,
        instruction="go left",
        images={"front": pictures(seen)},
        proprio=seen[:, None].astype(np.float32),
        tokens=np.repeat(played[..., None], 2, axis=2).astype(np.int16),
        logp=np.zeros((t, CHUNK, 2), np.float32),
        values=np.zeros(t, np.float32),
        rewards=np.zeros(t, np.float32),
        executed=np.minimum(CHUNK, steps - CHUNK * np.arange(t)).astype(np.int16),
        versions=np.zeros(t, np.int64),
        terminated=success,
        truncated=not success,
        frames={"front": pictures(np.minimum(played + 1, steps))} if recorded else {},
    )


def shown(images: np.ndarray) -> list[int]:
    return images[..., 0, 0, 0].tolist()


def acted(actions: np.ndarray) -> list[int]:
    """Which steps' actions these are."""
    return ALPHABET.tokens(actions)[..., 0].tolist()


def test_tokens_and_actions_are_two_ways_to_write_the_same():
    tokens = np.arange(BINS, dtype=np.int16)
    actions = ALPHABET.centres[tokens]
    assert np.array_equal(ALPHABET.tokens(actions), tokens)
    assert ALPHABET.tokens(actions).dtype == np.int16
    assert ALPHABET.tokens(np.array([-1.0, -0.99, 0.99, 1.0])).tolist() == [0, 0, 31, 31]
    assert ALPHABET.tokens(np.array([-7.0, 7.0])).tolist() == [0, 31], "out of range is the outermost"
    anything = np.random.default_rng(0).uniform(-1, 1, 200)
    nearest = np.abs(anything[:, None] - ALPHABET.centres).argmin(axis=1)
    assert ALPHABET.tokens(anything).tolist() == nearest.tolist()


def test_a_segment_with_every_frame_is_kept_step_by_step():
    episode = kept(segment(10), ALPHABET)
    assert (episode.stride, episode.steps, episode.rows) == (1, 10, 10)
    assert shown(episode.images["front"]) == list(range(11))
    assert episode.proprio[:, 0].tolist() == list(range(11)), "a line between decisions"
    assert acted(episode.actions) == list(range(10)), "and not what was not executed"
    assert (episode.task, episode.init_state, episode.instruction) == (1, 5, "go left")
    assert episode.success and episode.live
    assert episode.proprio.dtype == episode.actions.dtype == np.float32


def test_a_segment_without_is_kept_decision_by_decision():
    episode = kept(segment(10, recorded=False, first=3, success=False), ALPHABET)
    assert (episode.stride, episode.steps, episode.rows, episode.start) == (CHUNK, 10, 3, 12)
    assert shown(episode.images["front"]) == [0, 4, 8, 10]
    assert episode.proprio[:, 0].tolist() == [0, 4, 8, 10]
    assert not episode.success


def of_files(steps: int = 10, stride: int = 1, success: bool = True) -> Kept:
    times = np.minimum(np.arange(-(-steps // stride) + 1) * stride, steps)
    actions = np.repeat(ALPHABET.centres[:steps, None], 2, axis=1)
    return Kept({"front": pictures(times)}, times[:, None].astype(np.float32), actions, stride, "go left", 1, 5,
                success, "demo_0")  # fmt: skip


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("steps", [3, 4, 9, 12])
def test_a_recorded_episode_becomes_the_segment_of_a_policy(steps: int, stride: int):
    made, expected = context(of_files(steps, stride), ALPHABET), segment(steps)
    assert len(made) == len(expected) == -(-steps // CHUNK)
    for name in ("proprio", "executed", "rewards", "values", "logp"):
        assert np.array_equal(getattr(made, name), getattr(expected, name)), name
    assert made.executed.dtype == np.int16
    assert shown(made.images["front"]) == shown(expected.images["front"])
    played = np.arange(CHUNK) < made.executed[:, None]
    assert np.array_equal(made.tokens[played], expected.tokens[played])
    assert (made.terminated, made.truncated, made.imagined) == (True, False, False)
    assert set(made.versions.tolist()) == {RECORDED}
    assert bool(made.frames) == (stride == 1)


def test_frames_between_decisions_come_along():
    assert shown(context(of_files(10), ALPHABET).frames["front"]) == shown(segment(10).frames["front"])


def test_a_failure_is_truncated_and_an_unknown_init_state_is_some():
    made = context(replace(of_files(success=False), init_state=-1), ALPHABET)
    assert (made.terminated, made.truncated) == (False, True)
    assert made.assignment.init_state == 0


@pytest.mark.parametrize("steps", [8, 10])
@pytest.mark.parametrize("recorded", [True, False])
def test_kept_and_context_are_inverse(steps: int, recorded: bool):
    original = segment(steps, recorded=recorded)
    again = context(kept(original, ALPHABET), ALPHABET)
    for name in ("proprio", "executed"):
        assert np.array_equal(getattr(again, name), getattr(original, name)), name
    assert np.array_equal(again.images["front"], original.images["front"])
    played = np.arange(CHUNK) < original.executed[:, None]
    assert np.array_equal(again.tokens[played], original.tokens[played])
    assert again.frames.keys() == original.frames.keys()


def test_a_dream_of_one_frame_begins_at_its_decision():
    begun = start_at(segment(10, first=3), 2, spec(), ALPHABET)
    assert shown(begun.images["front"]) == [8]
    assert begun.proprio.tolist() == [[8.0]]
    assert begun.actions.shape == (0, CHUNK, 2)
    assert begun.steps == (3 + 2) * CHUNK, "of the episode, not of the segment"
    assert (begun.assignment.task, begun.instruction) == (1, "go left")


@pytest.mark.parametrize("recorded", [True, False])
def test_ticks_of_a_decision_need_decisions_frames_only(recorded: bool):
    begun = start_at(segment(12, recorded=recorded), 2, spec(CHUNK, 3), ALPHABET)
    assert shown(begun.images["front"]) == [0, 4, 8]
    assert begun.proprio[:, 0].tolist() == [0, 4, 8]
    assert acted(begun.actions) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_before_the_beginning_the_first_frame_is_repeated_and_nothing_done():
    begun = start_at(segment(12), 1, spec(CHUNK, 4), ALPHABET)
    assert shown(begun.images["front"]) == [0, 0, 0, 4]
    assert begun.proprio[:, 0].tolist() == [0, 0, 0, 4]
    assert not begun.actions[:2].any()
    assert acted(begun.actions[2]) == [0, 1, 2, 3]


@pytest.mark.parametrize(("i", "frames"), [(0, [0, 0, 0, 0]), (1, [0, 0, 2, 4]), (2, [2, 4, 6, 8])])
def test_shorter_ticks_look_between_decisions(i: int, frames: list[int]):
    begun = start_at(segment(12), i, spec(2, 4), ALPHABET)
    assert shown(begun.images["front"]) == frames
    assert begun.proprio[:, 0].tolist() == frames
    assert begun.actions.shape == (3, 2, 2)
    for tick, (before, after) in zip(begun.actions, pairwise(frames), strict=True):
        assert acted(tick) == [before, before + 1] if after > before else not tick.any()


def test_shorter_ticks_without_frames_see_now_repeated():
    begun = start_at(segment(12, recorded=False), 2, spec(2, 3), ALPHABET)
    assert shown(begun.images["front"]) == [8, 8, 8]
    assert begun.proprio[:, 0].tolist() == [8, 8, 8]
    assert not begun.actions.any() and begun.actions.shape == (2, 2, 2)


def test_a_start_of_a_live_and_of_a_recorded_episode_are_equal():
    """What a policy of this run saw and what a file holds of the same episode begin the same dream."""
    for wanted in (spec(CHUNK, 2), spec(1, 3)):
        of_live = start_at(segment(10), 2, wanted, ALPHABET)
        of_file = start_at(context(of_files(10), ALPHABET), 2, wanted, ALPHABET)
        assert np.array_equal(of_live.images["front"], of_file.images["front"])
        assert np.array_equal(of_live.proprio, of_file.proprio)
        assert np.array_equal(of_live.actions, of_file.actions)
