"""Llama from `transformers`, run with full attention in both directions. The only file that imports that package.

OpenVLA-OFT decodes a whole chunk in one pass: every position sees every other, so that an action token knows of the
actions after it. The original gets this from a fork of transformers; here the layers are run one by one, without a mask
where no row is padded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from acceerl.policies.openvla_oft.shape import Language


class LanguageModel(nn.Module):
    """Embeddings, layers and the last norm under the original's names; the head that gives words is not built."""

    def __init__(self, shape: Language) -> None:
        super().__init__()
        self.model = llama = _llama(shape)
        for layer in llama.layers:
            layer.self_attn.is_causal = False

    def computed_positions(self) -> None:
        """Computes the rotary frequencies on the host: no checkpoint holds them."""
        rotary = self.model.rotary_emb
        with torch.device("cpu"):
            self.model.rotary_emb = type(rotary)(rotary.config)

    def embed(self, ids: Tensor) -> Tensor:
        """int64 [N, S] -> [N, S, width]."""
        return self.model.embed_tokens(ids)

    def forward(self, states: Tensor, valid: Tensor | None, remember: bool = True) -> Tensor:
        """[N, S, width] -> the last states [N, S, width]; `valid`: bool [N, S], None when no position is padding."""
        places = torch.arange(states.shape[1], device=states.device)[None]
        turns = self.model.rotary_emb(states, places)
        mask = None if valid is None else valid[:, None, None, :].expand(-1, -1, states.shape[1], -1)
        for layer in self.model.layers:
            if remember:
                states = layer(states, attention_mask=mask, position_embeddings=turns)
            else:
                states = checkpoint(layer, states, attention_mask=mask, position_embeddings=turns, use_reentrant=False)
        return self.model.norm(states)


def _llama(shape: Language) -> Any:
    try:
        from transformers.models.llama.configuration_llama import LlamaConfig
        from transformers.models.llama.modeling_llama import LlamaModel
    except ImportError as error:
        raise ValueError(f"policy=openvla_oft needs transformers ({error}): pip install 'acceerl[openvla]'") from error
    numbers = {name: value for name, value in vars(shape).items() if name != "rope_theta"}
    rope = {"rope_type": "default", "rope_theta": shape.rope_theta}
    settings: Any = LlamaConfig  # its arguments are typed loosely, and not at all where it is not installed
    return LlamaModel(settings(**numbers, rope_parameters=rope, attn_implementation="sdpa"))
