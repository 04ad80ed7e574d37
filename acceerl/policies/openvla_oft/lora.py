"""LoRA (Hu et al. 2021) on every dense layer: W x + (alpha / rank) B A x, W frozen. Read this to see what is trained.

The adapters' names and shapes are those that `peft` gives them, so that its files can be read and written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PREFIX, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"  # of peft's names
HEAD = "language_model.lm_head"


class LoraLinear(nn.Linear):
    """A dense layer with an adapter beside it, which is float32: its steps are too small for bfloat16."""

    def __init__(self, layer: nn.Linear, rank: int, alpha: float, generator: torch.Generator) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self.scale = alpha / rank
        # as peft's "gaussian": the first factor random, the second zero, so that the layer starts as it was
        noise = torch.randn(rank, layer.in_features, generator=generator) / rank
        self.lora_A = nn.Parameter(noise)
        self.lora_B = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        given = F.linear(x, self.weight, self.bias)
        narrow = F.linear(x, self.lora_A.to(x.dtype)) * self.scale
        # added while it is multiplied, and scaled where it is narrow: four passes over what the layer gives are saved
        added = torch.addmm(given.flatten(0, -2), narrow.flatten(0, -2), self.lora_B.to(x.dtype).T)
        return added.view_as(given)

    def merged(self) -> Tensor:
        """The one matrix that does the same, in the layer's type."""
        return merge(self.weight, self.lora_A, self.lora_B, self.scale)


@torch.no_grad()
def merge(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """W + scale B A, in W's type. An adapter that is still zero gives W bit by bit: -0 + 0 would not be -0."""
    if not b.any():
        return weight
    change = (b.float() @ a.float()) * scale
    return (weight.float() + change.to(weight.device)).to(weight.dtype)


def adapt(parts: Iterable[tuple[str, nn.Module]], rank: int, alpha: float, generator: torch.Generator) -> None:
    """Freezes the parts and puts an adapter beside each of their dense layers.

    Raises ValueError for a rank below 1.
    """
    if rank < 1:
        raise ValueError(f"policy.rank={rank} must be at least 1")
    for _, part in parts:
        part.requires_grad_(False)
        for name, layer in [(n, m) for n, m in part.named_modules() if type(m) is nn.Linear]:
            above, _, own = name.rpartition(".")
            setattr(part.get_submodule(above), own, LoraLinear(layer, rank, alpha, generator))


def adapted(module: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """Every layer that has an adapter, by its name."""
    return ((name, layer) for name, layer in module.named_modules() if isinstance(layer, LoraLinear))


def exported(module: nn.Module) -> dict[str, Tensor]:
    """The adapters by peft's names."""
    return {
        f"{PREFIX}{name}.lora_{factor}.weight": getattr(layer, f"lora_{factor}").detach()
        for name, layer in adapted(module)
        for factor in "AB"
    }


def merge_into(
    module: nn.Module,
    adapters: Mapping[str, Tensor],
    settings: Mapping[str, object],
    at: str,
    *,
    head: Callable[[Tensor, Tensor, float], None],
    used: Callable[[str], bool],
) -> None:
    """Adds peft's adapters to the layers that they belong to; ones of layers that OpenVLA never runs are passed over.

    The head is given to `head(A, B, scale)`; the convolution of the patches has an adapter as well, since peft chooses
    layers by the last part of their name. Raises ValueError when an adapter has the wrong shape, lacks a factor, or is
    not for this model.
    """
    scale = _scale(settings, at)
    names = sorted(key.removeprefix(PREFIX).removesuffix(_A) for key in adapters if key.endswith(_A))
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
    strange = [name for name in names if name not in layers and name != HEAD and used(f"{name}.weight")]
    if strange or not names:
        raise ValueError(f"{at}: holds no adapter of this model ({strange[0] if strange else 'none at all'})")
    for name in names:
        a, b = adapters[f"{PREFIX}{name}{_A}"], adapters.get(f"{PREFIX}{name}{_B}")
        if b is None or b.shape[1] != a.shape[0]:
            raise ValueError(f"{at}: the adapter of {name} is not whole: copy it again")
        if name == HEAD:
            head(a, b, scale)
        elif name in layers:
            _merge_layer(layers[name], a.flatten(1), b.flatten(1), scale, f"{at}: the adapter of {name}")


def _merge_layer(layer: nn.Linear | nn.Conv2d, a: Tensor, b: Tensor, scale: float, what: str) -> None:
    weight = layer.weight.detach()
    if (len(b), a.shape[1]) != tuple(weight.flatten(1).shape):
        raise ValueError(f"{what} does not fit a layer of shape {list(weight.shape)}")
    merged = merge(weight.flatten(1), a, b, scale).view_as(weight)
    layer.weight = nn.Parameter(merged, requires_grad=layer.weight.requires_grad)


def _scale(settings: Mapping[str, object], at: str) -> float:
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if not isinstance(rank, int) or not isinstance(alpha, int | float) or settings.get("use_dora"):
        raise ValueError(f"{at}: not a LoRA adapter with `r` and `lora_alpha` (peft's adapter_config.json)")
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
