"""What a success model is shown when it is judged: each frame with the body's last ticks, real and dreamt alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from acceerl.config import Dreamer
from acceerl.jobs.world_quality import measure
from acceerl.stores.memory import Kept
from tests.unit.world_models.worlds import ENV, SPEC, Brighter, Reading


def counted(steps: int) -> Kept:
    """Proprioception counts control steps."""
    body = np.repeat(np.arange(steps + 1, dtype=np.float32)[:, None], 2, axis=1)
    frames = np.full((steps + 1, 16, 16, 3), 10, np.uint8)
    return Kept({"front": frames}, body, np.zeros((steps, 2), np.float32), 1, "go left", 0, 0, True, "test")


@pytest.mark.parametrize("context", [1, 3])
def test_each_frame_comes_with_the_last_ticks(tmp_path: Path, context: int):
    spec, felt = replace(SPEC, context=context), []

    class Feeling(Reading):
        def __init__(self) -> None:
            super().__init__()
            self.spec = spec

        def logits(self, images, proprio, instructions):
            felt.append(proprio[..., 0])
            return torch.zeros(len(instructions), 1)

    measure(Brighter(spec), Feeling(), ENV, [counted(5)], tmp_path, Dreamer())
    real, dreamt = felt
    ends = torch.arange(6)[:, None]
    back = 2 * torch.arange(context - 1, -1, -1)
    assert torch.equal(real, (ends - back).clamp(min=0).float())
    assert dreamt.shape == (3, context)
    assert torch.equal(dreamt[:, :-1], torch.tensor([[0, 0], [0, 2], [2, 4]]).float()[:, 3 - context :])
