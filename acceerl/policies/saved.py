"""The policy file: one `torch.save` dictionary that says what it is, read without running any code from it.

Fields: `format`, `kind` (which class), `spec` (what it was trained for), `kwargs` (how to build it), `state_dict`
(weights, optionally in half precision) and `extra` (whatever the job that wrote it wants to remember).
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

from acceerl.policies.mlp import MlpPolicy
from acceerl.policies.openvla_oft import OpenVlaOftPolicy
from acceerl.policies.tiny import TinyPolicy
from acceerl.protocols import Policy, PolicySpec

FORMAT = "acceerl-policy-1"
Saved = TinyPolicy | MlpPolicy | OpenVlaOftPolicy
KINDS: dict[str, type[Saved]] = {"tiny": TinyPolicy, "mlp": MlpPolicy, "openvla_oft": OpenVlaOftPolicy}
SHIPPED = Path(__file__).parent / "data"
_FIX = {
    "cameras": "choose the env's cameras accordingly",
    "image_size": "set the env's image size accordingly",
    "chunk": "set policy.chunk accordingly",
}


def save_policy(
    path: str | os.PathLike[str],
    policy: Saved,
    extra: Mapping[str, Any] | None = None,
    half: bool = False,
    state: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Writes the policy beside `path` and renames it, so that a reader never sees half a file.

    `extra` holds plain numbers, strings, lists and dicts. `half` stores float16 weights (the loader widens them).
    `state`: the policy's own, of one whose tensors several processes have divided.
    """
    tensors = policy.state_dict() if state is None else state
    state = {name: _narrow(tensor.detach().cpu(), half) for name, tensor in tensors.items()}
    record = {
        "format": FORMAT,
        "kind": policy.kind,
        "spec": asdict(policy.spec),
        "kwargs": policy.kwargs,
        "state_dict": state,
        "extra": dict(extra or {}),
    }
    target = Path(path)
    partial = target.with_name(target.name + ".partial")
    torch.save(record, partial)
    os.replace(partial, target)


def load_policy(
    path: str | os.PathLike[str], spec: PolicySpec | None = None, **overrides: Any
) -> tuple[Saved, dict[str, Any]]:
    """Reads a policy and its `extra`. `overrides` replace constructor arguments (`precision`, `temperature`).

    Raises ValueError, naming the file and the fix, when the file is missing, broken, of another kind, or was
    trained for another `spec`.
    """
    record = _read(Path(path))
    trained_for = _spec(record["spec"])
    if spec is not None:
        _compare(Path(path), trained_for, spec)
    try:
        policy = KINDS[record["kind"]](trained_for, **{**record["kwargs"], **overrides})
        policy.load_state_dict(record["state_dict"])
    except (RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{path}: does not fit the {record['kind']!r} policy of this version ({reason}); pretrain it again"
        ) from error
    return policy, record["extra"]


def load_into(policy: Policy, path: str | os.PathLike[str]) -> None:
    """Copies a file's weights into a policy that is there: a large one must not be built twice.

    Raises ValueError naming the file and the difference when they belong to another policy.
    """
    record = _read(Path(path))
    kind = getattr(policy, "kind", record["kind"])
    if record["kind"] != kind:
        raise ValueError(f"{path}: holds a {record['kind']!r} policy, the configuration says {kind!r}: set policy=")
    _compare(Path(path), _spec(record["spec"]), policy.spec)
    try:
        policy.load_state_dict(record["state_dict"])  # type: ignore[attr-defined]
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} holds weights of another policy ({reason}): match policy.* to its card") from error


def shipped(name: str) -> Path:
    """The path of a starting policy inside the package, e.g. `tabletop_spatial`. Raises ValueError when unknown."""
    path = SHIPPED / f"{name}.pt"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.pt"))) or "none"
        raise ValueError(f"no starting policy {name!r} in the package (there is: {known}); give a path instead")
    return path


def _narrow(tensor: torch.Tensor, half: bool) -> torch.Tensor:
    return tensor.half() if half and tensor.is_floating_point() else tensor.clone()


def _read(path: Path) -> dict[str, Any]:
    try:
        record = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such policy file: check the path") from error
    except (RuntimeError, EOFError, OSError, KeyError, BadZipFile, pickle.UnpicklingError) as error:
        raise ValueError(f"{path}: not a readable policy file (cut short or another format?); copy it again") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(f"{path}: not an acceerl policy file ({FORMAT}); write one with `acceerl pretrain`")
    if record["kind"] not in KINDS:
        known = ", ".join(KINDS)
        raise ValueError(f"{path}: holds a {record['kind']!r} policy, this version has {known}; set policy accordingly")
    return record


def _spec(stored: dict[str, Any]) -> PolicySpec:
    fixed: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in stored.items()}
    return PolicySpec(**fixed)


def _compare(path: Path, trained_for: PolicySpec, asked: PolicySpec) -> None:
    differing = [f.name for f in fields(PolicySpec) if getattr(trained_for, f.name) != getattr(asked, f.name)]
    if differing:
        facts = "; ".join(f"{n} {getattr(trained_for, n)}, this run has {getattr(asked, n)}" for n in differing)
        fix = next((_FIX[n] for n in differing if n in _FIX), "use the env and policy settings it was trained with")
        raise ValueError(f"{path}: was trained for {facts}: {fix}, or pretrain a policy for this env")
