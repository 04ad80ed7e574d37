"""The success model: does this frame show that the instruction is fulfilled? An ensemble, so that it can doubt.

Small convolutional networks whose features the instruction and the body modulate: whether fingers still hold what
stands in its place, and whether they held it on the way there, small pictures hardly show, but the body feels it.
Trained with the focal loss (Lin et al. 2017; PAPER: AcceRL, gamma 2), since fulfilled frames are rare, and for the same
reason on frames that are shifted, tinted and felt a little wrong. Members differ in their first weights and in the
frames that each is trained on; where they disagree, imagination has left what they know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acceerl.protocols import WorldSpec
from acceerl.world_models.parts import PRECISIONS, Scaled, check_precision
from acceerl.world_models.words import Words

SHIFT, TINT, FELT = (
    0.05,
    0.2,
    0.15,
)  # of a side, of a colour, of a deviation: few hundred successes are soon known by heart


class SuccessNet(Scaled):
    """See `protocols.SuccessModel`. `alpha` weighs fulfilled frames in the focal loss, `gamma` spares easy ones."""

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
        """Decides which frames each member leaves out from now on."""
        self.generator.manual_seed(seed)

    def loss(
        self, images: dict[str, np.ndarray], proprio: np.ndarray, instructions: Sequence[str], labels: np.ndarray
    ) -> tuple[Tensor, dict[str, float]]:
        """See `protocols.SuccessModel.loss`. Each member leaves out another random fifth of the frames."""
        device = self.get_buffer("temperature").device
        shown = {c: varied(torch.from_numpy(images[c]).to(device), self.generator) for c in self._spec.cameras}
        truth = torch.from_numpy(np.asarray(labels, np.float32)).to(device)
        noise = FELT * torch.randn(proprio.shape, generator=self.generator).to(device)
        felt = torch.from_numpy(np.asarray(proprio, np.float32)).to(device) + noise * self.get_buffer("proprio_std")
        logits = self._opinions(shown, felt, instructions)
        losses = focal_loss(logits, truth[:, None].expand_as(logits), self.gamma, self.alpha)
        kept = (torch.rand(losses.shape, generator=self.generator) < 0.8).float().to(device)
        loss = (losses * kept).sum() / kept.sum().clamp(min=1)
        return loss, {"success_loss": float(loss.detach())}

    @torch.no_grad()
    def logits(self, images: dict[str, Tensor], proprio: Tensor, instructions: Sequence[str]) -> Tensor:
        """float32 [N, M], before calibration."""
        return self._opinions(images, proprio, instructions)

    def _opinions(self, images: dict[str, Tensor], proprio: Tensor, instructions: Sequence[str]) -> Tensor:
        """Logits of every member, float32 [N, M]."""
        body = self._scaled(proprio)
        stacked = torch.cat([images[c] for c in self._spec.cameras], dim=-1).permute(0, 3, 1, 2)
        with torch.autocast(stacked.device.type, PRECISIONS[self.precision], enabled=self.precision != "float32"):
            places = F.pixel_unshuffle(stacked, 4).to(PRECISIONS[self.precision]) / 127.5 - 1
            places = places.contiguous(memory_format=torch.channels_last)
            return torch.stack([member(places, body, instructions) for member in self.members], dim=1).float()

    def probability(self, images: dict[str, Tensor], proprio: Tensor, instructions: Sequence[str]) -> Tensor:
        """See `protocols.SuccessModel.probability`."""
        return torch.sigmoid(self.logits(images, proprio, instructions) / self.get_buffer("temperature"))

    def calibrate(self, logits: Tensor, labels: Tensor) -> float:
        """Sets the temperature that makes probabilities likeliest on held-out frames (Guo et al. 2017); returns it.

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
    """One member: patches of 4 x 4 pixels [N, 16 * 3 * cameras, H/4, W/4], scaled proprioception [N, K, P] and
    instructions -> logits [N]."""

    def __init__(self, spec: WorldSpec, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.enter = nn.Conv2d(3 * len(spec.cameras) * 16, wide, 1)
        self.words = Words(wide)
        felt = spec.context * spec.proprio
        self.body = nn.Sequential(nn.Linear(felt, wide), nn.SiLU(), nn.Linear(wide, wide)) if felt else None
        self.place = nn.Parameter(torch.randn(1, wide, spec.image_size[0] // 4, spec.image_size[1] // 4) * 0.1)
        self.first = nn.Conv2d(wide, wide, 3, padding=1)
        self.films = nn.ModuleList(nn.Linear(wide, 2 * c) for c in (wide, 2 * wide))
        self.down = nn.Conv2d(wide, 2 * wide, 3, stride=2, padding=1)
        self.look = nn.Conv2d(2 * wide, 2 * wide, 3, stride=2, padding=1)
        self.head = nn.Sequential(nn.Linear(2 * 2 * wide, 2 * wide), nn.ReLU(), nn.Linear(2 * wide, 1))

    def forward(self, places: Tensor, body: Tensor, instructions: Sequence[str]) -> Tensor:
        asked = self.words(instructions)
        if self.body is not None:
            asked = asked + self.body(body.flatten(1))
        x = F.relu(self.enter(places) + self.place)
        x = _modulated(x + self.first(x), self.films[0], asked)
        x = _modulated(self.down(x), self.films[1], asked)
        x = F.relu(self.look(x)).flatten(2)
        logits: Tensor = self.head(torch.cat([x.mean(dim=2), x.amax(dim=2)], dim=1))[:, 0]
        return logits


def _modulated(x: Tensor, film: nn.Module, asked: Tensor) -> Tensor:
    scale, shift = film(asked)[:, :, None, None].chunk(2, dim=1)
    return F.relu(x * (1 + scale) + shift)


def varied(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each of the images, uint8 [N, H, W, 3], shifted with its edges drawn out (Kostrikov et al. 2020), and tinted."""
    n, h, w, _ = images.shape
    by = [round(SHIFT * side) for side in (h, w)]
    places = [
        (torch.arange(side) + torch.randint(-most, most + 1, (n, 1), generator=generator)).clamp(0, side - 1)
        for side, most in zip((h, w), by, strict=True)
    ]
    rows, columns = (p.to(images.device) for p in places)
    moved = images[torch.arange(n, device=images.device)[:, None, None], rows[:, :, None], columns[:, None]]
    tint = 1 + TINT * (2 * torch.rand(n, 1, 1, 3, generator=generator) - 1).to(images.device)
    return (moved.float() * tint).clamp(0, 255).to(torch.uint8)


def focal_loss(logits: Tensor, labels: Tensor, gamma: float, alpha: float) -> Tensor:
    """`-a (1 - p)^gamma log p`, p the probability of the true label, a `alpha` for 1 and `1 - alpha` for 0; [N].

    >>> focal_loss(torch.zeros(2), torch.tensor([1.0, 0.0]), 0.0, 0.5).tolist() == [0.5 * 0.6931471824645996] * 2
    True
    """
    likelihood = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    weight = alpha * labels + (1 - alpha) * (1 - labels)
    return weight * (1 - torch.exp(-likelihood)) ** gamma * likelihood
