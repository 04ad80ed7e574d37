"""Loads every file of a run directory, so that a kill which broke one is noticed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml

from acceerl.stores import checkpoint
from acceerl.stores.spool import Spool
from acceerl.stores.validate import validate


def broken_files(run: Path) -> list[str]:
    """One line for each file that cannot be read as what it is; empty when all is well. For a run that has ended."""
    return [*_texts(run), *_checkpoints(run), *_segments(run), *_trajectories(run), *_weights(run), *_left_over(run)]


def _texts(run: Path) -> Iterator[str]:
    for path in [*run.rglob("*.json"), *run.rglob("*.jsonl"), *run.rglob("*.yaml")]:
        try:
            _parse(path)
        except (ValueError, yaml.YAMLError) as error:
            yield f"{path}: {error}"


def _parse(path: Path) -> None:
    text = path.read_text()
    if path.suffix == ".yaml":
        yaml.safe_load(text)
        return
    for part in text.splitlines() if path.suffix == ".jsonl" else [text]:
        json.loads(part)


def _checkpoints(run: Path) -> Iterator[str]:
    for path in checkpoint.checkpoints(run / "checkpoints"):
        try:
            checkpoint.load(path)
        except (ValueError, RuntimeError) as error:
            yield str(error)


def _segments(run: Path) -> Iterator[str]:
    """The replay's logs may end in a torn record; a segment that a checkpoint names must be whole."""
    spool = Spool(run / "replay")
    held = {i for state in checkpoint.each(run / "checkpoints", "replay") for i in state["ids"]}
    for segment_id in sorted(held):
        try:
            spool.read(segment_id)
        except ValueError as error:
            yield str(error)


def _trajectories(run: Path) -> Iterator[str]:
    for folder in {path.parent for path in run.rglob("*.hdf5")}:
        yield from (f"{finding.file}: {finding.message}" for finding in validate(folder))


def _weights(run: Path) -> Iterator[str]:
    path = run / "policy.pt"
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return
    except (RuntimeError, ValueError, EOFError) as error:
        yield f"{path}: {error}"


def _left_over(run: Path) -> Iterator[str]:
    yield from (f"{path}: left half-written" for path in run.rglob("*.partial"))
