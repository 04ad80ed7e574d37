"""The `mlp` policy: everything that is observed, flattened, through a few dense layers. For benchmarks and small tasks.

It costs so little that what surrounds it shows, and it takes numbers of any kind: frames of bytes, frames of floats
in any order of axes, or proprioception alone. It does not read the instruction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acceerl.policies.tokens import centres
from acceerl.protocols import Evaluation, PolicySpec
from acceerl.types import ActionBatch, ObservationBatch

CHANNELS = 3
WIDE, FEW = 4096, 2  # inputs of a layer from which on, and rows above which, `_dense` takes the other order


class MlpPolicy(nn.Module):
    """A Policy (see `protocols.Policy`) of dense layers with `hidden` units each.

    Cameras' arrays hold 3 x H x W numbers each, in whatever order; bytes are scaled to [0, 1], floats are taken as
    they are. Raises ValueError for an observation without any number, or layers without units.
    """

    kind = "mlp"

    def __init__(self, spec: PolicySpec, hidden: Sequence[int] = (64, 64), seed: int = 0) -> None:
        super().__init__()
        inputs = len(spec.cameras) * CHANNELS * spec.image_size[0] * spec.image_size[1] + spec.proprio
        if inputs < 1 or not hidden or min(hidden) < 1:
            raise ValueError(f"policy.hidden={list(hidden)} over {inputs} observed numbers: both need at least 1")
        self._spec = spec
        self.kwargs: dict[str, Any] = {"hidden": list(hidden)}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise((inputs, *hidden)))
            self.head = nn.Linear(hidden[-1], spec.chunk * spec.action_dim * spec.bins)
            self.value_head = nn.Linear(hidden[-1], 1)
        self.register_buffer("proprio_mean", torch.zeros(spec.proprio))
        self.register_buffer("proprio_std", torch.ones(spec.proprio))
        self.seed(seed)

    @property
    def spec(self) -> PolicySpec:
        return self._spec

    def seed(self, seed: int) -> None:
        """Restarts the stream of random numbers that `act` samples from."""
        self.rng = np.random.default_rng(seed)

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

        The choice is made in numpy: for batches this small, torch's calls would cost more than the network.
        """
        logits, values = (x.cpu().numpy() for x in self._forward(observations))
        logits = logits - logits.max(axis=-1, keepdims=True)
        logp = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        tokens = self._choose(logp, greedy)
        chosen = np.take_along_axis(logp, tokens[..., None], axis=-1)[..., 0]
        return ActionBatch(tokens.astype(np.int16), chosen, centres(self.spec.bins)[tokens], values)

    def evaluate(self, observations: ObservationBatch, tokens: np.ndarray | Tensor) -> Evaluation:
        """One differentiable pass; see `protocols.Policy.evaluate`. The value never trains the layers below it."""
        logits, values = self._forward(observations)
        index = torch.as_tensor(tokens).to(logits.device, torch.int64)
        return Evaluation(F.log_softmax(logits, dim=-1).gather(-1, index[..., None])[..., 0], logits, values)

    def _choose(self, logp: np.ndarray, greedy: bool | Sequence[bool]) -> np.ndarray:
        """Tokens [N, C, D]; sampled ones are the largest of log-probability plus Gumbel noise."""
        if greedy is True:
            return logp.argmax(axis=-1)
        noise = np.log(self.rng.standard_exponential(logp.shape, np.float32))
        if greedy is not False:
            noise[np.asarray(greedy)] = 0.0
        return (logp - noise).argmax(axis=-1)

    def _forward(self, observations: ObservationBatch) -> tuple[Tensor, Tensor]:
        """Logits float32 [N, C, D, bins] and values float32 [N]."""
        state = self._numbers(observations)
        for layer in self.layers:
            state = F.relu(_dense(layer, state))
        spec = self.spec
        logits = self.head(state).view(-1, spec.chunk, spec.action_dim, spec.bins)
        return logits, self.value_head(state.detach())[:, 0]

    def _numbers(self, observations: ObservationBatch) -> Tensor:
        """All that is observed, float32 [N, inputs]."""
        device = self.value_head.weight.device
        proprio = torch.as_tensor(observations.proprio, device=device)
        scaled = (proprio - self.get_buffer("proprio_mean")) / self.get_buffer("proprio_std")
        if not self.spec.cameras:
            return scaled
        frames = [_flat(observations.images[camera], device) for camera in self.spec.cameras]
        return torch.cat([*frames, scaled], dim=1)


def _dense(layer: nn.Module, rows: Tensor) -> Tensor:
    """What `layer(rows)` is, for a linear layer; float32 [N, out].

    Weights that fit no cache should be read once. MKL does that when they stand left of the product; with the rows to
    the left, as in `layer(rows)`, 16 rows of 150,535 numbers took twice as long, and 14 rows four times.
    """
    assert isinstance(layer, nn.Linear)
    if layer.in_features < WIDE or len(rows) <= FEW:
        return F.linear(rows, layer.weight, layer.bias)
    return torch.addmm(layer.bias[:, None], layer.weight, rows.t()).t()


def _flat(images: np.ndarray, device: torch.device) -> Tensor:
    """[N, ...] of bytes or floats -> float32 [N, numbers]."""
    flat = torch.from_numpy(images.reshape(len(images), -1)).to(device)
    return flat.float() / 255 if flat.dtype == torch.uint8 else flat.float()
