"""The parts of the tiny policy: how frames and instructions become tokens, and the block that reads them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GRID = 8  # tokens a side of each camera's grid


class Stem(nn.Module):
    """One camera's frames, uint8 [N, H, W, 3], and instruction vectors [N, width] -> grid tokens [N, 64, channels]."""

    def __init__(self, image_size: tuple[int, int], channels: int, width: int) -> None:
        super().__init__()
        self.patch = (image_size[0] // (2 * GRID), image_size[1] // (2 * GRID))
        self.embed = nn.Linear(3 * self.patch[0] * self.patch[1], channels)
        self.down = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.film = nn.Linear(width, 2 * channels)
        self.mix = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, frames: Tensor, instruction: Tensor) -> Tensor:
        x = F.relu(self._patches(frames))
        x = _stand_out(self.down(x))
        scale, shift = self.film(instruction)[:, :, None, None].chunk(2, dim=1)
        x = x + self.mix(F.relu(x * (1 + scale) + shift))
        return _stand_out(x).permute(0, 2, 3, 1).flatten(1, 2)

    def _patches(self, frames: Tensor) -> Tensor:
        """Non-overlapping patches through one matrix, [N, channels, 16, 16] laid out channels-last."""
        n, (h, w), side = len(frames), self.patch, 2 * GRID
        pixels = frames.view(n, side, h, side, w * 3).permute(0, 1, 3, 2, 4).reshape(n, side, side, h * w * 3)
        return self.embed(pixels.float() * (2 / 255) - 1).permute(0, 3, 1, 2)


def _stand_out(x: Tensor) -> Tensor:
    """Instance normalisation over [N, channels, H, W]: a uniform background becomes zero and things on it large."""
    variance, mean = torch.var_mean(x, dim=(2, 3), keepdim=True, correction=0)
    return (x - mean) * torch.rsqrt(variance + 1e-3)


class Block(nn.Module):
    """A pre-norm transformer block: latents attend to themselves and, if asked, to a memory that stays as it is."""

    def __init__(self, width: int, heads: int, memory_channels: int = 0) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.read = Read(width, heads, memory_channels) if memory_channels else None
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width)
        )

    def forward(self, latents: Tensor, memory: Tensor | None = None) -> Tensor:
        """`latents` [N, L, width]; `memory` [N, M, channels]."""
        if self.read is not None:
            latents = latents + self.read(latents, memory)
        heads = self.qkv(self.norm(latents)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*heads)
        latents = latents + self.out(attended.transpose(1, 2).flatten(2))
        return latents + self.mlp(latents)


class Read(nn.Module):
    """Cross-attention whose keys and values are the memory itself.

    Projecting the few queries into the memory's channels (and what they read back out of them) costs a small part
    of projecting every memory token to keys and values; the heads can express the same (multi-query attention,
    Shazeer 2019, with the projections absorbed).
    """

    def __init__(self, width: int, heads: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, heads * channels, bias=False)
        self.out = nn.Linear(heads * channels, width)

    def forward(self, latents: Tensor, memory: Tensor) -> Tensor:
        n, count, _ = latents.shape
        queries = self.query(self.norm(latents)).view(n, -1, self.channels) * self.channels**-0.5
        weights = (queries @ memory.transpose(1, 2)).softmax(dim=-1)
        return self.out((weights @ memory).view(n, count, -1))


class Glance(nn.Module):
    """Where everything that the instruction makes relevant is, as one vector [N, width].

    Gated channels times coordinates, summed over the grid: a path from colour and instruction to position without
    attention, which takes thousands of updates to find out what to look at when nothing else tells it.
    """

    def __init__(self, width: int, channels: int, coordinates: int) -> None:
        super().__init__()
        self.film = nn.Linear(width, 2 * channels)
        self.norm = nn.LayerNorm(channels * coordinates)
        self.out = nn.Linear(channels * coordinates, width)

    def forward(self, content: Tensor, place: Tensor, instruction: Tensor) -> Tensor:
        """`content` [N, M, channels], `place` [M, coordinates], `instruction` [N, width]."""
        scale, shift = self.film(instruction)[:, None].chunk(2, dim=-1)
        relevant = F.relu(content * (1 + scale) + shift)
        pooled = relevant.transpose(1, 2) @ (place - place.mean(dim=0))
        return self.out(self.norm(pooled.flatten(1)))


class Instructions(nn.Module):
    """Instructions -> vectors [N, width]. Words are hashed, so any English text has a code without a download."""

    def __init__(self, width: int, heads: int, words: int, vocabulary: int) -> None:
        super().__init__()
        self.words, self.vocabulary = words, vocabulary
        self.embed = nn.Embedding(vocabulary, width)
        self.sentence = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.randn(words, width) * 0.1)
        self.block = Block(width, heads)
        self.norm = nn.LayerNorm(width)
        self._codes: dict[str, list[int]] = {}

    def forward(self, instructions: Sequence[str]) -> Tensor:
        """Encodes each distinct instruction once: a batch usually holds few."""
        distinct = list(dict.fromkeys(instructions))
        codes = torch.tensor([self.encode(text) for text in distinct], device=self.position.device)
        written = (codes > 0).float()[..., None]  # padding would only make instructions look alike
        mixed = self.block((self.embed(codes) + self.position) * written) * written
        # Instructions of a suite differ in two words of fifteen, so their means are nearly parallel and take long
        # to tell apart; a code of the whole sentence is different from the first update.
        whole = torch.tensor([_code(text, self.vocabulary) for text in distinct], device=codes.device)
        vectors = self.norm(mixed.sum(dim=1) / written.sum(dim=1).clamp(min=1)) + self.sentence(whole)
        index = {text: i for i, text in enumerate(distinct)}
        return vectors[torch.tensor([index[text] for text in instructions], device=vectors.device)]

    def encode(self, text: str) -> list[int]:
        """Word codes of one instruction, padded with 0 and cut to `words`; the same on every machine (CRC-32)."""
        if text not in self._codes:
            codes = [1 + _code(word, self.vocabulary - 1) for word in text.lower().split()]
            self._codes[text] = (codes + [0] * self.words)[: self.words]
        return self._codes[text]


def _code(text: str, size: int) -> int:
    """A number below `size`, the same on every machine (CRC-32)."""
    return zlib.crc32(text.encode()) % size


def places(cameras: int) -> Tensor:
    """Where each grid token is: camera, coordinates and waves of them, float32 [cameras * 64, cameras + 14].

    Kept apart from what the token shows, so that attention to a thing reads its coordinates straight off (the soft
    arg-max of Finn et al. 2016), which is what makes reaching quick to learn.
    """
    line = (torch.arange(GRID) + 0.5) * (2 / GRID) - 1
    xy = torch.stack(torch.meshgrid(line, line, indexing="ij"), dim=-1).flatten(0, 1)
    waves = [f(math.pi * k * xy) for k in (0.5, 1.0, 2.0) for f in (torch.sin, torch.cos)]
    grid = torch.cat([xy, *waves], dim=-1)
    return torch.cat([torch.eye(cameras).repeat_interleave(len(grid), dim=0), grid.repeat(cameras, 1)], dim=-1)
