"""The success model: at which control step of a tick is the instruction fulfilled? An ensemble, so that it can doubt.

Small convolutional networks, which the instruction modulates, say what lies where when the tick begins (a soft arg-max
of places, Finn et al. 2016); the body's path tells the rest, step by step: did it let go there, and when. A picture of
64 pixels that is painted after the tick shows neither as exactly. Trained with the focal loss (Lin et al. 2017; PAPER:
AcceRL, gamma 2), since fulfilling steps are rare; the steps before them are its hard negatives. Members differ in their
first weights and in the ticks that each is trained on; where they disagree, imagination has left what they know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acceerl.protocols import WorldSpec
from acceerl.world_models.parts import PRECISIONS, Scaled, check_precision
from acceerl.world_models.words import Words

FELT = 0.05  # deviations of noise on what is felt: a dream's body is a little off
HEADS, SHOWN = 8, 16  # places that a member looks at, numbers that it reads there


class SuccessNet(Scaled):
    """See `protocols.SuccessModel`. `alpha` weighs fulfilling steps in the focal loss, `gamma` spares easy ones."""

    kind = "success"

    def __init__(
        self,
        spec: WorldSpec,
        members: int = 3,
        channels: int = 32,
        gamma: float = 2.0,
        alpha: float = 0.5,
        precision: str = "float32",
        seed: int = 0,
    ) -> None:
        super().__init__(spec.proprio)
        if spec.image_size[0] % 16 or spec.image_size[1] % 16:
            raise ValueError(f"the success model needs images whose sides 16 divides, not {spec.image_size}")
        if members < 1 or not 0 < alpha < 1:
            raise ValueError(f"success_model.members={members} must be at least 1, alpha={alpha} between 0 and 1")
        check_precision(precision)
        self._spec, self.gamma, self.alpha, self.precision = spec, gamma, alpha, precision
        self.kwargs: dict[str, Any] = {
            "members": members, "channels": channels, "gamma": gamma, "alpha": alpha, "precision": precision,
        }  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.members = nn.ModuleList(Judge(spec, channels) for _ in range(members))
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("threshold", torch.tensor(0.5))
        self.generator = torch.Generator().manual_seed(seed)

    @property
    def spec(self) -> WorldSpec:
        return self._spec

    def seed(self, seed: int) -> None:
        """Decides which ticks each member leaves out from now on."""
        self.generator.manual_seed(seed)

    def loss(
        self, images: dict[str, Tensor], felt: Tensor, instructions: Sequence[str], labels: Tensor, counted: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """See `protocols.SuccessModel.loss`. Each member leaves out another random fifth of the ticks."""
        noise = FELT * torch.randn(felt.shape, generator=self.generator).to(felt.device)
        logits = self._opinions(images, felt + noise * self.get_buffer("proprio_std"), instructions)
        losses = focal_loss(logits, labels.float()[..., None].expand_as(logits), self.gamma, self.alpha)
        kept = torch.rand((len(felt), 1, len(self.members)), generator=self.generator) < 0.8
        weights = counted[..., None] * kept.float().to(felt.device)
        loss = (losses * weights).sum() / weights.sum().clamp(min=1)
        return loss, {"success_loss": float(loss.detach())}

    @torch.no_grad()
    def logits(self, images: dict[str, Tensor], felt: Tensor, instructions: Sequence[str]) -> Tensor:
        """float32 [N, S, M], before calibration."""
        return self._opinions(images, felt, instructions)

    def _opinions(self, images: dict[str, Tensor], felt: Tensor, instructions: Sequence[str]) -> Tensor:
        """Logits of every member, float32 [N, S, M]."""
        body, k = self._scaled(felt), self._spec.context
        stacked = torch.cat([images[c] for c in self._spec.cameras], dim=-1).permute(0, 3, 1, 2)
        with torch.autocast(stacked.device.type, PRECISIONS[self.precision], enabled=self.precision != "float32"):
            places = F.pixel_unshuffle(stacked, 4).to(PRECISIONS[self.precision]) / 127.5 - 1
            places = places.contiguous(memory_format=torch.channels_last)
            opinions = [member(places, body[:, :k], body[:, k:], instructions) for member in self.members]
            return torch.stack(opinions, dim=-1)

    def probability(self, images: dict[str, Tensor], felt: Tensor, instructions: Sequence[str]) -> Tensor:
        """See `protocols.SuccessModel.probability`."""
        return torch.sigmoid(self.logits(images, felt, instructions) / self.get_buffer("temperature"))

    def calibrate(self, logits: Tensor, labels: Tensor) -> float:
        """Sets the temperature that makes probabilities likeliest on held-out steps (Guo et al. 2017); returns it.

        The focal loss leaves probabilities too near one half. `logits` [N, M], `labels` [N].
        """
        grid = torch.logspace(-1.5, 1, 51)
        truth = labels.float()[:, None].expand_as(logits)
        losses = torch.stack([F.binary_cross_entropy_with_logits(logits / t, truth) for t in grid])
        self.get_buffer("temperature").copy_(grid[losses.argmin()])
        return float(self.get_buffer("temperature"))

    def decide(self, threshold: float) -> None:
        """Sets the probability above which a dream counts as fulfilled."""
        self.get_buffer("threshold").fill_(threshold)


class Judge(nn.Module):
    """One member: patches of 4 x 4 pixels [N, 16 * 3 * cameras, H/4, W/4], scaled proprioception of the past [N, K, P]
    and of the tick's steps [N, S, P], and instructions -> logits [N, S]."""

    def __init__(self, spec: WorldSpec, channels: int) -> None:
        super().__init__()
        wide, grid = 2 * channels, (spec.image_size[0] // 4, spec.image_size[1] // 4)
        self.enter = nn.Conv2d(3 * len(spec.cameras) * 16, wide, 1)
        self.words = Words(wide)
        self.place = nn.Parameter(torch.randn(1, wide, *grid) * 0.1)
        self.convolutions = nn.ModuleList(nn.Conv2d(wide, wide, 3, padding=1) for _ in range(2))
        self.films = nn.ModuleList(nn.Linear(wide, 2 * wide) for _ in range(2))
        self.attend, self.read = nn.Conv2d(wide, HEADS, 1), nn.Conv2d(wide, SHOWN, 1)
        lines = [torch.linspace(-1, 1, side) for side in grid]
        self.register_buffer("where", torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1).flatten(0, 1))
        felt = spec.context * spec.proprio
        self.recall = nn.Sequential(nn.Linear(felt, wide), nn.SiLU(), nn.Linear(wide, wide)) if felt else None
        told = HEADS * (2 + SHOWN) + 2 * wide + 3 * spec.proprio
        self.head = nn.Sequential(
            nn.Linear(told, 2 * wide), nn.SiLU(), nn.Linear(2 * wide, 2 * wide), nn.SiLU(), nn.Linear(2 * wide, 1)
        )

    def forward(self, places: Tensor, past: Tensor, path: Tensor, instructions: Sequence[str]) -> Tensor:
        words = self.words(instructions)
        seen = self._seen(places, words)
        steps = torch.cat([past[:, -1:], past[:, -1:], path], dim=1)  # each is felt beside the two before it
        moved = torch.cat([steps[:, :-2], steps[:, 1:-1], path], dim=-1)
        with torch.autocast(path.device.type, enabled=False):  # millimetres decide
            recalled = self.recall(past.flatten(1)) if self.recall is not None else torch.zeros_like(words)
            told = torch.cat([seen, words.float(), recalled.float()], dim=1)[:, None].expand(-1, path.shape[1], -1)
            logits: Tensor = self.head(torch.cat([told, moved], dim=-1))[..., 0]
        return logits

    def _seen(self, places: Tensor, words: Tensor) -> Tensor:
        """What lies where: of each head the mean place that it attends to, and what is read there."""
        x = F.relu(self.enter(places) + self.place)
        for convolution, film in zip(self.convolutions, self.films, strict=True):
            scale, shift = film(words)[:, :, None, None].chunk(2, dim=1)
            x = F.relu((x + convolution(x)) * (1 + scale) + shift)
        attention, read = self.attend(x).flatten(2).float(), self.read(x).flatten(2).mT.float()
        with torch.autocast(x.device.type, enabled=False):  # places in parts of a pixel
            where = self.get_buffer("where").expand(len(x), -1, -1)
            return (attention.softmax(dim=-1) @ torch.cat([where, read], dim=-1)).flatten(1)


def focal_loss(logits: Tensor, labels: Tensor, gamma: float, alpha: float) -> Tensor:
    """`-a (1 - p)^gamma log p`, p the probability of the true label, a `alpha` for 1 and `1 - alpha` for 0; [N].

    >>> focal_loss(torch.zeros(2), torch.tensor([1.0, 0.0]), 0.0, 0.5).tolist() == [0.5 * 0.6931471824645996] * 2
    True
    """
    likelihood = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    weight = alpha * labels + (1 - alpha) * (1 - labels)
    return weight * (1 - torch.exp(-likelihood)) ** gamma * likelihood
