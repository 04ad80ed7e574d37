"""OpenVLA's Hugging Face folders: sharded safetensors, the original names. Reads them and writes them back.

Shards are mapped, not read, and go into the network tensor by tensor: the host never holds the model twice. A tensor
that OpenVLA never uses (the last block of each tower, SigLIP's pooling, the rows of the head that are words) is not
loaded; when the folder is written back it comes from the folder that the model was loaded from.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from acceerl.policies.openvla_oft.shape import read_json

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
HEAD = "language_model.lm_head.weight"
ADAPTER, ADAPTER_SETTINGS = "adapter_model.safetensors", "adapter_config.json"
COPY_AGAIN = "copy the checkpoint again"
# besides the last block of a tower: what stands in a checkpoint and has no influence on actions
_UNUSED = re.compile(
    r"vision_backbone\.(fused_)?featurizer\.(norm|attn_pool)\.|language_model\.lm_head\.|.*rotary_emb\.inv_freq$"
)
_BLOCK = re.compile(r"(vision_backbone\.(?:fused_)?featurizer\.blocks\.)(\d+)\.")


class Shards:
    """The tensors of a folder by name, read when asked for.

    Raises ValueError for a folder without weights, a shard that is missing or broken, or an unknown name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[str, Any] = {}
        self.files = self._files()

    def _files(self) -> dict[str, str]:
        """Which file holds which tensor."""
        if (self.folder / INDEX).exists():
            return dict(read_json(self.folder / INDEX, COPY_AGAIN).get("weight_map", {}))
        if (self.folder / SINGLE).exists():
            return dict.fromkeys(self._file(SINGLE).keys(), SINGLE)
        raise ValueError(f"{self.folder} holds no weights ({INDEX} or {SINGLE}): check policy.checkpoint")

    def tensor(self, name: str) -> Tensor:
        """A tensor that stays on disk until it is touched."""
        file = self._file(self.files[name])
        if name not in file.keys():  # noqa: SIM118 - not a dictionary
            raise ValueError(f"{self.folder / self.files[name]} lacks {name}, which {INDEX} promises: {COPY_AGAIN}")
        found: Tensor = file.get_tensor(name)
        return found

    def shape(self, name: str) -> tuple[int, ...]:
        """Without reading the tensor."""
        return tuple(self._file(self.files[name]).get_slice(name).get_shape())

    def _file(self, name: str) -> Any:
        if name not in self._open:
            self._open[name] = _open(self.folder / name)
        return self._open[name]


def _open(path: Path) -> Any:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ValueError(f"policy=openvla_oft needs safetensors ({error}): pip install 'acceerl[openvla]'") from error
    try:
        return safe_open(path, framework="pt", device="cpu")
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing: {COPY_AGAIN}") from error
    except SafetensorError as error:
        raise ValueError(f"{path} is broken ({error}): {COPY_AGAIN}") from error


def used(module: nn.Module, name: str) -> bool:
    """Has the tensor of this name an influence on actions? (The last block of a tower has none.)"""
    block = _BLOCK.match(name)
    if block:
        tower = module.get_submodule(block[1].removesuffix(".blocks."))
        return int(block[2]) != len(tower.blocks)  # type: ignore[arg-type]
    return not _UNUSED.match(name)


def check_names(module: nn.Module, shards: Shards) -> None:
    """Raises ValueError naming a tensor that is missing, unexpected, or of another shape than the network's."""
    ours = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    wanted = {name for name in shards.files if used(module, name)}
    for kind, names in (("lacks", ours.keys() - wanted), ("has the unknown tensor", wanted - ours.keys())):
        if names:
            raise ValueError(
                f"{shards.folder} {kind} {min(names)} ({len(names)} in all): {COPY_AGAIN}, or its config.json"
            )
    for name, shape in ours.items():
        if shards.shape(name) != shape:
            raise ValueError(f"{shards.folder}: {name} is {shards.shape(name)}, by config.json it were {shape}")


def load(module: nn.Module, shards: Shards, dtype: torch.dtype) -> None:
    """Gives every parameter of `module` (on the meta device) its tensor, one after another."""
    check_names(module, shards)
    for name, _ in list(module.named_parameters()):
        place(module, name, shards.tensor(name).to(dtype))


def place(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Makes `tensor` the parameter of this name."""
    above, _, own = name.rpartition(".")
    setattr(module.get_submodule(above), own, nn.Parameter(tensor, requires_grad=tensor.is_floating_point()))


def action_rows(shards: Shards, tokens: int, bins: int) -> Tensor:
    """The head's rows for the action tokens, the lowest action first, [bins, width]."""
    if HEAD not in shards.files:
        raise ValueError(f"{shards.folder} lacks {HEAD}: {COPY_AGAIN}")
    return cut_head(shards.tensor(HEAD), tokens, bins)


def cut_head(head: Tensor, tokens: int, bins: int) -> Tensor:
    """The rows of the action tokens, the lowest action first."""
    return head[tokens - bins : tokens].flip(0)


def with_action_rows(head: Tensor, rows: Tensor, tokens: int) -> Tensor:
    """The whole head with `rows` (see `action_rows`) in their places."""
    whole = head.clone()
    whole[tokens - len(rows) : tokens] = rows.flip(0).to(head.dtype)
    return whole


def write(source: Shards, target: Path, tensor: Callable[[str, Tensor], Tensor]) -> None:
    """Writes `source` to `target` file by file, each tensor passed through `tensor(name, original)`.

    Every file is written beside and renamed. The types and names of the tensors stay as they were.
    """
    from safetensors.torch import save_file

    target.mkdir(parents=True, exist_ok=True)
    for shard in sorted(set(source.files.values())):
        names = [name for name, file in source.files.items() if file == shard]
        originals = ((name, source.tensor(name)) for name in names)
        part = {name: tensor(name, old).to(old.dtype).cpu().contiguous() for name, old in originals}
        save_file(part, target / f"{shard}.partial", metadata={"format": "pt"})
        os.chmod(target / f"{shard}.partial", (source.folder / shard).stat().st_mode)  # safetensors: its owner only
        os.replace(target / f"{shard}.partial", target / shard)
    for path in _beside(source.folder):
        partial = target / f"{path.name}.partial"
        partial.write_bytes(path.read_bytes())
        os.replace(partial, target / path.name)


def _beside(folder: Path) -> Iterator[Path]:
    """The small files of a checkpoint: configuration, statistics, tokenizer, the original's own code."""
    keep = {".json", ".model", ".py", ".md", ".txt"}
    return (path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix in keep)


def read_adapter(folder: Path) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
    """A folder of peft's: its tensors and its settings. Raises ValueError naming what is missing."""
    settings = read_json(folder / ADAPTER_SETTINGS, "policy.adapter must be a folder that peft wrote")
    file = _open(folder / ADAPTER)
    return {name: file.get_tensor(name) for name in file.keys()}, settings  # noqa: SIM118 - not a dictionary


def write_adapter(folder: Path, adapters: Mapping[str, Tensor], rank: int, alpha: float) -> None:
    """The same, the other way."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "lora_dropout": 0.0, "bias": "none",
                "target_modules": "all-linear", "init_lora_weights": "gaussian", "task_type": None}  # fmt: skip
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in adapters.items()}
    save_file(plain, folder / f"{ADAPTER}.partial", metadata={"format": "pt"})
    os.chmod(folder / f"{ADAPTER}.partial", 0o644)
    os.replace(folder / f"{ADAPTER}.partial", folder / ADAPTER)
    partial = folder / f"{ADAPTER_SETTINGS}.partial"
    partial.write_text(json.dumps(settings, indent=1) + "\n")
    os.replace(partial, folder / ADAPTER_SETTINGS)
