"""Checkpoints that are whole or absent, so that a run killed at any instant resumes from the last whole one.

`ckpt-00000123/` holds one `<part>.pt` for each top-level key of the state (model, optimiser, rng, replay, …) and
`checkpoint.json` with the step and a SHA-256 per part. It is written beside, fsynced and renamed. Parts are tensors
and plain values only: loading runs no code from the file. Ranks that have divided a policy add the folder `divided/`,
a file of each rank, which the index lists as well.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from acceerl.stores import files

log = logging.getLogger(__name__)
FORMAT_VERSION = 1
INDEX = "checkpoint.json"
DIVIDED = "divided"
POLICY_SPEC = "policy_spec"  # the part that `load(spec=...)` compares
PLAIN = (torch.Tensor, int, float, str, bytes, bool, type(None))


def save(folder: str | Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Writes `ckpt-<step>` and removes all but the last `keep`; returns its path.

    `state` maps part names to tensors, numbers, strings, None, and dicts, lists and tuples of them; ValueError
    names the key of anything else. Raises OSError when the disk is full; earlier checkpoints then stay.
    """
    _refuse_unplain(state, "state")
    return finish(begin(folder, step), step, state, keep)


def begin(folder: str | Path, step: int) -> Path:
    """The empty folder beside, for those who add files of their own before `finish`."""
    beside = Path(folder) / f"ckpt-{step:08d}.partial"
    _remove(beside)
    beside.mkdir(parents=True)
    return beside


def finish(beside: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """The rest of `save`: writes the parts into the folder beside, and gives it its name."""
    final = beside.with_suffix("")
    try:
        _write(beside, step, state)
        _remove(final)  # only a resumed run saves a step twice
        beside.rename(final)
    except (OSError, RuntimeError) as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise OSError(f"{final}: cannot be saved ({error}): free disk space and resume from the last one") from error
    files.sync(final.parent)
    _prune(final.parent, keep)
    return final


def _write(beside: Path, step: int, state: dict[str, Any]) -> None:
    index: dict[str, Any] = {"format_version": FORMAT_VERSION, "step": step}
    index["sha256"] = {part: _write_part(beside / f"{part}.pt", value) for part, value in state.items()}
    there = sorted((beside / DIVIDED).glob("*"))
    index[DIVIDED] = {path.name: [path.stat().st_size, files.sha256(path)] for path in there}
    files.write_json(beside / INDEX, index)


def _write_part(path: Path, value: Any) -> str:
    with path.open("wb") as stream:
        hashing = _Hashing(stream)
        torch.save(value, cast(BinaryIO, hashing))  # torch only writes and flushes
        stream.flush()
        os.fsync(stream.fileno())
    return hashing.sum.hexdigest()


class _Hashing:
    """Hashes what passes through, which saves reading gigabytes back."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.sum = stream, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.sum.update(data)
        return self.stream.write(data)

    def flush(self) -> None:
        self.stream.flush()


def _refuse_unplain(value: Any, where: str) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _refuse_unplain(inner, f"{where}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            _refuse_unplain(inner, f"{where}[{i}]")
    elif not isinstance(value, PLAIN):
        raise ValueError(f"{where} is a {type(value).__name__}: a checkpoint takes tensors and plain values only")


def checkpoints(folder: str | Path) -> list[Path]:
    """Every checkpoint, oldest first, whole or not."""
    return sorted(path for path in Path(folder).glob("ckpt-*") if path.suffix == "")


def latest(folder: str | Path) -> Path | None:
    """The newest whole checkpoint, None when there is none; broken ones are named in a warning."""
    for path in reversed(checkpoints(folder)):
        wrong = broken(path)
        if not wrong:
            return path
        log.warning("%s: %s; trying the one before", path, wrong)
    return None


def broken(path: str | Path, only: Iterable[str] | None = None) -> str:
    """What is wrong with a checkpoint, '' when it is whole. Reads all of it, or the parts in `only`.

    Of divided files it knows the sizes only: they are large, so that ranks share the reading (`damaged`).
    """
    path = Path(path)
    try:
        sums = _index(path)["sha256"]
        parts = sums if only is None else sums.keys() & set(only)
        differ = [part for part in parts if files.sha256(path / f"{part}.pt") != sums[part]]
        sizes = {} if only is not None else _index(path).get(DIVIDED, {})
        differ += [name for name, (size, _) in sizes.items() if (path / DIVIDED / name).stat().st_size != size]
    except (OSError, ValueError, KeyError) as error:
        return f"is not a whole checkpoint ({error})"
    return f"part {differ[0]} is damaged: its checksum differs" if differ else ""


def damaged(path: str | Path, rank: int = 0, size: int = 1) -> list[str]:
    """The divided files, of those that fall to one of `size` readers, whose checksum differs."""
    mine = list(_index(Path(path)).get(DIVIDED, {}).items())[rank::size]
    return [name for name, (_, checksum) in mine if files.sha256(Path(path) / DIVIDED / name) != checksum]


def load(path: str | Path, spec: dict[str, Any] | None = None, only: Iterable[str] | None = None) -> dict[str, Any]:
    """The state that was saved, on the CPU; `only` names the parts wanted.

    With `spec`, a checkpoint of another policy is refused before a weight is read. Raises ValueError naming the
    checkpoint, what is wrong and the fix.
    """
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"{path}: no such checkpoint: give a ckpt-* folder of a run's checkpoints/")
    parts = None if only is None else [*only]
    wrong = broken(path, parts)
    if wrong:
        raise ValueError(f"{path}: {wrong}: resume from an earlier ckpt-* beside it")
    if spec is not None:
        _compare(path, _read(path, POLICY_SPEC), spec)
    return {part: _read(path, part) for part in (_index(path)["sha256"] if parts is None else parts)}


def each(folder: str | Path, part: str) -> list[Any]:
    """One part of every checkpoint in which it is whole, oldest first: the replay ids that must be retained, say."""
    return [_read(path, part) for path in checkpoints(folder) if part in _parts(path) and not broken(path, [part])]


def _parts(path: Path) -> set[str]:
    return {file.stem for file in path.glob("*.pt")}


def step_of(path: str | Path) -> int:
    """The step that `save` was given."""
    return int(_index(Path(path))["step"])


def _index(path: Path) -> dict[str, Any]:
    index = json.loads((path / INDEX).read_text())
    if index["format_version"] != FORMAT_VERSION:
        raise ValueError(f"format {index['format_version']}, this acceerl reads {FORMAT_VERSION}")
    return index


def _read(path: Path, part: str) -> Any:
    try:
        return torch.load(path / f"{part}.pt", map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: has no part {part!r}, only {sorted(_index(path)['sha256'])}") from error


def _compare(path: Path, saved: dict[str, Any], spec: dict[str, Any]) -> None:
    ours, theirs = (json.loads(json.dumps(each)) for each in (spec, saved))  # a tuple equals a list
    keys = [key for key in sorted({*ours, *theirs}) if ours.get(key) != theirs.get(key)]
    if keys:
        differ = "; ".join(f"{key} {theirs.get(key)} there, {ours.get(key)} here" for key in keys)
        raise ValueError(f"{path}: of another policy ({differ}): name a checkpoint of this policy, or change policy=")


def _prune(folder: Path, keep: int) -> None:
    assert keep >= 1, keep
    for path in checkpoints(folder)[:-keep]:
        _remove(path)
    for left in folder.glob("ckpt-*.*"):  # of a save that was killed
        shutil.rmtree(left)


def _remove(path: Path) -> None:
    """Renames before deleting: a kill while deleting must not leave half a checkpoint under a final name."""
    doomed = path.with_suffix(".removed")
    shutil.rmtree(doomed, ignore_errors=True)
    if path.exists():
        path.rename(doomed)
        shutil.rmtree(doomed)
