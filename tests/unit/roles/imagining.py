"""Declared doubles of world and success models, whose dreams can be computed by hand, and episodes to dream from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from acceerl.policies.tokens import centres
from acceerl.protocols import History, WorldSpec
from acceerl.roles.contexts import Alphabet
from acceerl.types import Assignment, ClipBatch, EnvSpec, Segment

CAMERAS = ("front",)
ENV = EnvSpec(CAMERAS, (16, 16), 3, 2, ("go", "come"), (12, 12), range(100), range(100, 110))
WORLD = WorldSpec(CAMERAS, (16, 16), 3, 2, stride=2, context=1)
ALPHABET = Alphabet(centres(16), chunk=2)


class Counting(nn.Module):
    """A world in which each executed control step makes every pixel, and the body, five levels brighter."""

    def __init__(self, spec: WorldSpec = WORLD) -> None:
        super().__init__()
        self.spec = spec
        self.weight = nn.Parameter(torch.zeros(()))

    def loss(self, windows: ClipBatch) -> tuple[torch.Tensor, dict[str, float]]:
        return (self.weight - 1) ** 2, {"picture_loss": float(self.weight.detach())}

    def predict(
        self,
        past: History,
        actions: torch.Tensor,
        executed: torch.Tensor | None = None,
        luck: torch.Tensor | None = None,
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        done = executed if executed is not None else torch.full((len(past),), actions.shape[1])
        images = {c: (x[:, -1] + 5 * done[:, None, None, None]).to(torch.uint8) for c, x in past.images.items()}
        steps = torch.arange(1, actions.shape[1] + 1).clamp(max=done[:, None])
        return images, past.proprio[:, -1:] + 5.0 * steps[..., None]


class Bright(nn.Module):
    """Success is brightness: the body's level over 100, at most 1; two members that agree."""

    def __init__(self, spec: WorldSpec = WORLD) -> None:
        super().__init__()
        self.spec = spec
        self.weight = nn.Parameter(torch.zeros(()))

    def loss(
        self,
        images: dict[str, torch.Tensor],
        felt: torch.Tensor,
        instructions: Sequence[str],
        labels: torch.Tensor,
        counted: torch.Tensor,
    ) -> tuple[torch.Tensor, dict[str, float]]:
        return (self.weight - 1) ** 2, {"success_loss": float(self.weight.detach())}

    def probability(
        self, images: dict[str, torch.Tensor], felt: torch.Tensor, instructions: Sequence[str]
    ) -> torch.Tensor:
        level = felt[:, self.spec.context :, 0] / 100
        return level.clamp(max=1)[..., None].expand(-1, -1, 2)


def episode(
    number: int, decisions: int = 4, level: int = 0, success: bool = True, task: int = 0, version: int = 0
) -> Segment:
    """A real episode whose frames, and body, all have one level."""
    tokens = np.random.default_rng(number).integers(0, 16, (decisions, 2, 2)).astype(np.int16)
    return Segment(
        assignment=Assignment(task, number, number),
        episode=number,
        start=0,
        instruction=ENV.instructions[task],
        images={"front": np.full((decisions + 1, 16, 16, 3), level, np.uint8)},
        proprio=np.full((decisions + 1, 3), level, np.float32),
        tokens=tokens,
        logp=np.zeros(tokens.shape, np.float32),
        values=np.zeros(decisions, np.float32),
        rewards=np.eye(decisions, dtype=np.float32)[-1] * success,
        executed=np.full(decisions, 2, np.int16),
        versions=np.full(decisions, version, np.int64),
        terminated=success,
        truncated=not success,
    )
