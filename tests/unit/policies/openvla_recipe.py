"""A tiny OpenVLA-OFT checkpoint and inputs for it, the same numbers on every machine and with every library.

The original implementation and ours are run on them; `golden/openvla_oft.npz` holds what the original answered. Only
numpy, safetensors and the standard library: the original lives in an environment of its own, with old packages.
"""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import numpy as np

HIDDEN, LAYERS, MLP, HEADS, VOCABULARY, PADDED_BY = 64, 3, 96, 4, 32064, 64
BINS, SPACE = 256, 29871  # the token "▁", which the original puts behind each prompt
# width, blocks, heads, hidden units, layer scale, class and register tokens: the two timm models, shrunk
DINO = (32, 3, 2, 128, True, 4)
SIGLIP = (48, 3, 3, 179, False, 0)
TIMM_IDS = ["vit_tiny_patch14_reg4_dinov2", "vit_tiny_patch14_siglip_224"]
MEANS = [[0.484375, 0.455078125, 0.40625], [0.5, 0.5, 0.5]]
STDS = [[0.228515625, 0.2236328125, 0.224609375], [0.5, 0.5, 0.5]]
WORDS = (
    "In: What action should the robot take to pick up black bowl between plate and ramekin place it on next from "
    "table center cookie box top drawer of wooden cabinet stove open turn put wine bottle rack bottom push front "
    "cream cheese bbq sauce ketchup basket both moka pots middle close microwave left right white mug yellow ?"
)
KEY = "libero_spatial_no_noops"


def numbers(name: str, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    """float32 [shape], uniform in [low, high): raw bits of a counter-based generator that `name` seeds."""
    raw = np.random.Philox(key=zlib.crc32(name.encode())).random_raw(math.prod(shape))
    unit = (raw >> np.uint64(40)).astype(np.float64) / 2.0**24
    return (low + (high - low) * unit).astype(np.float32).reshape(shape)


def tensors() -> dict[str, np.ndarray]:
    """All of the checkpoint by its original key, float32."""
    return {name: _weight(name, shape) for name, shape in shapes().items()}


def _weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "layernorm.weight", "scale_factor")):
        return numbers(name, shape, 0.5, 1.5)
    if name.endswith("bias"):
        return numbers(name, shape, -0.1, 0.1)
    if name.endswith(("token", "embed", "embed_tokens.weight", "latent")):
        return numbers(name, shape, -0.5, 0.5)
    reach = math.sqrt(3 / math.prod(shape[1:]))
    if name.endswith(("q_proj.weight", "k_proj.weight")):  # sharp attention, so that inputs and positions matter
        reach *= 3
    weight = numbers(name, shape, -reach, reach)
    if name == "language_model.lm_head.weight":  # as after training: only action tokens are likely
        weight[: VOCABULARY - PADDED_BY - BINS] *= 1e-3
        weight[VOCABULARY - PADDED_BY :] *= 1e-3
    return weight


def shapes() -> dict[str, tuple[int, ...]]:
    """Each original key and its shape."""
    found = _tower("vision_backbone.featurizer.", *DINO) | _tower("vision_backbone.fused_featurizer.", *SIGLIP)
    found |= _pool("vision_backbone.fused_featurizer.attn_pool.", SIGLIP[0], SIGLIP[3])
    seen = DINO[0] + SIGLIP[0]
    for i, (a, b) in enumerate([(seen, 4 * seen), (4 * seen, HIDDEN), (HIDDEN, HIDDEN)], start=1):
        found |= _linear(f"projector.fc{i}.", a, b)
    return found | _language()


def _linear(at: str, inputs: int, outputs: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {f"{at}weight": (outputs, inputs)} | ({f"{at}bias": (outputs,)} if bias else {})


def _norm(at: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{at}weight": (width,), f"{at}bias": (width,)}


def _tower(at: str, width: int, blocks: int, heads: int, mlp: int, scaled: bool, registers: int):
    found: dict[str, tuple[int, ...]] = {f"{at}pos_embed": (1, 256, width)}
    if registers:
        found |= {f"{at}cls_token": (1, 1, width), f"{at}reg_token": (1, registers, width)}
    found |= {f"{at}patch_embed.proj.weight": (width, 3, 14, 14), f"{at}patch_embed.proj.bias": (width,)}
    for i in range(blocks):
        block = f"{at}blocks.{i}."
        found |= _norm(f"{block}norm1.", width) | _norm(f"{block}norm2.", width)
        found |= _linear(f"{block}attn.qkv.", width, 3 * width) | _linear(f"{block}attn.proj.", width, width)
        found |= _linear(f"{block}mlp.fc1.", width, mlp) | _linear(f"{block}mlp.fc2.", mlp, width)
        if scaled:
            found |= {f"{block}ls{k}.scale_factor": (width,) for k in (1, 2)}
    return found | _norm(f"{at}norm.", width)


def _pool(at: str, width: int, mlp: int) -> dict[str, tuple[int, ...]]:
    found = {f"{at}latent": (1, 1, width)} | _linear(f"{at}q.", width, width) | _linear(f"{at}kv.", width, 2 * width)
    found |= _linear(f"{at}proj.", width, width) | _norm(f"{at}norm.", width)
    return found | _linear(f"{at}mlp.fc1.", width, mlp) | _linear(f"{at}mlp.fc2.", mlp, width)


def _language() -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {"language_model.model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for i in range(LAYERS):
        at = f"language_model.model.layers.{i}."
        for name in "qkvo":
            found |= _linear(f"{at}self_attn.{name}_proj.", HIDDEN, HIDDEN, bias=False)
        for name, a, b in (("gate", HIDDEN, MLP), ("up", HIDDEN, MLP), ("down", MLP, HIDDEN)):
            found |= _linear(f"{at}mlp.{name}_proj.", a, b, bias=False)
        found |= {f"{at}input_layernorm.weight": (HIDDEN,), f"{at}post_attention_layernorm.weight": (HIDDEN,)}
    found["language_model.model.norm.weight"] = (HIDDEN,)
    found["language_model.lm_head.weight"] = (VOCABULARY, HIDDEN)
    return found


def config() -> dict[str, object]:
    """config.json, with the fields that OpenVLA's published ones have."""
    language = {
        "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": MLP,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "pad_token_id": 32000,
        "torch_dtype": "float32",
    }  # fmt: skip
    return {
        "architectures": ["OpenVLAForActionPrediction"], "model_type": "openvla",
        "arch_specifier": "no-align+fused-gelu-mlp",
        "image_resize_strategy": "resize-naive", "image_sizes": [224, 224], "llm_backbone_id": "llama2-7b-pure",
        "n_action_bins": 256, "pad_to_multiple_of": PADDED_BY, "pad_token_id": 32000, "text_config": language,
        "timm_model_ids": TIMM_IDS, "timm_override_act_layers": [None, None], "torch_dtype": "float32",
        "use_fused_vision_backbone": True, "vision_backbone_id": "dinosiglip-vit-so-224px", "norm_stats": {},
    }  # fmt: skip


def statistics() -> dict[str, object]:
    """dataset_statistics.json: of the actions' seven dimensions the gripper is not scaled."""
    low = [
        -0.7454732114076613,
        -0.6616071462631226,
        -0.9375,
        -0.1071428582072258,
        -0.20678570866584778,
        -0.1842857152223587,
        0.0,
    ]
    high = [
        0.9375,
        0.8758928775787354,
        0.9321428537368774,
        0.1039285734295845,
        0.17678570747375488,
        0.14571428298950195,
        1.0,
    ]
    action = {"q01": low, "q99": high, "min": [x * 1.1 for x in low], "max": [x * 1.1 for x in high]}
    action |= {"mean": [0.0] * 7, "std": [1.0] * 7, "mask": [True] * 6 + [False]}
    return {KEY: {"action": action, "proprio": {}, "num_transitions": 52970, "num_trajectories": 432}}


def tokenizer() -> dict[str, object]:
    """tokenizer.json of a small byte-fallback BPE, normalised as Llama's, its tokens spread over Llama's ids."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"<0x{i:02X}>": 3 + i for i in range(256)}}
    letters = sorted(set(WORDS) - {" "})
    vocabulary |= {"▁": SPACE, **{letter: SPACE + 1 + i for i, letter in enumerate(letters)}}
    merges = []
    for word in WORDS.split():
        for at in range(1, len(word) + 1):
            left, right = "▁" + word[: at - 1], word[at - 1]
            if left + right not in vocabulary:
                merges.append([left, right])
                vocabulary[left + right] = 300 + 7 * len(merges)
    special = [{"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                "special": True} for i, text in ((0, "<unk>"), (1, "<s>"), (2, "</s>"), (32000, "<PAD>"))]  # fmt: skip
    begin = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    second = [{"SpecialToken": {"id": "<s>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": None,
        "post_processor": {"type": "TemplateProcessing", "single": [begin, text], "pair": [begin, text, *second],
                           "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": None,
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "vocab": vocabulary,
                  "merges": [" ".join(pair) for pair in merges]},
    }  # fmt: skip


def write(folder: Path, shards: int = 2) -> Path:
    """The checkpoint as a folder of the published layout."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    found, where = tensors(), {}
    for i in range(shards):
        name = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = dict(list(found.items())[i::shards])
        save_file(part, folder / name, metadata={"format": "pt"})
        where |= dict.fromkeys(part, name)
    total = sum(tensor.nbytes for tensor in found.values())
    files = {
        "model.safetensors.index.json": {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))},
        "config.json": config(),
        "dataset_statistics.json": statistics(),
        "preprocessor_config.json": {"means": MEANS, "stds": STDS, "input_sizes": [[3, 224, 224]] * 2,
                                     "interpolations": ["bicubic"] * 2, "image_resize_strategy": "resize-naive",
                                     "use_fused_vision_backbone": True},
        "tokenizer.json": tokenizer(),
        "tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>",
                                  "unk_token": "<unk>", "pad_token": "<PAD>", "legacy": False, "add_bos_token": True},
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return folder


def picture(i: int, size: int = 224) -> np.ndarray:
    """Input i: uint8 [size, size, 3], smooth patches with noise on them."""
    coarse = numbers(f"coarse {i}", (8, 8, 3), 0, 1)
    fine = numbers(f"fine {i}", (size, size, 3), -0.1, 0.1)
    grown = coarse.repeat(-(-size // 8), axis=0).repeat(-(-size // 8), axis=1)[:size, :size]
    return (np.clip(grown + fine, 0, 1) * np.float32(255)).astype(np.uint8)


def instruction(i: int) -> str:
    """Input i: four to twelve of the words, so that prompts differ in length."""
    words = WORDS.split()[9:-1]
    chosen = numbers(f"words {i}", (4 + i % 9,), 0, len(words)).astype(int)
    return " ".join(words[k] for k in chosen).capitalize()
