"""The network of OpenVLA-OFT from pixels and prompts to logits: how the parts meet, and where its weights come from."""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acceerl.policies.openvla_oft import checkpoint
from acceerl.policies.openvla_oft.language import LanguageModel
from acceerl.policies.openvla_oft.prompts import PromptBatch
from acceerl.policies.openvla_oft.shape import Shape
from acceerl.policies.openvla_oft.vision import Projector, VisionBackbone

NOISE = 1_048_573  # a prime: rows of a matrix do not repeat


class Network(nn.Module):
    """The parts that a checkpoint holds, under its names."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.vision_backbone = VisionBackbone(shape.towers)
        self.projector = Projector(self.vision_backbone.width, shape.language.hidden_size)
        self.language_model = LanguageModel(shape.language)

    def forward(self, pixels: Tensor, prompts: PromptBatch, places: int, remember: bool = True) -> Tensor:
        """States that choose the actions, [N, places, width], of K pictures a row: `pixels` is [N, K, 6, 224, 224].

        As in any causal model, the state that chooses a token stands one place before it.
        """
        rows, pictures = pixels.shape[:2]
        patches = self.projector(self.vision_backbone(pixels.flatten(0, 1), remember))
        patches = patches.unflatten(0, (rows, pictures)).flatten(1, 2)
        words = self.language_model.embed(prompts.ids) * ~prompts.actions[..., None]
        states = torch.cat([words[:, :1], patches, words[:, 1:]], dim=1)
        seen = patches.shape[1]
        valid = prompts.valid
        if valid is not None:
            valid = torch.cat([valid.new_ones(rows, seen), valid], dim=1)
        states = self.language_model(states, valid, remember)
        at = prompts.lengths[:, None] - 1 + seen + torch.arange(places, device=states.device)
        return states.gather(1, at[..., None].expand(-1, -1, states.shape[-1]))


class ValueHead(nn.Module):
    """An attention-pooled value of the action states, float32 whatever they are."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.pool = nn.Linear(width, 1)
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, 1))

    def forward(self, states: Tensor) -> Tensor:
        """[N, places, width] -> [N]."""
        states = states.float()
        shares = self.pool(states).softmax(dim=1)
        return self.layers((shares * states).sum(dim=1))[:, 0]


def empty_network(shape: Shape) -> Network:
    """The network on the meta device: names and shapes, no memory."""
    with torch.device("meta"):
        network = Network(shape)
    # its frequencies are in no checkpoint
    network.language_model.computed_positions()
    return network


def load_network(folder: Path, shape: Shape, dtype: torch.dtype) -> tuple[Network, Tensor]:
    """The checkpoint's network in `dtype`, and the rows of its head for actions, float32 [bins, width]."""
    shards = checkpoint.Shards(folder)
    network = empty_network(shape)
    checkpoint.load(network, shards, dtype)
    return network, checkpoint.action_rows(shards, shape.tokens, shape.bins).float()


def random_network(shape: Shape, dtype: torch.dtype, seed: int) -> tuple[Network, Tensor]:
    """The same with random weights, made at the speed of memory: for benchmarks and tests."""
    network = empty_network(shape)
    noise = torch.randn(NOISE, generator=torch.Generator().manual_seed(seed)).to(dtype)
    for name, parameter in list(network.named_parameters()):
        checkpoint.place(network, name, _random(name, parameter.shape, noise))
    width = shape.language.hidden_size
    return network, _random("head", torch.Size((shape.bins, width)), noise).float()


def _random(name: str, shape: torch.Size, noise: Tensor) -> Tensor:
    """Ones for the scale of a norm, zeros for biases, else noise that keeps the size of what passes through."""
    if name.endswith("bias"):
        return torch.zeros(shape, dtype=noise.dtype)
    if len(shape) == 1:
        return torch.ones(shape, dtype=noise.dtype)
    turned = noise.roll(zlib.crc32(name.encode()) % NOISE)
    count = shape.numel()
    filled = turned.repeat(-(-count // NOISE))[:count] if count > NOISE else turned[:count].clone()
    return filled.view(shape).mul_(1 / math.sqrt(math.prod(shape[1:])))


def action_logits(states: Tensor, rows: Tensor) -> Tensor:
    """float32 [..., bins]."""
    return F.linear(states, rows.to(states.dtype)).float()
