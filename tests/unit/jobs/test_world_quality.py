"""What a success model is asked when it is judged: ticks from real pasts on, each step of which it may call the one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from acceerl.config import Dreamer
from acceerl.jobs.world_quality import measure
from acceerl.protocols import WorldSpec
from acceerl.stores.memory import Kept
from tests.unit.world_models.worlds import ENV, SPEC, Brighter, Reading


def counted(steps: int, success: bool = True, stride: int = 1) -> Kept:
    """Pixels and proprioception count control steps; rows are `stride` apart, the last one is the end."""
    ends = np.append(np.arange(0, steps, stride), steps)
    body = np.repeat(ends[:, None], 2, axis=1).astype(np.float32)
    frames = np.broadcast_to(ends.astype(np.uint8)[:, None, None, None], (len(ends), 16, 16, 3)).copy()
    return Kept({"front": frames}, body, np.zeros((steps, 2), np.float32), stride, "go left", 0, 0, success, "test")


class Asked(Reading):
    """It remembers what its logits were asked for: what the first pixel showed, and what the body felt."""

    def __init__(self, spec: WorldSpec) -> None:
        super().__init__(spec=spec)
        self.seen: list[tuple[list[int], torch.Tensor]] = []

    def logits(self, images, felt, instructions):
        self.seen.append((images["front"][:, 0, 0, 0].tolist(), felt))
        return torch.zeros(len(instructions), felt.shape[1] - self.spec.context, 1)


@pytest.mark.parametrize("context", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_each_tick_begins_in_reality_and_is_felt_step_by_step(tmp_path: Path, context: int, stride: int):
    """The path is the world model's. The last tick is one of a single step."""
    spec = replace(SPEC, context=context)
    success = Asked(spec)
    measure(Brighter(spec), success, ENV, [counted(5, stride=stride)], tmp_path, Dreamer())
    [(shown, felt)] = success.seen
    assert shown == [0, 2, 4]
    past, path = torch.tensor([[0, 0, 0], [0, 0, 2], [0, 2, 4]]), torch.tensor([[1, 2], [3, 4], [5, 5]])
    assert torch.equal(felt[..., 0], torch.cat([past[:, 3 - context :], path], dim=1).float())


@pytest.mark.parametrize("stride", [1, 2])
def test_without_a_body_real_ends_of_ticks_are_shown(tmp_path: Path, stride: int):
    spec = replace(SPEC, proprio=0)
    success = Asked(spec)
    measure(Brighter(spec), success, ENV, [counted(5, stride=stride)], tmp_path, Dreamer())
    [(shown, felt)] = success.seen
    assert shown == [2, 4, 5]
    assert felt.shape == (3, spec.context + 1, 0)


class Saying(Reading):
    """Sure of success wherever the body has come so far."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = level

    def logits(self, images, felt, instructions):
        return (felt[:, self.spec.context :, :1] >= self.level).float() * 8 - 4


def test_the_success_model_is_judged_by_decisions_and_at_every_step_apart(tmp_path: Path):
    """One that says yes a step too early is wrong about that step, and right about each decision."""
    quality = measure(Brighter(), Saying(5), ENV, [counted(6)], tmp_path, Dreamer())
    assert quality.success_pr_auc == 1.0
    assert quality.success_pr_auc_every_step == 0.5
    early = measure(Brighter(), Saying(4), ENV, [counted(6)], tmp_path, Dreamer())
    assert early.success_pr_auc == 0.5
    assert early.success_pr_auc_every_step == pytest.approx(1 / 3)


class Late(Saying):
    """It says no to the first step of a tick whatever is felt."""

    def logits(self, images, felt, instructions):
        return torch.cat([torch.full((len(felt), 1, 1), -4.0), super().logits(images, felt, instructions)[:, 1:]], 1)


def test_steps_that_never_happened_are_not_judged(tmp_path: Path):
    """Of a success in the first of two steps the second would be another yes: an error, or one that finds it late."""
    quality = measure(Brighter(), Saying(5), ENV, [counted(5)], tmp_path, Dreamer())
    assert quality.success_pr_auc == quality.success_pr_auc_every_step == 1.0
    sure = 1 / (1 + np.exp(-4.0))
    assert quality.calibration_error == pytest.approx(1 - sure, abs=1e-6)
    late = measure(Brighter(), Late(5), ENV, [counted(5)], tmp_path, Dreamer())
    assert late.success_pr_auc == pytest.approx(1 / 3), "no decision is told from another"


def test_whole_imagined_episodes_are_judged_tick_by_tick(tmp_path: Path):
    """A dream brightens all along: the failure that lasts longer than the success looks more like one."""
    assert measure(Brighter(), Reading(), ENV, [counted(6)], tmp_path, Dreamer()).success_pr_auc_dreamt == 1.0
    quality = measure(Brighter(), Reading(), ENV, [counted(6), counted(8, False)], tmp_path, Dreamer())
    assert quality.success_pr_auc_dreamt == pytest.approx(1 / 3)
