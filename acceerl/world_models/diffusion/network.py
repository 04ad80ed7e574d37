"""The network of the denoiser: past frames, actions and a noisy frame in, EDM's network output for that frame out.

Three parts, so that a sampler repeats only what changes: `see` the past (once a tick), `styles` of all noise levels
(once a tick), `forward` on the noisy frame (every step).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acceerl.world_models.diffusion.unet import EPS, GROUP, Style, Unet, parts


class Network(nn.Module):
    """C image channels (of all cameras) of K past frames, and `deeds` numbers for each: what was done after it."""

    def __init__(
        self, image: int, context: int, deeds: int, channels: Sequence[int], blocks: Sequence[int], cond: int
    ) -> None:
        super().__init__()
        self.past = image * context
        self.register_buffer("waves", torch.randn(1, cond // 2))
        self.deeds = nn.Linear(deeds, cond // context, bias=False)
        self.mix = nn.Sequential(nn.Linear(cond, cond), nn.SiLU(), nn.Linear(cond, cond))
        self.stem = nn.Conv2d(self.past + image, channels[0], 3, padding=1)
        self.unet = Unet(channels, blocks, cond)
        self.norm = nn.GroupNorm(parts(channels[0], GROUP), channels[0], eps=EPS)
        self.head = nn.Conv2d(channels[0], image, 3, padding=1)
        # Actions are about half as large as they can be: the embedding begins as loud as the one of the noise.
        nn.init.normal_(self.deeds.weight, std=2 / math.sqrt(deeds))
        nn.init.zeros_(self.head.weight)

    def styles(self, c_noise: Tensor, deeds: Tensor) -> list[Style]:
        """`c_noise` [M] and `deeds` [M, K, deeds] -> the U-Net's modulations of M rows."""
        # A product by broadcasting: autocast would make a matrix product bfloat16, and angles need their digits.
        phase = 2 * math.pi * c_noise[:, None] * self.get_buffer("waves")
        return self.unet.styles(self.mix(torch.cat((phase.cos(), phase.sin()), dim=-1) + self.deeds(deeds).flatten(1)))

    def see(self, past: Tensor) -> Tensor:
        """The stem's share of K past frames, [N, K * C, H, W], oldest first, divided by the data's deviation."""
        return F.conv2d(past, self.stem.weight[:, : self.past], self.stem.bias, padding=1)

    def forward(self, noisy: Tensor, seen: Tensor, styles: Sequence[Style]) -> Tensor:
        """`noisy` [N, C, H, W], times c_in, and what `see` saw -> [N, C, H, W]."""
        x = self.unet(seen + F.conv2d(noisy, self.stem.weight[:, self.past :], padding=1), styles)
        return self.head(F.silu(self.norm(x)))
