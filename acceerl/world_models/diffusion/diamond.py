"""Reads the weights of a DIAMOND denoiser (github.com/eloialonso/diamond) into a network of the same shape.

DIAMOND conditions on discrete actions through an embedding. That maps onto our linear layer when actions come as
one-hot vectors, one control step a tick; otherwise the layer keeps its own weights and is to be trained.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from acceerl.world_models.diffusion.world import DiffusionWorld

_WRAP = r"(_orig_mod\.|module\.)*"  # names that torch.compile and DDP put around a module
_PREFIX = re.compile(rf"^{_WRAP}(denoiser\.)?{_WRAP}inner_model\.{_WRAP}")
_ACTIONS = "act_emb.0.weight"
_RENAMES: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"^noise_emb\.weight$", "waves"),
    (r"^cond_proj\.", "mix."),
    (r"^conv_in\.", "stem."),
    (r"^norm_out\.norm\.", "norm."),
    (r"^conv_out\.", "head."),
    (r"^unet\.downsamples\.(\d+)\.conv\.", lambda m: f"unet.shrink.{int(m[1]) - 1}."),
    (r"^unet\.upsamples\.(\d+)\.conv\.", lambda m: f"unet.grow.{int(m[1]) - 1}."),
    (r"^unet\.d_blocks\.(\d+)\.resblocks\.", r"unet.down.\1."),
    (r"^unet\.u_blocks\.(\d+)\.resblocks\.", r"unet.up.\1."),
    (r"^unet\.mid_blocks\.resblocks\.", "unet.middle."),
    (r"\.proj\.", ".shortcut."),
    (r"\.attn\.norm\.norm\.", ".attention.norm."),
    (r"\.attn\.qkv_proj\.", ".attention.qkv."),
    (r"\.attn\.out_proj\.", ".attention.out."),
]


def from_diamond(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The `state_dict` of DIAMOND's agent or denoiser -> names of our `Network`; other parts of an agent are left out.

    Their action embedding [A, E] becomes `deeds.weight` [E, A + 1], for one-hot actions. Raises ValueError when there
    is no denoiser in it.
    """
    theirs = {_PREFIX.sub("", name): value for name, value in published.items() if _PREFIX.match(name)}
    if "conv_in.weight" not in theirs or _ACTIONS not in theirs:
        raise ValueError("no DIAMOND denoiser in these weights: give the state_dict of its agent or denoiser")
    embedding = theirs.pop(_ACTIONS)
    ours = {_renamed(name): value for name, value in theirs.items()}
    return {**ours, "deeds.weight": torch.cat((embedding.T, torch.zeros_like(embedding.T[:, :1])), dim=1)}


def load_diamond(world: DiffusionWorld, published: Mapping[str, Tensor]) -> list[str]:
    """Loads what fits into `world`'s denoiser, weights and average; returns the names that kept their own weights.

    Those are the action layer, unless actions are one-hot vectors of DIAMOND's number, and the body, which DIAMOND
    does not have. Raises ValueError naming the first weight that does not fit. DIAMOND rounds frames `down`.
    """
    loaded, own = from_diamond(published), world.brain.network.state_dict()
    if world.spec.stride != 1 or loaded["deeds.weight"].shape != own["deeds.weight"].shape:
        del loaded["deeds.weight"]
    for name in [*own, *loaded]:
        given, here = (tuple(d[name].shape) if name in d else None for d in (loaded, own))
        if given != here and name != "deeds.weight":
            raise ValueError(
                f"DIAMOND's {name} is {given or 'missing'}, this model's {here or 'missing'}: choose channels, blocks, "
                "cond, context and the number of cameras as in its configuration"
            )
    for brain in (world.brain, world.average):
        brain.network.load_state_dict(loaded, strict=False)
    kept = [f"network.{name}" for name in own if name not in loaded]
    return kept + [name for name in world.brain.state_dict() if name.startswith("body.")]


def _renamed(name: str) -> str:
    for pattern, ours in _RENAMES:
        name = re.sub(pattern, ours, name)
    return name
