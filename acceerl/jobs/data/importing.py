"""`acceerl data import`: other people's demonstrations as shards of ours, each demo checked before it is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from acceerl.jobs.data import pieces, recipes
from acceerl.jobs.data.options import Import
from acceerl.jobs.data.pieces import Piece, Plan
from acceerl.stores import checks
from acceerl.stores.checks import Finding, Rules
from acceerl.stores.layouts import Layout
from acceerl.stores.lerobot import LeRobot, is_lerobot
from acceerl.stores.opening import BUSY, being_written, shards_of
from acceerl.stores.reader import Trajectories, open_trajectories
from acceerl.stores.schema import Episode
from acceerl.stores.shard import Packing, write_shard
from acceerl.stores.validate import Demos, checked, finding

IDENTITY = ("recipe", "limit", "flip", "cameras", "instruction", "compression", "episodes_per_shard")


class Source(Demos, Protocol):
    """What can be imported: `Trajectories` of a file, `LeRobot` of a folder."""

    def __len__(self) -> int: ...


def run(sources: Sequence[Path], options: Import) -> tuple[Plan, bool]:
    """Imports; returns the plan and whether the data set is complete. Raises ValueError for the first broken demo,
    unless `on_error=skip`."""
    plan = planned(sources, options)
    return plan, pieces.make(plan, partial(import_piece, options), options)


def planned(sources: Sequence[Path], options: Import) -> Plan:
    """Every demo of every file in its piece; files that cannot be opened are left out or end it."""
    rules_of(options)
    parts, skipped = [], []
    for path in places(sources):
        try:
            opened = open_source(path, options, fresh=True)
            parts.append((path, tuple(entry.demo for entry in opened.entries)))
        except ValueError as error:
            if options.on_error == "stop":
                raise
            skipped.append(Finding(str(path), "", "", str(error).removeprefix(f"{path}: ")))
    facts = {key: getattr(options, key) for key in IDENTITY}
    cut = pieces.cut("import", parts, options.episodes_per_shard)
    if not cut and skipped:
        raise ValueError(f"{skipped[0]} (and nothing else to import)")
    return Plan("import", Path(options.to), facts, cut, skipped, strict=options.on_error == "stop")


def places(sources: Sequence[Path]) -> Iterator[Path]:
    """LeRobot folders, and the HDF5 files of other folders."""
    for source in sources:
        yield from [source] if is_lerobot(source) else shards_of(source)


def open_source(path: Path, options: Import, fresh: bool = False) -> Source:
    """A file or folder under the options' conventions. Raises ValueError for what it has not."""
    if is_lerobot(path):
        plain = LeRobot(path)
        return LeRobot(path, _relaid(path, plain.layout, options)) if plain.entries else plain
    opened = open_trajectories(path, fresh, broken=True)
    return opened.relaid(_relaid(path, opened.entries[0].layout, options))


def _relaid(path: Path, layout: Layout, options: Import) -> Layout:
    changes: dict[str, Any] = {}
    if options.flip != "auto":
        changes["flip"] = options.flip
    if options.cameras:
        wanted = [pair.partition(":") for pair in options.cameras.split(",")]
        keys = [key for key, _ in layout.cameras]
        for key, _, _ in wanted:
            if key not in keys:
                raise ValueError(f"{path}: has no camera {key}: choose from {', '.join(keys)}")
        usual = dict(layout.cameras)
        changes["cameras"] = tuple((key, name or usual[key]) for key, _, name in wanted)
    return dataclasses.replace(layout, **changes)


def rules_of(options: Import) -> Rules:
    tasks = recipes.load(options.recipe).tasks if options.recipe else ()
    return Rules(options.limit, tasks)


def import_piece(options: Import, piece: Piece, final: Path) -> list[Finding]:
    """Writes a shard of the piece's whole demos; returns what is wrong with the others."""
    skipped: list[Finding] = []
    about = {"imported": sorted({path.name for path, _ in piece.parts})}
    write_shard(final, _episodes(options, piece, skipped), Packing(options.compression, problem_info=about))
    return skipped


def _episodes(options: Import, piece: Piece, skipped: list[Finding]) -> Iterator[Episode]:
    rules = rules_of(options)
    for path, demos in piece.parts:
        source = open_source(path, options)
        turned = _turned(source)
        before = path.stat()
        for i in [i for i, entry in enumerate(source.entries) if entry.demo in set(demos)]:
            episode, found = checked(source, i, rules, partial(_told, options))
            found = found or turned.get(i, [])
            if found and options.on_error == "stop":
                raise ValueError(f"{found[0]} (on_error=skip leaves such demos out)")
            skipped += found
            if episode is not None and not found:
                yield _numbered(episode, rules)
        if path.is_file() and (being_written(path) or _changed(before, path)):
            raise ValueError(f"{path}: {BUSY}")


def _told(options: Import, episode: Episode) -> Episode:
    return dataclasses.replace(episode, instruction=options.instruction) if options.instruction else episode


def _changed(before: Any, path: Path) -> bool:
    after = path.stat()
    return (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns)


def _turned(source: Source) -> dict[int, list[Finding]]:
    """Demos that are upside down against the others of their file."""
    if not isinstance(source, Trajectories):
        return {}
    whole = [i for i in range(len(source)) if i not in source.problems]
    found: dict[int, list[Finding]] = {}
    for i, field, message in checks.upside_down(source, whole):
        found.setdefault(i, []).append(finding(source.entries[i], field, message))
    return found


def _numbered(episode: Episode, rules: Rules) -> Episode:
    """With the task's number in the recipe."""
    if not rules.instructions:
        return episode
    return dataclasses.replace(episode, task=rules.instructions.index(episode.instruction))
