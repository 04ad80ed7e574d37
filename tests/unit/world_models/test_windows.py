"""Windows split into a past and ticks: what a world model is told of each, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from acceerl.protocols import WorldSpec
from acceerl.types import ClipBatch
from acceerl.world_models.windows import advanced, asked, ticks

SPEC = WorldSpec(("front",), (16, 16), proprio=1, action_dim=2, stride=2, context=2)
CPU = torch.device("cpu")


def windows(n: int = 1, frames: int = 4) -> ClipBatch:
    """Frame and body of time t hold t; the actions between t and t + 1 hold t + 1 and t + 1.5."""
    times = np.arange(frames)
    actions = np.stack([times[1:], times[1:] + 0.5], axis=1)[..., None]
    return ClipBatch(
        {"front": np.broadcast_to(times.astype(np.uint8)[:, None, None, None], (n, frames, 16, 16, 3)).copy()},
        np.broadcast_to(times[:, None], (n, frames, 3)).astype(np.float32),
        np.broadcast_to(actions, (n, frames - 1, 2, 2)).astype(np.float32).copy(),
        np.full((n, frames - 1), 2), np.ones((n, frames), bool), np.zeros((n, frames), bool), ("go",) * n,
    )  # fmt: skip


def test_the_past_ends_now_and_ticks_follow():
    past, future = ticks(windows(), SPEC, CPU)
    assert past.images["front"][0, :, 0, 0, 0].tolist() == [0, 1]
    assert past.proprio.tolist() == [[[0.0], [1.0]]], "as many entries as the world model predicts"
    assert past.actions[0, :, :, 0].tolist() == [[1.0, 1.5]]
    assert [int(tick.images["front"][0, 0, 0, 0]) for tick in future] == [2, 3]
    assert [tick.proprio.tolist() for tick in future] == [[[2.0]], [[3.0]]]
    assert [tick.actions[0, :, 0].tolist() for tick in future] == [[2.0, 2.5], [3.0, 3.5]]
    assert past.images["front"].dtype == future[0].images["front"].dtype == torch.uint8


def test_what_was_not_executed_is_not_told():
    cut = windows()
    cut.executed[0] = [0, 2, 1]
    cut.valid[0] = [False, True, True, True]
    past, future = ticks(cut, SPEC, CPU)
    assert past.actions[0, :, :, 0].tolist() == [[0.0, 0.0]]
    assert [tick.actions[0, :, 0].tolist() for tick in future] == [[2.0, 2.5], [3.0, 0.0]]
    assert [tick.executed.tolist() for tick in future] == [[2], [1]]


def test_a_tick_after_the_end_does_not_count():
    over = windows()
    over.executed[0, 2], over.valid[0, 3] = 0, False
    _, future = ticks(over, SPEC, CPU)
    assert [tick.valid.tolist() for tick in future] == [[1.0], [0.0]]
    assert future[1].executed.tolist() == [1], "a model is asked for one step at least"


def test_the_past_of_the_next_tick():
    past, (first, second) = ticks(windows(), SPEC, CPU)
    path = torch.tensor([[[6.5], [7.0]]])
    later = first.after(past, {"front": torch.full((1, 16, 16, 3), 77, dtype=torch.uint8)}, path)
    assert later.images["front"][0, :, 0, 0, 0].tolist() == [1, 77]
    assert later.proprio.tolist() == [[[1.0], [7.0]]], "what is felt at the end of the path"
    assert later.actions[0, :, :, 0].tolist() == [[2.0, 2.5]]
    last = advanced(later, second.actions, second.images, second.proprio[:, None])
    assert last.images["front"][0, :, 0, 0, 0].tolist() == [77, 3]
    assert last.actions[0, :, :, 0].tolist() == [[3.0, 3.5]]
    assert past.images["front"][0, :, 0, 0, 0].tolist() == [0, 1], "the old past stays"


def test_one_frame_of_context_has_no_actions_before_it():
    past, future = ticks(windows(), replace(SPEC, context=1), CPU)
    assert past.actions.shape == (1, 0, 2, 2)
    assert len(future) == 3
    first = future[0]
    assert advanced(past, first.actions, first.images, first.proprio[:, None]).actions.shape == (1, 0, 2, 2)


def ended() -> ClipBatch:
    """The last tick of four windows: success after one step, after two, none, and one after the episode's end."""
    won = windows(4)
    won.executed[:, 2] = [1, 2, 2, 0]
    won.succeeded[:, 3] = [True, True, False, True]
    won.valid[3, 3] = False
    return won


def test_the_last_step_that_was_executed_is_the_one_that_succeeds():
    _, (before, last) = ticks(ended(), SPEC, CPU)
    labels, counted = last.truth(2)
    assert labels.tolist() == [[True, False], [False, True], [False, False], [False, False]]
    assert counted.tolist() == [[True, False], [True, True], [True, True], [False, False]], "others never happened"
    labels, counted = before.truth(2)
    assert not labels.any() and counted.all()


def test_one_step_stands_for_the_end_of_a_tick():
    _, (_, last) = ticks(ended(), SPEC, CPU)
    labels, counted = last.truth(1)
    assert labels.tolist() == [[True], [True], [False], [False]]
    assert counted.tolist() == [[True], [True], [True], [False]]


def test_a_success_model_is_shown_where_a_tick_begins_and_feels_what_follows():
    past, (first, _) = ticks(windows(), SPEC, CPU)
    shown, felt = asked(SPEC, past, first.images, torch.tensor([[[1.5], [2.0]]]))
    assert shown["front"][:, 0, 0, 0].tolist() == [1]
    assert felt.tolist() == [[[0.0], [1.0], [1.5], [2.0]]], "the last ticks, then each step"


def test_without_a_body_a_success_model_is_shown_how_a_tick_ends():
    spec = replace(SPEC, proprio=0)
    past, (first, _) = ticks(windows(2), spec, CPU)
    shown, felt = asked(spec, past, first.images, torch.zeros(2, spec.stride, 0))
    assert shown["front"][:, 0, 0, 0].tolist() == [2, 2]
    assert felt.shape == (2, spec.context + 1, 0)
    assert (felt.shape[1] - spec.context) == first.truth(1)[0].shape[1], "and asked about its end alone"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (replace(SPEC, cameras=("front", "side")), r"have no camera side \(they have front\)"),
        (replace(SPEC, image_size=(16, 32)), r"frames of front: \(16, 16\), the world model was made for \(16, 32\)"),
        (replace(SPEC, action_dim=7), "action dimension: 2, the world model was made for 7"),
        (replace(SPEC, stride=8), "control steps a tick: 2, the world model was made for 8"),
        (replace(SPEC, proprio=4), "proprioception: 3, the world model was made for 4"),
        (replace(SPEC, context=4), "windows of 4 frames: the world model needs 4 of context and one more"),
    ],
)
def test_windows_of_another_kind_are_refused(spec: WorldSpec, message: str):
    with pytest.raises(ValueError, match=message):
        ticks(windows(), spec, CPU)


def test_a_second_camera_of_another_size_is_named():
    odd = windows()
    odd.images["wrist"] = np.zeros((1, 4, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=r"frames of wrist: \(8, 8\), the world model was made for \(16, 16\)"):
        ticks(odd, replace(SPEC, cameras=("front", "wrist")), CPU)
