"""The `tiny` policy: a vision-language-action transformer of about 1.5 million parameters that learns on a laptop core.

Each camera's frame becomes an 8 x 8 grid of tokens through a small convolutional stem that the instruction modulates
(FiLM, Perez et al. 2018). One query for each control step of the chunk, a proprioception token and an instruction
token read those grids through a few transformer blocks; the grids themselves are never updated, which is what
makes the policy fast (Perceiver, Jaegle et al. 2021). Each query then gives the logits of all its action dimensions
at once, as in OpenVLA-OFT's parallel decoding.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acceerl.policies.tokens import centres
from acceerl.protocols import Evaluation, PolicySpec
from acceerl.types import ActionBatch, ObservationBatch

GRID = 8  # tokens a side of each camera's grid
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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


class TinyPolicy(nn.Module):
    """A small Policy (see `protocols.Policy`). float32 by default; `precision="bfloat16"` trades exactness for speed.

    Logits over the bins are sums of `waves` cosines of the bin's position, not free numbers: neighbouring actions
    share evidence, so that a token that RL never sampled still learns from the ones beside it.
    Raises ValueError for an image size that 16 does not divide or an unknown precision.
    """

    kind = "tiny"

    def __init__(
        self,
        spec: PolicySpec,
        width: int = 128,
        layers: int = 3,
        heads: int = 4,
        channels: int = 64,
        waves: int = 40,
        words: int = 24,
        vocabulary: int = 1024,
        temperature: float = 1.0,
        precision: str = "float32",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if spec.image_size[0] % (2 * GRID) or spec.image_size[1] % (2 * GRID):
            raise ValueError(f"the tiny policy needs images whose sides 16 divides, not {spec.image_size}")
        if precision not in PRECISIONS:
            raise ValueError(f"unknown precision {precision!r}; choose one of {', '.join(PRECISIONS)}")
        self._spec = spec
        self.kwargs: dict[str, Any] = {
            "width": width, "layers": layers, "heads": heads, "channels": channels,
            "waves": waves, "words": words, "vocabulary": vocabulary,
        }  # fmt: skip
        self.temperature, self.precision = temperature, precision
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._build(spec, **self.kwargs)
        self.seed(seed)

    def _build(
        self,
        spec: PolicySpec,
        width: int,
        layers: int,
        heads: int,
        channels: int,
        waves: int,
        words: int,
        vocabulary: int,
    ) -> None:
        self.instructions = Instructions(width, heads, words, vocabulary)
        self.stems = nn.ModuleDict({camera: Stem(spec.image_size, channels, width) for camera in spec.cameras})
        self.place = nn.Parameter(_places(len(spec.cameras)))
        self.glance = Glance(width, channels, self.place.shape[1])
        self.register_buffer("proprio_mean", torch.zeros(spec.proprio))
        self.register_buffer("proprio_std", torch.ones(spec.proprio))
        self.proprio = nn.Sequential(nn.Linear(spec.proprio, width), nn.ReLU(), nn.Linear(width, width))
        self.queries = nn.Parameter(torch.randn(spec.chunk, width) * 0.5)
        self.blocks = nn.ModuleList(Block(width, heads, channels + self.place.shape[1]) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, spec.action_dim * waves)
        self.register_buffer("cosines", _cosines(spec.bins, waves), persistent=False)
        self.register_buffer("centres", torch.from_numpy(centres(spec.bins).copy()), persistent=False)
        self.value_pool = nn.Linear(width, 1)
        self.value_head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))

    @property
    def spec(self) -> PolicySpec:
        return self._spec

    def seed(self, seed: int) -> None:
        """Restarts the stream of random numbers that `act` samples from."""
        self.generator = torch.Generator().manual_seed(seed)

    def normalise_proprio(self, mean: np.ndarray, std: np.ndarray) -> None:
        """Sets the scale of proprioception, float [P] each; call once, before training."""
        self.get_buffer("proprio_mean").copy_(torch.as_tensor(mean))
        self.get_buffer("proprio_std").copy_(torch.as_tensor(std))

    def trainable_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All parameters; those of the value head start with `value`."""
        return self.named_parameters()

    @torch.inference_mode()
    def act(self, observations: ObservationBatch, greedy: bool | Sequence[bool]) -> ActionBatch:
        """Chooses a chunk for each of N observations; `greedy` is one flag, or one a row.

        The log-probabilities are those of `evaluate`: at a `temperature` other than 1 both are tempered.
        """
        logits, values = self._forward(observations)
        logp = F.log_softmax(logits, dim=-1)
        rows = torch.as_tensor(greedy, device=logp.device).expand(len(observations))
        tokens = torch.where(rows[:, None, None], logp.argmax(dim=-1), self._sample(logp))
        chosen = logp.gather(-1, tokens[..., None])[..., 0]
        actions = self.get_buffer("centres")[tokens]
        return ActionBatch(*(x.cpu().numpy() for x in (tokens.to(torch.int16), chosen, actions, values)))

    def evaluate(self, observations: ObservationBatch, tokens: np.ndarray | Tensor) -> Evaluation:
        """One differentiable pass; see `protocols.Policy.evaluate`. The value never trains the trunk."""
        logits, values = self._forward(observations)
        index = torch.as_tensor(tokens).to(logits.device, torch.int64)
        logp = F.log_softmax(logits, dim=-1).gather(-1, index[..., None])[..., 0]
        return Evaluation(logp, logits, values)

    def _sample(self, logp: Tensor) -> Tensor:
        """Inverse-CDF sampling: one uniform number a token instead of one a bin."""
        cumulative = logp.exp().cumsum(dim=-1)
        uniform = torch.rand((*logp.shape[:-1], 1), generator=self.generator).to(logp.device)
        # The sum is 1 but for rounding: scaling the draw by it keeps the index below `bins`.
        return torch.searchsorted(cumulative, uniform * cumulative[..., -1:])[..., 0].clamp_(max=logp.shape[-1] - 1)

    def _forward(self, observations: ObservationBatch) -> tuple[Tensor, Tensor]:
        """Logits float32 [N, C, D, bins] and values float32 [N]."""
        device = self.queries.device
        with torch.autocast(device.type, PRECISIONS[self.precision], enabled=self.precision != "float32"):
            states = self._states(observations, device)
        states = states.float()
        amplitudes = self.head(states).unflatten(-1, (self.spec.action_dim, -1))
        return amplitudes @ self.get_buffer("cosines") / self.temperature, self._values(states.detach())

    def _states(self, observations: ObservationBatch, device: torch.device) -> Tensor:
        """Action-query states [N, C, width]."""
        instruction = self.instructions(observations.instructions)
        frames = {name: torch.from_numpy(observations.images[name]).to(device) for name in self.spec.cameras}
        grids = torch.cat([stem(frames[name], instruction) for name, stem in self.stems.items()], dim=1)
        memory = torch.cat([grids, self.place.expand(len(grids), -1, -1)], dim=-1)
        latents = self._latents(observations.proprio, instruction, self.glance(grids, self.place, instruction))
        for block in self.blocks:
            latents = block(latents, memory)
        return self.norm(latents[:, : self.spec.chunk])

    def _latents(self, proprio: np.ndarray, instruction: Tensor, glance: Tensor) -> Tensor:
        """Queries, proprioception and instruction as tokens, [N, C + 2, width]."""
        raw = torch.as_tensor(proprio, dtype=torch.float32, device=instruction.device)
        scaled = (raw - self.get_buffer("proprio_mean")) / self.get_buffer("proprio_std")
        body = self.proprio(scaled)
        queries = self.queries + (instruction + body + glance)[:, None]
        return torch.cat([queries, body[:, None], instruction[:, None]], dim=1)

    def _values(self, states: Tensor) -> Tensor:
        """Attention-pooled value of detached states, [N]."""
        weights = self.value_pool(states).softmax(dim=1)
        return self.value_head((weights * states).sum(dim=1))[:, 0]


def _places(cameras: int) -> Tensor:
    """Where each grid token is: camera, coordinates and waves of them, float32 [cameras * 64, cameras + 14].

    Kept apart from what the token shows, so that attention to a thing reads its coordinates straight off (the soft
    arg-max of Finn et al. 2016), which is what makes reaching quick to learn.
    """
    line = (torch.arange(GRID) + 0.5) * (2 / GRID) - 1
    xy = torch.stack(torch.meshgrid(line, line, indexing="ij"), dim=-1).flatten(0, 1)
    waves = [f(math.pi * k * xy) for k in (0.5, 1.0, 2.0) for f in (torch.sin, torch.cos)]
    grid = torch.cat([xy, *waves], dim=-1)
    return torch.cat([torch.eye(cameras).repeat_interleave(len(grid), dim=0), grid.repeat(cameras, 1)], dim=-1)


def _cosines(bins: int, waves: int) -> Tensor:
    """The first `waves` rows of the DCT-II basis after the constant, float32 [waves, bins]."""
    phase = (torch.arange(bins) + 0.5) * (math.pi / bins)
    return torch.cos(torch.arange(1, waves + 1)[:, None] * phase)
