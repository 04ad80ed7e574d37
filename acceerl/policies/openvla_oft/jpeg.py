"""What a picture looks like after JPEG, exactly as TensorFlow gives it, for whole batches and on any device.

OpenVLA's pictures were stored as JPEG and its evaluation repeats that. TensorFlow decodes with libjpeg's fast inverse
transform, which PIL cannot be told to use: two thirds of the pixels would differ, by up to 4 grey levels. So the lossy
steps are computed here; entropy coding, which loses nothing, is left out. All arithmetic is in integers, as libjpeg
does it: quality 95, colour at half resolution. (Wallace 1992; the accurate transform of Loeffler, Ligtenberg and
Moschytz 1989 on the way in, that of Arai, Agui and Nakajima 1988 on the way out, in their order of operations.)
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK, TILE = 8, 16  # a tile has four blocks of brightness and one of each colour
QUALITY = 95
# Annex K of the standard
LUMINANCE = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
CHROMINANCE = f"17 18 24 47 {'99 ' * 4} 18 21 26 66 {'99 ' * 4} 24 26 56 {'99 ' * 5} 47 66 {'99 ' * 38}"


def through_jpeg(planes: Tensor) -> Tensor:
    """uint8 [N, 3, H, W], red, green, blue -> the same with the marks of JPEG."""
    height, width = planes.shape[2:]
    grown = _grow(planes, -height % TILE, -width % TILE).to(torch.int32)
    y, blue, red = _to_ycc(grown)
    bright, *colours = _steps(y, _table(LUMINANCE)), *(_steps(_halve(c), _table(CHROMINANCE)) for c in (blue, red))
    return _to_rgb(bright, *(_double(c) for c in colours))[:, :, :height, :width]


def _grow(planes: Tensor, down: int, right: int) -> Tensor:
    """To whole tiles, by repeating the last row and column."""
    if not down and not right:
        return planes
    return F.pad(planes.to(torch.float32), (0, right, 0, down), mode="replicate")


def _steps(plane: Tensor, divisors: np.ndarray) -> Tensor:
    """Transformed, rounded to multiples of the divisors, and back; int32 [N, H, W] in [0, 255]."""
    n, height, width = plane.shape
    blocks = plane.view(n, height // BLOCK, BLOCK, width // BLOCK, BLOCK).permute(2, 4, 0, 1, 3) - 128
    found = _quantised(_forward(_forward(blocks, 1, first=True), 0, first=False), divisors)
    whole = _inverse(_inverse(found * _scales(divisors, plane.device), 0), 1) >> 5
    return (whole + 128).clamp_(0, 255).permute(2, 3, 0, 4, 1).reshape(n, height, width)


def _quantised(found: Tensor, divisors: np.ndarray) -> Tensor:
    """Rounded to the nearest, halves away from zero; the forward transform's numbers are 8 times too large."""
    by = torch.from_numpy(divisors * 8).to(found.device)[..., None, None, None]
    return torch.div(found.abs() + by // 2, by, rounding_mode="floor") * found.sign()


def _forward(x: Tensor, axis: int, first: bool) -> Tensor:
    """One pass of the accurate transform along `axis`: 13 bits of fraction, of which the first pass keeps 2."""
    d = x.unbind(axis)
    (a0, a7), (a1, a6), (a2, a5), (a3, a4) = ((d[i] + d[7 - i], d[i] - d[7 - i]) for i in range(4))
    b0, b3, b1, b2 = a0 + a3, a0 - a3, a1 + a2, a1 - a2
    z1 = (b2 + b3) * 4433
    shift = 11 if first else 15
    ends = [(b0 + b1) << 2, (b0 - b1) << 2] if first else [_descale(b0 + b1, 2), _descale(b0 - b1, 2)]
    even = [ends[0], _descale(z1 + b3 * 6270, shift), ends[1], _descale(z1 - b2 * 15137, shift)]
    z5 = (a4 + a6 + a5 + a7) * 9633
    z1, z2 = (a4 + a7) * -7373, (a5 + a6) * -20995
    z3, z4 = (a4 + a6) * -16069 + z5, (a5 + a7) * -3196 + z5
    odd = [a7 * 12299 + z1 + z4, a6 * 25172 + z2 + z3, a5 * 16819 + z2 + z4, a4 * 2446 + z1 + z3]
    return torch.stack([x for pair in zip(even, (_descale(o, shift) for o in odd), strict=True) for x in pair], axis)


def _descale(x: Tensor, bits: int) -> Tensor:
    return (x + (1 << (bits - 1))) >> bits


def _inverse(x: Tensor, axis: int) -> Tensor:
    """One pass of the fast transform along `axis`: 8 bits of fraction, cut off."""
    d = x.unbind(axis)
    a, b, c = d[0] + d[4], d[0] - d[4], d[2] + d[6]
    e = ((d[2] - d[6]) * 362 >> 8) - c
    even = (a + c, b + e, b - e, a - c)
    z13, z10, z11, z12 = d[5] + d[3], d[5] - d[3], d[1] + d[7], d[1] - d[7]
    o0 = z11 + z13
    z5 = (z10 + z12) * 473 >> 8
    o1 = (z10 * -669 >> 8) + z5 - o0
    o2 = ((z11 - z13) * 362 >> 8) - o1
    o3 = -((z12 * 277 >> 8) - z5 + o2)  # the last pair comes out the other way round
    odd = (o0, o1, o2, o3)
    sums = [p + q for p, q in zip(even, odd, strict=True)]
    return torch.stack([*sums, *(p - q for p, q in reversed(list(zip(even, odd, strict=True))))], axis)


@lru_cache
def _table(text: str) -> np.ndarray:
    """Divisors at this quality, int32 [8, 8]."""
    base = np.array(text.split(), np.int32).reshape(BLOCK, BLOCK)
    return ((base * (200 - 2 * QUALITY) + 50) // 100).clip(1, 255)


def _scales(divisors: np.ndarray, device: torch.device) -> Tensor:
    """The divisors times what the fast transform leaves out, with 2 bits of fraction."""
    wave = [1.0, *(np.cos(k * np.pi / 16) * np.sqrt(2) for k in range(1, BLOCK))]
    left_out = np.rint(np.outer(wave, wave) * (1 << 14)).astype(np.int32)
    scales = (divisors * left_out + (1 << 11)) >> 12
    return torch.from_numpy(scales.astype(np.int32)).to(device)[..., None, None, None]


def _to_ycc(planes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r, g, b = planes.unbind(1)
    y = (19595 * r + 38470 * g + 7471 * b + 32768) >> 16
    middle = (128 << 16) + 32767
    blue = (-11059 * r - 21709 * g + 32768 * b + middle) >> 16
    red = (32768 * r - 27439 * g - 5329 * b + middle) >> 16
    return y, blue, red


def _to_rgb(y: Tensor, blue: Tensor, red: Tensor) -> Tensor:
    blue, red = blue - 128, red - 128
    r = y + ((91881 * red + 32768) >> 16)
    g = y + ((-22554 * blue - 46802 * red + 32768) >> 16)
    b = y + ((116130 * blue + 32768) >> 16)
    return torch.stack([r, g, b], dim=1).clamp_(0, 255).to(torch.uint8)


def _halve(plane: Tensor) -> Tensor:
    """Means of 2 x 2, rounded down and up in turn from column to column."""
    n, height, width = plane.shape
    sums = plane.view(n, height // 2, 2, width // 2, 2).sum(dim=(2, 4), dtype=torch.int32)
    return (sums + 1 + torch.arange(width // 2, device=plane.device, dtype=torch.int32) % 2) >> 2


def _double(plane: Tensor) -> Tensor:
    """Twice the size, three parts of the nearest and one of the next, both ways."""
    above, below = (torch.cat(p, 1) for p in ((plane[:, :1], plane[:, :-1]), (plane[:, 1:], plane[:, -1:])))
    tall = torch.stack([3 * plane + above, 3 * plane + below], dim=2).flatten(1, 2)
    before, after = (torch.cat(p, 2) for p in ((tall[..., :1], tall[..., :-1]), (tall[..., 1:], tall[..., -1:])))
    return torch.stack([(3 * tall + before + 8) >> 4, (3 * tall + after + 7) >> 4], dim=3).flatten(2, 3)
