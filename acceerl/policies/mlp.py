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
    proprio_mean: Tensor
    proprio_std: Tensor

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
        self.dense = [p for layer in (*self.layers, self.head, self.value_head) for p in (layer.weight, layer.bias)]
        self._at: list[int] = []
        self._held: list[tuple[np.ndarray, np.ndarray]] = []
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
        self.proprio_mean.copy_(torch.as_tensor(mean))
        self.proprio_std.copy_(torch.as_tensor(std))

    def trainable_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All parameters; those of the value head start with `value`."""
        return self.named_parameters()

    def act(self, observations: ObservationBatch, greedy: bool | Sequence[bool]) -> ActionBatch:
        """Chooses a chunk for each of N observations; `greedy` is one flag, or one a row."""
        logits, values = (self._light if self.light else self._heavy)(observations)
        logits -= logits.max(axis=-1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        tokens = self._choose(logits, greedy)
        bins = self.spec.bins
        chosen = logits.reshape(-1, bins)[np.arange(tokens.size), tokens.ravel()].reshape(tokens.shape)
        return ActionBatch(tokens.astype(np.int16), chosen, centres(bins)[tokens], values)

    @torch.inference_mode()
    def _heavy(self, observations: ObservationBatch) -> tuple[np.ndarray, np.ndarray]:
        """`_forward` for a network whose numbers cost more than torch's calls, or on a GPU."""
        logits, values = self._forward(observations)
        return logits.cpu().numpy(), values.cpu().numpy()

    def _light(self, observations: ObservationBatch) -> tuple[np.ndarray, np.ndarray]:
        """The same for a small one: float32 [N, C, D, bins] and [N], by numpy on the parameters' own memory."""
        *hidden, (head, head_bias), (value, value_bias) = self._views()
        state = self._numbers(observations)
        for weight, bias in hidden:
            state = np.maximum(state @ weight + bias, 0.0)
        spec = self.spec
        logits = (state @ head + head_bias).reshape(-1, spec.chunk, spec.action_dim, spec.bins)
        return logits, (state @ value + value_bias)[:, 0]

    def _views(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Each layer's weight, [in, out], and bias: anew when a version has brought memory of its own."""
        at = [parameter.data_ptr() for parameter in self.dense]
        if at != self._at:
            arrays = [parameter.detach().numpy().T for parameter in self.dense]
            self._at, self._held = at, list(zip(arrays[::2], arrays[1::2], strict=True))
        return self._held

    @property
    def light(self) -> bool:
        """Would torch's calls cost more than the numbers of this network?"""
        return self.dense[0].shape[1] < WIDE and self.dense[0].device.type == "cpu"

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
        state = torch.from_numpy(self._numbers(observations)).to(self.dense[0].device)
        for layer in self.layers:
            state = F.relu(_dense(layer, state))
        spec = self.spec
        logits = self.head(state).view(-1, spec.chunk, spec.action_dim, spec.bins)
        return logits, self.value_head(state.detach())[:, 0]

    def _numbers(self, observations: ObservationBatch) -> np.ndarray:
        """All that is observed, float32 [N, inputs]."""
        mean, std = (scale.cpu().numpy() for scale in (self.proprio_mean, self.proprio_std))
        scaled = (observations.proprio - mean) / std
        if not self.spec.cameras:
            return scaled
        return np.concatenate([*(_flat(observations.images[camera]) for camera in self.spec.cameras), scaled], axis=1)


def _dense(layer: nn.Module, rows: Tensor) -> Tensor:
    """What `layer(rows)` is, for a linear layer; float32 [N, out].

    Weights that fit no cache should be read once. MKL does that when they stand left of the product; with the rows to
    the left, as in `layer(rows)`, 16 rows of 150,535 numbers took twice as long, and 14 rows four times.
    """
    assert isinstance(layer, nn.Linear)
    if layer.in_features < WIDE or len(rows) <= FEW:
        return F.linear(rows, layer.weight, layer.bias)
    wide: Tensor = _Wide.apply(rows, layer.weight, layer.bias)
    return wide


class _Wide(torch.autograd.Function):
    """A linear layer on rows that need no gradient; that of its weight is added up in place.

    Autograd would write the gradient of each accumulated part somewhere and then add it: for 154 MB of weights that
    is more than twice the traffic, and these layers cost what they move.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        assert not rows.requires_grad, "a wide layer stands first"
        ctx.weight = weight  # not saved, which would forbid the optimiser's step: its value is not needed
        ctx.save_for_backward(rows)
        return torch.addmm(bias[:, None], weight, rows.t()).t()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor | None, Tensor]:
        (gradient,), (rows,), weight = gradients, ctx.saved_tensors, ctx.weight
        bias = gradient.sum(0)
        if weight.grad is None:
            return None, gradient.t() @ rows, bias
        weight.grad.addmm_(gradient.t(), rows)
        return None, None, bias


def _flat(images: np.ndarray) -> np.ndarray:
    """[N, ...] of bytes or floats -> float32 [N, numbers]."""
    flat = images.reshape(len(images), -1)
    return flat * np.float32(1 / 255) if flat.dtype == np.uint8 else flat.astype(np.float32, copy=False)
