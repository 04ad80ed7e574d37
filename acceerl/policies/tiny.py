"""The `tiny` policy: a vision-language-action transformer of 1.7 million parameters that learns on a laptop core.

Each camera's frame becomes an 8 x 8 grid of tokens through a small convolutional stem that the instruction modulates
(FiLM, Perez et al. 2018). One query for each control step of the chunk, a proprioception token and an instruction
token read those grids through a few transformer blocks; the grids themselves are never updated, which is what
makes the policy fast (Perceiver, Jaegle et al. 2021). Each query then gives the logits of all its action dimensions
at once, as in OpenVLA-OFT's parallel decoding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acceerl.policies.tiny_parts import GRID, Block, Glance, Instructions, Stem, places
from acceerl.policies.tokens import centres
from acceerl.protocols import Evaluation, PolicySpec
from acceerl.types import ActionBatch, ObservationBatch

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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
        if min(width, layers, heads, channels, waves, words) < 1 or vocabulary < 2 or width % heads:
            raise ValueError(
                f"policy.width={width} must be a multiple of policy.heads={heads}, and all sizes at least 1"
            )
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
        self.place = nn.Parameter(places(len(spec.cameras)))
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


def _cosines(bins: int, waves: int) -> Tensor:
    """The first `waves` rows of the DCT-II basis after the constant, float32 [waves, bins]."""
    phase = (torch.arange(bins) + 0.5) * (math.pi / bins)
    return torch.cos(torch.arange(1, waves + 1)[:, None] * phase)
