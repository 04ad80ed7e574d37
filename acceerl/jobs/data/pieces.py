"""Makes a data set piece by piece, in processes or jobs, so that it is whole or absent and a killed one goes on.

`TO.partial` grows: one shard a piece, and a note `pieces/NAME.json` when the piece is done. When all notes are there
the folder is renamed to `TO`. Every piece is decided before the first is begun, so that any number of processes on any
number of nodes can each do a share; the same command again does what is left.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from acceerl.jobs.data.options import Making
from acceerl.jobs.data.shown import shown
from acceerl.stores import files
from acceerl.stores.checks import Finding
from acceerl.stores.manifest import manifest

PLAN = "dataset.json"
NOTES = "pieces"
Part = tuple[Path, tuple[str, ...]]  # a file and some of its demos


@dataclass(frozen=True)
class Piece:
    """What becomes one shard."""

    name: str  # shard-NAME-K
    parts: tuple[Part, ...]

    @property
    def episodes(self) -> int:
        return sum(len(demos) for _, demos in self.parts)


@dataclass(frozen=True)
class Plan:
    """A data set to make. `facts` decide what is written: a folder begun with others is not continued."""

    command: str
    to: Path
    facts: dict[str, Any]
    pieces: list[Piece]
    skipped: list[Finding] = field(default_factory=list)  # whole files, left out before any piece was cut
    strict: bool = False  # no demo may be left out, by an earlier try neither

    @property
    def growing(self) -> Path:
        return self.to.with_name(f"{self.to.name}.partial")

    def as_dict(self) -> dict[str, Any]:
        paths = sorted({str(path.resolve()) for piece in self.pieces for path, _ in piece.parts})
        return {
            "command": self.command,
            "facts": self.facts,
            "sources": {path: _stamp(Path(path)) for path in paths},
            "pieces": len(self.pieces),
            "planned": sum(piece.episodes for piece in self.pieces),
        }


def cut(command: str, parts: Sequence[Part], size: int) -> list[Piece]:
    """Pieces of at most `size` episodes; a piece never reads two files that each fill one."""
    slices = [(path, demos[start : start + size]) for path, demos in parts for start in range(0, len(demos), size)]
    groups: list[list[Part]] = []
    for part in slices:
        if groups and sum(len(demos) for _, demos in groups[-1]) + len(part[1]) <= size:
            groups[-1].append(part)
        else:
            groups.append([part])
    return [Piece(f"shard-{command}-{k}", tuple(group)) for k, group in enumerate(groups)]


Work = Callable[[Piece, Path], list[Finding]]  # writes the shard (or none), returns the demos that were left out


def make(plan: Plan, work: Work, options: Making) -> bool:
    """Does this share of the pieces that are left; True when the data set is complete.

    Raises ValueError when `to` exists and is another, or was begun as another, or a demo is broken and stops it; when
    no shard was complete by then, nothing is left of the attempt.
    """
    if plan.to.exists():
        return _made_already(plan)
    mine, new = _share(plan.pieces, options.share), not plan.growing.exists()
    _begin(plan)
    left = [piece for piece in mine if not _note(plan, piece).exists()]
    try:
        with shown(f"data {plan.command}", sum(piece.episodes for piece in left), "episodes") as advance:
            for piece in _worked(plan, work, left, options.workers):
                advance(piece.episodes)
        return _finish(plan)
    except ValueError:
        if new and len(mine) == len(plan.pieces):  # else others may be at work in it
            _forget(plan)
        raise


def _forget(plan: Plan) -> None:
    """Removes the beginning of a data set that was refused, unless it holds a shard that a second try can keep."""
    if not any(plan.growing.glob("*.hdf5")):
        shutil.rmtree(plan.growing, ignore_errors=True)


def _made_already(plan: Plan) -> bool:
    known = plan.to / PLAN
    if known.is_file() and _same(json.loads(known.read_text()), plan):
        _refuse_left_out(plan, plan.to, skipped_of(plan.to))
        shutil.rmtree(plan.to / NOTES, ignore_errors=True)  # killed between the last two steps
        return True
    raise ValueError(f"{plan.to} is there already: choose another to=FOLDER, or remove it")


def _same(known: dict[str, Any], plan: Plan) -> bool:
    return all(known.get(key) == value for key, value in json.loads(json.dumps(plan.as_dict())).items())


def _begin(plan: Plan) -> None:
    if not plan.pieces:
        raise ValueError(f"data {plan.command}: no whole episode to write to {plan.to}")
    known = plan.growing / PLAN
    if known.is_file() and not _same(json.loads(known.read_text()), plan):
        raise ValueError(f"{plan.growing} holds the beginning of another data set: remove it, or choose another to=")
    _refuse_left_out(plan, plan.growing, _left_out(plan))
    (plan.growing / NOTES).mkdir(parents=True, exist_ok=True)
    if not known.is_file():
        files.write_json(known, plan.as_dict())


def _refuse_left_out(plan: Plan, folder: Path, left: list[Finding]) -> None:
    if plan.strict and left:
        raise ValueError(f"{left[0]} (on_error=skip left it out of {folder}: give that again, or remove the folder)")


def _share(pieces: Sequence[Piece], share: str) -> list[Piece]:
    number, _, parts = share.partition("/")
    if not (number.isdigit() and parts.isdigit() and 1 <= int(number) <= int(parts)):
        raise ValueError(f"share={share} must be K/N, with K from 1 to N")
    return list(pieces[int(number) - 1 :: int(parts)])


def _worked(plan: Plan, work: Work, left: list[Piece], workers: int) -> Iterator[Piece]:
    if workers == 1 or len(left) < 2:
        for piece in left:
            yield _one(plan.growing, work, piece)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(left)), mp_context=spawn) as pool:  # it notices a killed worker
        futures = [pool.submit(_one, plan.growing, work, piece) for piece in left]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _one(growing: Path, work: Work, piece: Piece) -> Piece:
    skipped = work(piece, growing / f"{piece.name}.hdf5")
    files.write_json(growing / NOTES / f"{piece.name}.json", [asdict(finding) for finding in skipped])
    return piece


def _note(plan: Plan, piece: Piece) -> Path:
    return plan.growing / NOTES / f"{piece.name}.json"


def _finish(plan: Plan) -> bool:
    notes = [_note(plan, piece) for piece in plan.pieces]
    if not all(note.exists() for note in notes):
        return plan.to.exists()
    skipped = [*plan.skipped, *_left_out(plan)]
    if not any(plan.growing.glob("*.hdf5")):
        raise ValueError(f"data {plan.command}: every demo is broken ({len(skipped)} faults), the first: {skipped[0]}")
    there = {key: manifest(plan.growing)[key] for key in ("episodes", "steps")}
    files.write_json(plan.growing / PLAN, {**plan.as_dict(), **there, "skipped": [asdict(f) for f in skipped]})
    try:
        plan.growing.rename(plan.to)
    except FileNotFoundError:  # another share was last at the same time
        return plan.to.exists()
    files.sync(plan.to.parent)
    shutil.rmtree(plan.to / NOTES)
    return True


def _left_out(plan: Plan) -> list[Finding]:
    """Demos that the pieces so far are without."""
    notes = [_note(plan, piece) for piece in plan.pieces]
    return [Finding(**found) for note in notes if note.exists() for found in json.loads(note.read_text())]


def skipped_of(folder: Path) -> list[Finding]:
    """What was left out of a data set that `make` made."""
    return [Finding(**found) for found in json.loads((folder / PLAN).read_text()).get("skipped", [])]


def _stamp(path: Path) -> list[int]:
    about = path.stat()
    return [about.st_size if path.is_file() else 0, about.st_mtime_ns]
