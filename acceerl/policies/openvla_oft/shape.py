"""How large an OpenVLA-OFT model is, read from a checkpoint's config.json, or given by name for random weights.

Read this to see which checkpoints can be loaded. All numbers are of the network, not of the task.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Tower:
    """A vision transformer as timm builds it, up to its last block, which OpenVLA never runs."""

    width: int
    blocks: int
    heads: int
    mlp: int
    patch: int = 14
    registers: int = 0  # DINOv2's, beside a class token; 0: neither
    scaled: bool = False  # LayerScale


@dataclass(frozen=True)
class Language:
    """A Llama. The defaults are those of `transformers` 4.40, which the published config.json leave out."""

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 32
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0


@dataclass(frozen=True)
class Shape:
    """The whole network. `padded_by`: rows of the vocabulary that no token uses, behind the last one."""

    towers: tuple[Tower, ...]
    language: Language
    padded_by: int = 64
    bins: int = 256
    statistics: dict[str, Any] = field(default_factory=dict)  # config.json's own, of the pretraining data

    @property
    def tokens(self) -> int:
        """Size of the vocabulary; its last `bins` tokens are the action tokens, the highest id the lowest action."""
        return self.language.vocab_size - self.padded_by


# timm's models by the names that config.json gives them
TOWERS = {
    "vit_large_patch14_reg4_dinov2.lvd142m": Tower(1024, 24, 16, 4096, registers=4, scaled=True),
    "vit_so400m_patch14_siglip_224": Tower(1152, 27, 16, 4304),
    "vit_tiny_patch14_reg4_dinov2": Tower(32, 3, 2, 128, registers=4, scaled=True),
    "vit_tiny_patch14_siglip_224": Tower(48, 3, 3, 179),
}
SHAPES = {
    "7b": Shape(tuple(list(TOWERS.values())[:2]), Language(vocab_size=32064)),
    "tiny": Shape(tuple(list(TOWERS.values())[2:]), Language(32064, 64, 96, 3, 4, 4)),
}


def named_shape(name: str) -> Shape:
    """Raises ValueError for an unknown name."""
    if name not in SHAPES:
        raise ValueError(f"policy.random={name} is not known: choose from {', '.join(SHAPES)}")
    return SHAPES[name]


def read_shape(folder: Path) -> Shape:
    """The shape that FOLDER/config.json describes.

    Raises ValueError when there is none, or when it is of another architecture.
    """
    config = read_json(folder / "config.json", "policy.checkpoint must be a folder in OpenVLA's Hugging Face layout")
    kind = config.get("model_type")
    if kind != "openvla":
        raise ValueError(f"{folder}: a checkpoint of model_type {kind!r}, openvla_oft loads 'openvla'")
    return Shape(
        _towers(folder, config),
        _language(folder, config.get("text_config", {})),
        config.get("pad_to_multiple_of", 64),
        config.get("n_action_bins", 256),
        config.get("norm_stats") or {},
    )


def read_json(path: Path, fix: str) -> dict[str, Any]:
    """A JSON file. Raises ValueError naming it and the fix when it is missing or broken."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing: {fix}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}): copy it again") from error
    return found


def _towers(folder: Path, config: dict[str, Any]) -> tuple[Tower, ...]:
    names = config.get("timm_model_ids", [])
    unknown = [name for name in names if name not in TOWERS]
    if len(names) != 2 or unknown or any(config.get("timm_override_act_layers") or []):
        raise ValueError(f"{folder}: vision towers {names}, openvla_oft knows two of {', '.join(TOWERS)}")
    return tuple(TOWERS[name] for name in names)


def _language(folder: Path, given: dict[str, Any]) -> Language:
    kind = given.get("model_type", "llama")
    if kind != "llama" or given.get("rope_scaling") or given.get("attention_bias"):
        raise ValueError(
            f"{folder}: a language model of kind {kind!r} or with scaled positions; openvla_oft runs Llama 2"
        )
    return Language(**{name: given[name] for name in Language.__dataclass_fields__ if name in given})
