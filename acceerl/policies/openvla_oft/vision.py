"""The two vision towers and the projector, under the original's parameter names. Read this beside timm's ViT.

Written out instead of taken from `transformers`: there, queries, keys and values are three matrices and DINOv2 has a
position for its class token. Original checkpoints have one `qkv` matrix and no such position, and so have LoRA adapters
for them; with the original's own layout nothing has to be converted on the way in or out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from acceerl.policies.openvla_oft.images import SIDE
from acceerl.policies.openvla_oft.shape import Tower

EPS = 1e-6


class VisionBackbone(nn.Module):
    """Both towers on the same picture, side by side in the feature dimension."""

    def __init__(self, towers: tuple[Tower, ...]) -> None:
        super().__init__()
        self.featurizer, self.fused_featurizer = (VisionTower(tower) for tower in towers)
        self.width = sum(tower.width for tower in towers)

    @property
    def patches(self) -> int:
        """Tokens a picture."""
        return self.featurizer.pos_embed.shape[1]

    def forward(self, pixels: Tensor, remember: bool = True) -> Tensor:
        """[N, 6, 224, 224] -> [N, patches, width]; `remember`: keep activations for the backward pass."""
        first, second = pixels.split(3, dim=1)
        return torch.cat([self.featurizer(first, remember), self.fused_featurizer(second, remember)], dim=-1)


class VisionTower(nn.Module):
    """A pre-norm ViT without its last block and its head: OpenVLA reads the features before them."""

    def __init__(self, shape: Tower) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, (SIDE // shape.patch) ** 2, shape.width))
        if shape.registers:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.width))
            self.reg_token = nn.Parameter(torch.zeros(1, shape.registers, shape.width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, shape.width, shape.patch, shape.patch)})
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.blocks - 1))
        self.prefix = 1 + shape.registers if shape.registers else 0

    def forward(self, pixels: Tensor, remember: bool) -> Tensor:
        """[N, 3, 224, 224] -> [N, patches, width]."""
        states = self.patch_embed["proj"](pixels).flatten(2).mT + self.pos_embed
        if self.prefix:
            tokens = torch.cat([self.cls_token, self.reg_token], dim=1)
            states = torch.cat([tokens.expand(len(states), -1, -1), states], dim=1)
        for block in self.blocks:
            states = block(states) if remember else checkpoint(block, states, use_reentrant=False)
        return states[:, self.prefix :]


class Block(nn.Module):
    """Attention, then two dense layers; each scaled where the tower has LayerScale."""

    def __init__(self, shape: Tower) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(shape.width, EPS), nn.LayerNorm(shape.width, EPS)
        self.attn = Attention(shape.width, shape.heads)
        self.mlp = Mlp(shape.width, shape.mlp)
        self.ls1: nn.Module = Scale(shape.width) if shape.scaled else nn.Identity()
        self.ls2: nn.Module = Scale(shape.width) if shape.scaled else nn.Identity()

    def forward(self, states: Tensor) -> Tensor:
        states = states + self.ls1(self.attn(self.norm1(states)))
        return states + self.ls2(self.mlp(self.norm2(states)))


class Attention(nn.Module):
    """Every token sees every other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, states: Tensor) -> Tensor:
        query, key, value = self.qkv(states).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, states: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(states)))


class Scale(nn.Module):
    """LayerScale; `scale_factor`, since Hugging Face renames parameters called gamma."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale_factor = nn.Parameter(torch.ones(width))

    def forward(self, states: Tensor) -> Tensor:
        return states * self.scale_factor


class Projector(nn.Module):
    """Patch features to the language model's width."""

    def __init__(self, seen: int, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(seen, 4 * seen), nn.Linear(4 * seen, width), nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        return self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(features)))))
