"""Worlds for tests: a square that actions move, and models whose answers are known by heart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from acceerl.protocols import History, WorldSpec
from acceerl.types import Assignment, ClipBatch, EnvSpec
from acceerl.world_models.imagined import Start
from acceerl.world_models.regression import RegressionWorld

SPEC = WorldSpec(cameras=("front",), image_size=(16, 16), proprio=2, action_dim=2, stride=2, context=1)
ENV = EnvSpec(("front",), (16, 16), 2, 2, ("go left", "go right"), (10, 7), range(4), range(4, 5))
SIDE = 4


def world(spec: WorldSpec = SPEC, **numbers: Any) -> RegressionWorld:
    return RegressionWorld(spec, **({"channels": 8, "blocks": 1, "condition": 32} | numbers))


def square(column: int, size: tuple[int, int] = (16, 16), shade: int = 230) -> np.ndarray:
    """uint8 [H, W, 3]: grey, with a bright square whose left edge is at `column`."""
    frame = np.full((*size, 3), 60, np.uint8)
    frame[4 : 4 + SIDE, column : column + SIDE] = shade
    return frame


def moving(n: int = 8, ticks: int = 1, spec: WorldSpec = SPEC, seed: int = 0) -> ClipBatch:
    """Windows in which the first action says where the square goes, 4 pixels left or right a tick, round a ring."""
    rng = np.random.default_rng(seed)
    k = spec.context + ticks
    turns = rng.choice([-1, 1], (n, k - 1))
    begins = SIDE * rng.integers(0, spec.image_size[1] // SIDE, n)
    columns = (begins[:, None] + SIDE * np.cumsum(np.pad(turns, ((0, 0), (1, 0))), axis=1)) % spec.image_size[1]
    frames = np.stack([[square(c, spec.image_size) for c in row] for row in columns])
    actions = np.zeros((n, k - 1, spec.stride, spec.action_dim), np.float32)
    actions[..., 0] = turns[..., None]
    body = np.repeat(columns[..., None] / spec.image_size[1], max(spec.proprio, 1), axis=2).astype(np.float32)
    return ClipBatch(
        {c: frames if i == 0 else frames[:, :, ::-1].copy() for i, c in enumerate(spec.cameras)},
        body, actions, np.full((n, k - 1), spec.stride), np.ones((n, k), bool), np.zeros((n, k), bool),
        tuple("go left" if turn < 0 else "go right" for turn in turns[:, -1]),
    )  # fmt: skip


def past_of(windows: ClipBatch, spec: WorldSpec = SPEC) -> History:
    """The first `context` frames of windows."""
    k = spec.context
    return History(
        {c: torch.from_numpy(windows.images[c][:, :k].copy()) for c in spec.cameras},
        torch.from_numpy(windows.proprio[:, :k, : spec.proprio].copy()),
        torch.from_numpy(windows.actions[:, : k - 1].copy()),
    )


def train(model: Any, windows: ClipBatch, steps: int, lr: float = 1e-2) -> list[float]:
    """Losses of so many updates; the law of the body learns from each window's first tick."""
    model.train()
    optimiser, losses, k = torch.optim.Adam(model.parameters(), lr), [], model.spec.context
    luck, drawn = (torch.arange(len(windows)) + 0.5) / len(windows), torch.Generator().manual_seed(0)
    first = replace(windows, proprio=windows.proprio[:, : k + 1], actions=windows.actions[:, :k],
                    executed=windows.executed[:, :k])  # fmt: skip
    for _ in range(steps):
        loss, _ = model.loss(windows)
        optimiser.zero_grad()
        (loss + model.body_loss(first, luck[torch.randperm(len(windows), generator=drawn)])).backward()
        optimiser.step()
        losses.append(loss.item())
    model.eval()
    return losses


class Brighter(nn.Module):
    """A world in which every executed control step makes each pixel, and the body, one brighter."""

    def __init__(self, spec: WorldSpec = SPEC) -> None:
        super().__init__()
        self.spec, self.weight = spec, nn.Parameter(torch.zeros(()))
        self.asked: list[list[int]] = []
        self.luck: Tensor | None = None

    def predict(
        self, past: History, actions: Tensor, executed: Tensor | None = None, luck: Tensor | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        self.luck = luck
        done = executed if executed is not None else torch.full((len(past),), actions.shape[1])
        self.asked.append(done.tolist())
        images = {c: (x[:, -1] + done[:, None, None, None]).to(torch.uint8) for c, x in past.images.items()}
        step = torch.arange(1, actions.shape[1] + 1).clamp(max=done[:, None])
        return images, past.proprio[:, -1:] + step[..., None]


class Flickering(Brighter):
    """The same with noise, which `seed` decides."""

    def __init__(self, spec: WorldSpec = SPEC) -> None:
        super().__init__(spec)
        self.generator = torch.Generator()

    def seed(self, seed: int) -> None:
        self.generator.manual_seed(seed)

    def predict(
        self, past: History, actions: Tensor, executed: Tensor | None = None, luck: Tensor | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        _, path = super().predict(past, actions, executed)
        images = {c: torch.randint(0, 40, x[:, -1].shape, generator=self.generator, dtype=torch.uint8)
                  for c, x in past.images.items()}  # fmt: skip
        return images, path


class Reading(nn.Module):
    """Success is what the body feels first, in 128ths, or what the first pixel shows where no body is felt.

    The members' opinions lie `spread` around it.
    """

    def __init__(self, spread: float = 0.0, spec: WorldSpec = SPEC) -> None:
        super().__init__()
        self.spec, self.spread = spec, spread

    def probability(self, images: dict[str, Tensor], felt: Tensor, instructions: Sequence[str]) -> Tensor:
        seen = images[self.spec.cameras[0]][:, 0, 0, :1].float()
        p = (felt[:, self.spec.context :, 0] if self.spec.proprio else seen) / 128
        return torch.stack([p - self.spread, p + self.spread], dim=-1)


def start(shade: int, task: int = 0, steps: int = 0, spec: WorldSpec = SPEC, **changes: Any) -> Start:
    """A context of frames of one shade."""
    made = Start(
        {c: np.full((spec.context, *spec.image_size, 3), shade, np.uint8) for c in spec.cameras},
        np.full((spec.context, max(spec.proprio, 2)), shade, np.float32),
        np.zeros((spec.context - 1, spec.stride, spec.action_dim), np.float32),
        Assignment(task, 0, 0), ENV.instructions[task], steps,
    )  # fmt: skip
    return replace(made, **changes)
