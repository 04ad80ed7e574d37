"""The U-Net of the denoiser: residual blocks that a conditioning vector modulates, of DIAMOND's shapes.

Levels have their own channels and depths, attention is in the middle only. Everything that the conditioning vector
decides is computed ahead, for all steps of a sampler at once: `modulations`, then `forward` with a part of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUP = 32  # channels that are normalised together
HEAD = 8  # channels of an attention head
EPS = 1e-5


class Modulation(NamedTuple):
    """What one normalisation is followed by, `x * scale + shift`; [N, C, 1, 1] each."""

    scale: Tensor
    shift: Tensor


Style = tuple[Modulation, Modulation]  # of the two normalisations of a block


def parts(channels: int, size: int) -> int:
    """How many equal parts of about `size` channels there are."""
    return next(n for n in range(max(1, channels // size), 0, -1) if channels % n == 0)


class Modulated(nn.Module):
    """Group normalisation whose scale and shift come from the conditioning vector, then SiLU."""

    def __init__(self, channels: int, cond: int) -> None:
        super().__init__()
        self.groups = parts(channels, GROUP)
        self.linear = nn.Linear(cond, 2 * channels)

    def modulation(self, cond: Tensor) -> Modulation:
        scale, shift = self.linear(cond)[:, :, None, None].chunk(2, dim=1)
        return Modulation(scale + 1, shift)

    def forward(self, x: Tensor, modulation: Modulation) -> Tensor:
        # Few passes over the pixels: scale and shift are one, or none for a single row; SiLU writes in place.
        if len(x) == 1:
            x = F.group_norm(x, self.groups, modulation.scale.flatten(), modulation.shift.flatten(), EPS)
        else:
            x = torch.addcmul(modulation.shift, F.group_norm(x, self.groups, eps=EPS), modulation.scale)
        return F.silu(x, inplace=not torch.is_grad_enabled())


class Attention(nn.Module):
    """Every place of a small grid attends to every other, [N, C, H, W] -> the same.

    What is attended to is added to the normalised input, not to the input: published weights were trained so.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = parts(channels, HEAD)
        self.norm = nn.GroupNorm(parts(channels, GROUP), channels, eps=EPS)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        for weight in self.out.parameters():
            nn.init.zeros_(weight)

    def forward(self, x: Tensor) -> Tensor:
        n, channels, h, w = x.shape
        x = self.norm(x)
        heads = self.qkv(x).reshape(n, 3, self.heads, channels // self.heads, h * w).transpose(3, 4)
        mixed = F.scaled_dot_product_attention(*heads.unbind(dim=1))
        return x + self.out(mixed.transpose(2, 3).reshape(n, channels, h, w))


class Block(nn.Module):
    """Two modulated convolutions beside a shortcut; begins as the shortcut alone."""

    def __init__(self, before: int, after: int, cond: int, attention: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2 = Modulated(before, cond), Modulated(after, cond)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.shortcut = nn.Conv2d(before, after, 1) if before != after else nn.Identity()
        self.attention = Attention(after) if attention else nn.Identity()
        nn.init.zeros_(self.conv2.weight)

    def style(self, cond: Tensor) -> Style:
        return self.norm1.modulation(cond), self.norm2.modulation(cond)

    def forward(self, x: Tensor, style: Style) -> Tensor:
        inner = self.conv2(self.norm2(self.conv1(self.norm1(x, style[0])), style[1]))
        return self.attention(inner + self.shortcut(x))


class Unet(nn.Module):
    """[N, channels[0], H, W] -> the same; H and W must be multiples of 2 ** (levels - 1)."""

    def __init__(self, channels: Sequence[int], blocks: Sequence[int], cond: int) -> None:
        super().__init__()
        levels = list(zip([channels[0], *channels[:-1]], channels, blocks, strict=True))
        self.down = nn.ModuleList(_chain([a] + [b] * (n - 1), [b] * n, cond) for a, b, n in levels)
        self.middle = _chain([channels[-1]] * 2, [channels[-1]] * 2, cond, attention=True)
        # A block for each of its level's outputs, and one for the level's input.
        self.up = nn.ModuleList(_chain([2 * b] * n + [a + b], [b] * n + [a], cond) for a, b, n in reversed(levels))
        self.shrink = nn.ModuleList(_halving(c) for c in channels[:-1])
        self.grow = nn.ModuleList(nn.Conv2d(c, c, 3, padding=1) for c in reversed(channels[:-1]))

    def blocks(self) -> Iterator[Block]:
        """In the order in which `forward` needs them."""
        return (module for module in self.modules() if isinstance(module, Block))

    def styles(self, cond: Tensor) -> list[Style]:
        """What `cond`, [N, cond], decides, for every block."""
        return [block.style(cond) for block in self.blocks()]

    def forward(self, x: Tensor, styles: Sequence[Style]) -> Tensor:
        ahead = iter(styles)
        skips: list[Tensor] = []
        for level, chain in enumerate(self.down):
            x = self.shrink[level - 1](x) if level else x
            skips.append(x)
            for block in _blocks(chain):
                x = block(x, next(ahead))
                skips.append(x)
        for block in self.middle:
            x = block(x, next(ahead))
        for level, chain in enumerate(self.up):
            x = self.grow[level - 1](F.interpolate(x, scale_factor=2.0, mode="nearest")) if level else x
            for block in _blocks(chain):
                x = block(torch.cat((x, skips.pop()), dim=1), next(ahead))
        return x


def _halving(channels: int) -> nn.Conv2d:
    convolution = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
    nn.init.orthogonal_(convolution.weight)
    return convolution


def _blocks(chain: nn.Module) -> nn.ModuleList:
    assert isinstance(chain, nn.ModuleList)
    return chain


def _chain(before: Sequence[int], after: Sequence[int], cond: int, attention: bool = False) -> nn.ModuleList:
    return nn.ModuleList(Block(a, b, cond, attention) for a, b in zip(before, after, strict=True))
