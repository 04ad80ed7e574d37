"""What OpenVLA-OFT does to a picture before the network sees it, with the numbers of the original's TensorFlow.

The training data went through JPEG and a Lanczos resize to 224 pixels, and training cropped it at random; so the
original evaluates with the same JPEG, the same resize and the centre crop of 0.9 of the area. Everything runs in
batches, on the device of the policy. Read this when pixels look different from what you expect.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from acceerl.policies.openvla_oft.jpeg import through_jpeg

SIDE = 224  # pixels, what both vision towers take
CROP = 0.9  # of the area
LOBES = 3  # of the Lanczos kernel


def prepare(frames: Tensor, crop: bool = True, rotate: bool = False) -> Tensor:
    """uint8 [N, H, W, 3] of any size -> uint8 [N, 3, 224, 224]. `rotate`: by 180 degrees, before all else.

    Raises ValueError for what is not an image of bytes with three channels.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != torch.uint8:
        raise ValueError(f"openvla_oft takes uint8 images [H, W, 3], got {frames.dtype} {list(frames.shape[1:])}")
    planes = frames.permute(0, 3, 1, 2)
    if rotate:
        planes = planes.flip(2, 3)
    if planes.shape[2:] != (SIDE, SIDE):
        planes = resize(through_jpeg(planes))
    return centre_crop(planes) if crop else planes


def resize(planes: Tensor) -> Tensor:
    """Lanczos with three lobes, widened when it shrinks (`tf.image.resize`, antialias); uint8 [N, 3, 224, 224]."""
    rows, columns = (torch.from_numpy(_lanczos(side)).to(planes.device) for side in planes.shape[2:])
    grown = rows @ planes.to(torch.float32) @ columns.T
    return grown.round_().clamp_(0, 255).to(torch.uint8)


def centre_crop(planes: Tensor) -> Tensor:
    """The middle `CROP` of the area, grown back (`tf.image.crop_and_resize`, bilinear); uint8 [N, 3, 224, 224]."""
    low, share = (x.to(planes.device) for x in _between(planes.shape[2]))
    unit = planes.to(torch.float32) * (1 / 255)
    # TensorFlow's order of operations: along x in both rows, then between the rows
    left, right = unit[..., low], unit[..., low + 1]
    wide = left + (right - left) * share
    above, below = wide[:, :, low], wide[:, :, low + 1]
    mixed = above + (below - above) * share[:, None]
    return (mixed.clamp_(0, 1) * 255.5).to(torch.uint8)


def normalise(planes: Tensor, means: Sequence[Sequence[float]], stds: Sequence[Sequence[float]]) -> Tensor:
    """uint8 [N, 3, S, S] -> float32 [N, 3 K, S, S]: the picture once for each of K towers, each with its own scale."""
    unit = planes.to(torch.float32).div(255)
    scales = [(torch.tensor(m).to(unit), torch.tensor(s).to(unit)) for m, s in zip(means, stds, strict=True)]
    return torch.cat([(unit - m[:, None, None]) / s[:, None, None] for m, s in scales], dim=1)


@lru_cache
def _lanczos(side: int) -> np.ndarray:
    """Weights that resize `side` pixels to 224, float32 [224, side]; each row sums to 1."""
    scale = np.float32(side / SIDE)
    stretch = max(float(scale), 1.0)
    centre = (np.arange(SIDE, dtype=np.float32) + np.float32(0.5)) * scale
    distance = (np.arange(side, dtype=np.float32) + np.float32(0.5) - centre[:, None]) / np.float32(stretch)
    kernel = np.sinc(distance) * np.sinc(distance / LOBES)
    kernel[np.abs(distance) > LOBES] = 0.0
    return (kernel / kernel.sum(axis=1, keepdims=True)).astype(np.float32)


@lru_cache
def _between(side: int) -> tuple[Tensor, Tensor]:
    """For each of 224 samples the pixel before it, int64 [224], and how far it is beyond, float32 [224]."""
    one, length = np.float32(1), np.sqrt(np.float32(CROP))
    first = (one - length) / np.float32(2)
    step = ((first + length) - first) * np.float32(side - 1) / np.float32(SIDE - 1)
    at = first * np.float32(side - 1) + np.arange(SIDE, dtype=np.float32) * step
    low = np.floor(at)
    return torch.from_numpy(low.astype(np.int64)), torch.from_numpy(at - low)
