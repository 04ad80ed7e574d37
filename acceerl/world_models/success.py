"""The success model: at which control step of a tick is the instruction fulfilled? An ensemble, so that it can doubt.

Small convolutional networks say what lies where when the tick begins, below the body's path and where the words point
(a soft arg-max of places, Finn et al. 2016); the path tells the rest, step by step: did it let go there, and when. A
picture of 64 pixels that is painted after the tick shows neither as exactly. Trained with the focal loss (Lin et al.
2017; PAPER: AcceRL, gamma 2), since fulfilling steps are rare; the steps before them, and what did not happen
(counterfactuals.py), are its hard negatives. Members differ in their first weights and in the ticks that each is
trained on; where they disagree, imagination has left what they know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acceerl.protocols import WorldSpec
from acceerl.world_models.parts import PRECISIONS, Scaled, check_precision
from acceerl.world_models.words import Words

Seen = Callable[[Tensor], Tensor]
FORGOTTEN = 0.3  # of what a member sees, in training: else it knows a thousand episodes by heart
FELT = 0.05  # deviations of noise on what is felt: a dream's body is a little off
POINTS, LOOKS, READ = 8, 4, 16  # of a member: parts of the body, things that words name, numbers it reads of each
SPREAD, NARROW = 0.4, 12  # at first parts lie all over the picture, and each sees about three of sixteen places


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
        felt = felt + noise * self.get_buffer("proprio_std")
        logits = self._opinions(images, felt, instructions, self._partly)
        losses = focal_loss(logits, labels.float()[..., None].expand_as(logits), self.gamma, self.alpha)
        kept = torch.rand((len(felt), 1, len(self.members)), generator=self.generator) < 0.8
        weights = counted[..., None] * kept.float().to(felt.device)
        loss = (losses * weights).sum() / weights.sum().clamp(min=1)
        return loss, {"success_loss": float(loss.detach())}

    @torch.no_grad()
    def logits(self, images: dict[str, Tensor], felt: Tensor, instructions: Sequence[str]) -> Tensor:
        """float32 [N, S, M], before calibration."""
        return self._opinions(images, felt, instructions)

    def _partly(self, seen: Tensor) -> Tensor:
        """Drop-out from this model's own generator, so that ranks and resumed trainings draw alike."""
        kept = torch.rand(seen.shape, generator=self.generator) >= FORGOTTEN
        return seen * kept.to(seen) / (1 - FORGOTTEN)

    def _opinions(
        self, images: dict[str, Tensor], felt: Tensor, instructions: Sequence[str], seen: Seen = lambda x: x
    ) -> Tensor:
        """Logits of every member, float32 [N, S, M]."""
        body, k = self._scaled(felt), self._spec.context
        stacked = torch.cat([images[c] for c in self._spec.cameras], dim=-1).permute(0, 3, 1, 2)
        with torch.autocast(stacked.device.type, PRECISIONS[self.precision], enabled=self.precision != "float32"):
            places = F.pixel_unshuffle(stacked, 4).to(PRECISIONS[self.precision]) / 127.5 - 1
            places = places.contiguous(memory_format=torch.channels_last)
            past, path = body[:, :k], body[:, k:]
            opinions = [member(places, past, path, instructions, seen) for member in self.members]
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
    """One member: patches of 4 x 4 pixels [N, 16 * 3 * cameras, H/4, W/4]; of M questions about each, row m N + n about
    picture n, scaled proprioception of the past [M N, K, P] and of the tick's steps [M N, S, P], and instructions ->
    logits [M N, S].

    It looks where the body's parts will be in the picture at each step, which is nearly linear in the body's
    coordinates, and multiplies what lies there with the words: is it what they name? It also looks for what they name.
    """

    def __init__(self, spec: WorldSpec, channels: int) -> None:
        super().__init__()
        wide, grid = 2 * channels, (spec.image_size[0] // 4, spec.image_size[1] // 4)
        self.enter = nn.Conv2d(3 * len(spec.cameras) * 16, wide, 1)
        self.place = nn.Parameter(torch.randn(1, wide, *grid) * 0.1)
        self.convolutions = nn.ModuleList(nn.Conv2d(wide, wide, 3, padding=1) for _ in range(2))
        self.read, self.keys = nn.Conv2d(wide, READ, 1), nn.Conv2d(wide, LOOKS * READ, 1)
        self.words = Words(wide)
        self.sought, self.named = nn.Linear(wide, LOOKS * READ), nn.Linear(wide, wide)
        self.points, self.below = nn.Linear(max(spec.proprio, 1), POINTS * 3), nn.Linear(POINTS * READ, wide)
        nn.init.normal_(self.points.weight, std=SPREAD)
        lines = [torch.linspace(-1, 1, side) for side in grid]
        self.register_buffer("where", torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1).flatten(0, 1))
        felt = spec.context * spec.proprio
        self.recall = nn.Sequential(nn.Linear(felt, wide), nn.SiLU(), nn.Linear(wide, wide)) if felt else None
        told = LOOKS * (2 + READ) + 4 * wide + 3 * spec.proprio
        self.head = nn.Sequential(
            nn.Linear(told, 2 * wide), nn.SiLU(), nn.Linear(2 * wide, 2 * wide), nn.SiLU(), nn.Linear(2 * wide, 1)
        )

    def forward(self, places: Tensor, past: Tensor, path: Tensor, instructions: Sequence[str], seen: Seen) -> Tensor:
        """`seen` leaves some of what was seen out, in training."""
        x = F.relu(self.enter(places) + self.place)
        for convolution in self.convolutions:
            x = F.relu(x + convolution(x))
        read, keys = self.read(x).flatten(2).mT.float(), self.keys(x).flatten(2).unflatten(1, (LOOKS, READ)).float()
        with torch.autocast(path.device.type, enabled=False):  # millimetres decide
            words = self.words(instructions)
            recalled = self.recall(past.flatten(1)) if self.recall is not None else torch.zeros_like(words)
            looked, below = seen(self._looked(read, keys, words)), seen(self._below(read, path))
            told, steps = (
                torch.cat([looked, words, recalled], dim=1),
                torch.cat([past[:, -1:], past[:, -1:], path], dim=1),
            )
            named = below * self.named(words)[:, None]
            moved = [steps[:, :-2], steps[:, 1:-1], path]  # each step is felt beside the two before it
            logits: Tensor = self.head(
                torch.cat([below, named, told[:, None].expand(-1, path.shape[1], -1), *moved], dim=-1)
            )[..., 0]
        return logits

    def _looked(self, read: Tensor, keys: Tensor, words: Tensor) -> Tensor:
        """What the words name: of each look the mean place that it attends to, and what is read there [M N, .]."""
        sought = self.sought(words).view(-1, len(read), LOOKS, READ)
        attention = (torch.einsum("mnlk,nlkg->mnlg", sought, keys) / READ**0.5).softmax(dim=-1)
        where = self.get_buffer("where").expand(len(read), -1, -1)
        return (attention @ torch.cat([where, read], dim=-1)).flatten(2).flatten(0, 1)

    def _below(self, read: Tensor, path: Tensor) -> Tensor:
        """What is read where the body's parts will be, [M N, S, wide]."""
        somewhere = path if path.shape[2] else path.new_zeros(*path.shape[:2], 1)  # no body: always the same places
        row, column, size = self.points(somewhere).unflatten(-1, (POINTS, 3)).split(1, dim=-1)
        narrow = NARROW * (F.softplus(size) + 0.5)
        lines = self.get_buffer("where").view(*self.place.shape[2:], 2)
        down = (-((row - lines[:, 0, 0]) ** 2) * narrow).softmax(dim=-1)
        across = (-((column - lines[0, :, 1]) ** 2) * narrow).softmax(dim=-1)
        near = (down[..., None] * across[..., None, :]).flatten(-2)  # a round window is a product of two
        there = near.flatten(1, 2).unflatten(0, (-1, len(read))) @ read
        below: Tensor = self.below(there.flatten(0, 1).unflatten(1, (-1, POINTS)).flatten(2))
        return below


def focal_loss(logits: Tensor, labels: Tensor, gamma: float, alpha: float) -> Tensor:
    """`-a (1 - p)^gamma log p`, p the probability of the true label, a `alpha` for 1 and `1 - alpha` for 0; [N].

    >>> focal_loss(torch.zeros(2), torch.tensor([1.0, 0.0]), 0.0, 0.5).tolist() == [0.5 * 0.6931471824645996] * 2
    True
    """
    likelihood = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    weight = alpha * labels + (1 - alpha) * (1 - labels)
    return weight * (1 - torch.exp(-likelihood)) ** gamma * likelihood
