"""The formulas of diffusion in pixels, without a network: preconditioning, noise levels and the sampler.

EDM is Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", whose equation numbers
are given; DIAMOND is Alonso et al. 2024, "Diffusion for World Modeling". Images are floats in [-1, 1], [N, C, H, W].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

Draw = Callable[[tuple[int, ...]], Tensor]  # standard normal numbers of a shape
CHURN_LIMIT = math.sqrt(2) - 1  # EDM, algorithm 2


class Preconditioning(NamedTuple):
    """EDM's four factors for given noise levels, each of the shape of `sigma`."""

    c_in: Tensor
    c_out: Tensor
    c_skip: Tensor
    c_noise: Tensor


def preconditioning(sigma: Tensor, data: float, offset: float) -> Preconditioning:
    """EDM, table 1, for images of standard deviation `data`.

    Frames carry `offset` noise (one number a channel) beside white noise, so the level is `sqrt(sigma^2 + offset^2)`.
    """
    level = (sigma.square() + offset**2).sqrt()
    total = level.square() + data**2
    c_skip = data**2 / total
    return Preconditioning(total.rsqrt(), level * c_skip.sqrt(), c_skip, level.log() / 4)


def schedule(steps: int, low: float, high: float, rho: float) -> list[float]:
    """The `steps` noise levels of a sampler from `high` down to `low`, then 0: EDM, equation 5."""
    start, end = high ** (1 / rho), low ** (1 / rho)
    share = [i / max(1, steps - 1) for i in range(steps)]
    return [(start + s * (end - start)) ** rho for s in share] + [0.0]


def training_levels(normal: Tensor, mean: float, std: float, low: float, high: float) -> Tensor:
    """Log-normal noise levels, clipped, from standard normal numbers: EDM, table 1."""
    return (normal * std + mean).exp().clamp(low, high)


def add_noise(clean: Tensor, sigma: Tensor, offset: float, draw: Draw) -> Tensor:
    """White noise of level `sigma` [N] and `offset` noise, the same number for a whole channel of an image."""
    n, channels = clean.shape[:2]
    shift = offset * draw((n, channels, 1, 1))
    return clean + shift + draw(tuple(clean.shape)) * sigma[:, None, None, None]


def target(clean: Tensor, noisy: Tensor, factors: Preconditioning) -> Tensor:
    """What the network should say: EDM, equation 8; `factors` broadcast over pixels."""
    return (clean - factors.c_skip * noisy) / factors.c_out


def denoised(noisy: Tensor, output: Tensor, factors: Preconditioning) -> Tensor:
    """The image that the network's `output` means: EDM, equation 7."""
    return factors.c_skip * noisy + factors.c_out * output


def to_bytes(image: Tensor, down: bool = False) -> Tensor:
    """[-1, 1] to uint8, to the nearest level; `down` cuts off instead, as DIAMOND does."""
    levels = image.clamp(-1, 1).add(1).mul(127.5)
    return (levels if down else levels.add(0.5)).to(torch.uint8)


def from_bytes(levels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 to [-1, 1]."""
    return levels.to(dtype).div(127.5).sub(1)


def churned(sigma: float, levels: int, churn: float) -> float:
    """The level to which a step at `sigma` first raises its noise: EDM, algorithm 2; `levels` without the last 0."""
    return sigma * (1 + min(churn / levels, CHURN_LIMIT))


def visited(sigmas: Sequence[float], order: int, churn: float) -> list[float]:
    """Every level at which `sample` asks for a denoised image, in order, each once."""
    asked: dict[float, None] = {}
    for sigma, following in pairwise(sigmas):
        asked[churned(sigma, len(sigmas) - 1, churn)] = None
        if order == 2 and following:
            asked[following] = None
    return list(asked)


def sample(
    denoise: Callable[[Tensor, float], Tensor],
    x: Tensor,
    sigmas: Sequence[float],
    draw: Draw,
    order: int = 1,
    churn: float = 0.0,
) -> Tensor:
    """From noise `x` to an image, along `sigmas`: EDM, algorithm 2; `order` 1 is Euler, 2 is Heun."""
    for sigma, following in pairwise(sigmas):
        raised = churned(sigma, len(sigmas) - 1, churn)
        if raised > sigma:
            x = x + draw(tuple(x.shape)) * math.sqrt(raised**2 - sigma**2)
        slope = (x - denoise(x, raised)) / raised
        ahead = x + slope * (following - raised)
        if order == 2 and following:
            slope = (slope + (ahead - denoise(ahead, following)) / following) / 2
            ahead = x + slope * (following - raised)
        x = ahead
    return x
