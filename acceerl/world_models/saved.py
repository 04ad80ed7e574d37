"""The file of a world and a success model: one `torch.save` dictionary, read without running any code from it.

Fields: `format`, `spec` (what both were trained for), `world` and `success` (each `kind`, `kwargs`, `state_dict`) and
`extra` (whatever the job that wrote it wants to remember: quality, recipe).
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from torch import nn

from acceerl.protocols import SuccessModel, WorldModel, WorldSpec
from acceerl.world_models.diffusion import DiffusionWorld
from acceerl.world_models.regression import RegressionWorld
from acceerl.world_models.success import SuccessNet

FORMAT = "acceerl-world-1"
KINDS: dict[str, Any] = {model.kind: model for model in (RegressionWorld, DiffusionWorld, SuccessNet)}
_FIX = {
    "cameras": "choose the env's cameras accordingly",
    "image_size": "set the env's image size accordingly",
    "stride": "set world_model.stride accordingly",
    "context": "set world_model.context accordingly",
    "proprio": "set world_model.proprio accordingly",
    "action_dim": "use an env with that action space",
}


def save_world(
    path: str | os.PathLike[str], world: WorldModel, success: SuccessModel, extra: Mapping[str, Any] | None = None
) -> None:
    """Writes both beside `path` and renames, so that a reader never sees half a file."""
    record = {
        "format": FORMAT,
        "spec": asdict(world.spec),
        "world": _card(world),
        "success": _card(success),
        "extra": dict(extra or {}),
    }
    target = Path(path)
    partial = target.with_name(target.name + ".partial")
    torch.save(record, partial)
    os.replace(partial, target)


def load_world(path: str | os.PathLike[str], world: WorldModel, success: SuccessModel) -> dict[str, Any]:
    """Copies the weights of a file into both models; returns its `extra`.

    Raises ValueError, naming the file and the fix, when it is missing, broken, or was trained for other cameras,
    sizes, actions or a network of another shape.
    """
    record = _read(Path(path))
    _compare(Path(path), record["spec"], world.spec)
    models = {"world": world, "success": success}
    for name, model in models.items():
        _fits(Path(path), name, record[name], model)
    for name, model in models.items():  # after both fit: what is refused changes nothing
        nn.Module.load_state_dict(model, record[name]["state_dict"])  # type: ignore[arg-type]
    return dict(record["extra"])


def open_world(path: str | os.PathLike[str]) -> tuple[WorldModel, SuccessModel]:
    """Both models as a file says that they were made, with its weights.

    Raises ValueError when it is missing, broken, or holds a model that is none of ours.
    """
    record = _read(Path(path))
    told: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in record["spec"].items()}
    spec, made = WorldSpec(**told), []
    for name in ("world", "success"):
        card = record[name]
        if card["kind"] not in KINDS:
            raise ValueError(f"{path}: a {card['kind']!r} {name} model, which is none of ours: {', '.join(KINDS)}")
        model = KINDS[card["kind"]](spec, **card["kwargs"])
        model.load_state_dict(card["state_dict"])
        made.append(model)
    return made[0], made[1]


def _card(model: Any) -> dict[str, Any]:
    state = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    return {"kind": getattr(model, "kind", type(model).__name__), "kwargs": getattr(model, "kwargs", {}),
            "state_dict": state}  # fmt: skip


def _fits(path: Path, name: str, card: dict[str, Any], model: Any) -> None:
    kind = getattr(model, "kind", type(model).__name__)
    if card["kind"] != kind:
        raise ValueError(f"{path}: holds a {card['kind']!r} {name} model, this run has {kind!r}: set {name}_model=…")
    if _shapes(card["state_dict"]) != _shapes(model.state_dict()):
        said = card["kwargs"]
        raise ValueError(f"{path}: its {name} model is of another size: set {name}_model.* to {said}")


def _shapes(state: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def _read(path: Path) -> dict[str, Any]:
    try:
        record = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such world-model file; `acceerl pretrain world_model` writes one") from error
    except (RuntimeError, EOFError, OSError, KeyError, BadZipFile, pickle.UnpicklingError) as error:
        raise ValueError(f"{path}: not a readable world-model file (cut short or another format?)") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(f"{path}: no acceerl world-model file ({FORMAT}); `acceerl pretrain world_model` writes one")
    return record


def _compare(path: Path, stored: dict[str, Any], asked: WorldSpec) -> None:
    had = {key: tuple(v) if isinstance(v, (list, tuple)) else v for key, v in stored.items()}
    differing = [f.name for f in fields(WorldSpec) if had.get(f.name) != getattr(asked, f.name)]
    if differing:
        facts = "; ".join(f"{n} {had.get(n)}, this run has {getattr(asked, n)}" for n in differing)
        raise ValueError(f"{path}: was trained for {facts}: {_FIX[differing[0]]}, or pretrain a world model for it")
