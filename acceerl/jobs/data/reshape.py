"""`acceerl data convert`, `merge` and `split`: our data sets as other data sets of ours."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from acceerl.config import Config
from acceerl.jobs.data import pieces
from acceerl.jobs.data.options import Convert, Merge, Split
from acceerl.jobs.data.pieces import Part, Piece, Plan
from acceerl.jobs.data.replay import drawn_anew, witness
from acceerl.stores.checks import Finding, refuse_nonsense
from acceerl.stores.reader import Entry, Trajectories, open_trajectories
from acceerl.stores.schema import Episode
from acceerl.stores.shard import Packing, copy_shard, write_shard
from acceerl.stores.validate import checksum


def ours(sources: Sequence[Path], verb: str) -> Trajectories:
    """Raises ValueError for other people's files, whose rows and images lie otherwise, and for NaN or damage in ours.

    Chunks are copied as they are: a new checksum would certify what the old one disproves.
    """
    trajectories = open_trajectories(sources)
    for entry in trajectories.entries:
        if not entry.layout.ours:
            raise ValueError(f"{entry.path}: {verb} works on what acceerl wrote: `acceerl data import` it first")
    refuse_nonsense(trajectories.entries)
    for path in dict.fromkeys(entry.path for entry in trajectories.entries):
        for finding in checksum(path):
            raise ValueError(str(finding))
    return trajectories


def merge(sources: Sequence[Path], options: Merge) -> tuple[Plan, bool]:
    """Several data sets as one, chunks as they are. Raises ValueError when they show different things."""
    trajectories = ours(sources, "merge")
    _alike(trajectories)
    return _copied("merge", trajectories.entries, Path(options.to), {}, options)


def _alike(trajectories: Trajectories) -> None:
    first = (trajectories.shapes(0), trajectories.entries[0].stride)
    for i, entry in enumerate(trajectories.entries):
        if (shapes := (trajectories.shapes(i), entry.stride)) != first:
            raise ValueError(
                f"{entry.path}: {entry.demo} has {_words(*shapes)}, {trajectories.entries[0].path} has "
                f"{_words(*first)}: `acceerl data convert` one of them first"
            )


def _words(shapes: dict[str, tuple[int, ...]], stride: int) -> str:
    parts = [f"{name} {'x'.join(map(str, shape))}" for name, shape in sorted(shapes.items())]
    return f"{', '.join(parts)}, a frame every {stride} steps"


def split(sources: Sequence[Path], options: Split) -> list[tuple[Plan, bool]]:
    """One data set for each part, below `to`. The same data and seed give the same parts on every machine."""
    trajectories = ours(sources, "split")
    parts = {"fraction": by_fraction, "task": by_task, "success": by_success}[options.by](trajectories.entries, options)
    facts = {"by": options.by, "fractions": options.fractions, "seed": options.seed}
    return [
        _copied("split", entries, Path(options.to) / name, {**facts, "part": name}, options)
        for name, entries in sorted(parts.items())
        if entries
    ]


def by_fraction(entries: Sequence[Entry], options: Split) -> dict[str, list[Entry]]:
    """Shares of every task's episodes, drawn by (seed, instruction), so that another task changes none of them."""
    names, shares = _fractions(options.fractions)
    parts: dict[str, list[Entry]] = {name: [] for name in names}
    for instruction in sorted({entry.instruction for entry in entries}):
        mine = [entry for entry in entries if entry.instruction == instruction]
        order = np.random.default_rng((options.seed, zlib.crc32(instruction.encode()))).permutation(len(mine))
        ends = np.round(np.cumsum(shares) * len(mine)).astype(int)
        for name, chosen in zip(names, np.split(order, ends[:-1]), strict=True):
            parts[name] += [mine[i] for i in sorted(chosen)]
    for name in (name for name in names if not parts[name]):
        raise ValueError(
            f"fractions={options.fractions} leaves {name} without an episode: each task is divided alone, and has too "
            "few; give it a larger share, or collect more"
        )
    return parts


def _fractions(text: str) -> tuple[list[str], list[float]]:
    try:
        pairs = [(name, float(share)) for name, share in (part.split(":") for part in text.split(","))]
    except ValueError:
        raise ValueError(f"fractions={text}: write NAME:SHARE,NAME:SHARE") from None
    names, shares = [name for name, _ in pairs], [share for _, share in pairs]
    if min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6 or len(set(names)) < len(names) or not all(names):
        raise ValueError(f"fractions={text}: names must differ, and shares be above 0 and add up to 1")
    return names, shares


def by_task(entries: Sequence[Entry], _: Split) -> dict[str, list[Entry]]:
    words = sorted({entry.instruction for entry in entries})
    return {_slug(i, text): [entry for entry in entries if entry.instruction == text] for i, text in enumerate(words)}


def _slug(number: int, instruction: str) -> str:
    letters = "".join(c if c.isalnum() else "_" for c in instruction.lower())[:60].strip("_")
    return f"{number:02d}_{letters}"


def by_success(entries: Sequence[Entry], _: Split) -> dict[str, list[Entry]]:
    return {
        "success": [entry for entry in entries if entry.success],
        "failure": [entry for entry in entries if not entry.success],
    }


def _copied(command: str, entries: Sequence[Entry], to: Path, facts: dict, options: Merge | Split) -> tuple[Plan, bool]:
    facts = {**facts, "episodes_per_shard": options.episodes_per_shard}
    plan = Plan(command, to, facts, pieces.cut(command, parts_of(entries), options.episodes_per_shard))
    to.parent.mkdir(parents=True, exist_ok=True)
    return plan, pieces.make(plan, copy_piece, options)


def parts_of(entries: Sequence[Entry]) -> list[Part]:
    """Entries by file, in their order."""
    by_path: dict[Path, list[str]] = {}
    for entry in entries:
        by_path.setdefault(entry.path, []).append(entry.demo)
    return [(path, tuple(demos)) for path, demos in by_path.items()]


def copy_piece(piece: Piece, final: Path) -> list[Finding]:
    copy_shard(final, piece.parts)
    return []


def convert(sources: Sequence[Path], options: Convert, drawing: Config | None) -> tuple[Plan, bool]:
    """Another compression, chunking, resolution or set of cameras; `drawing` makes the env that draws images anew."""
    trajectories = ours(sources, "convert")
    for name in filter(None, options.cameras.split(",")):
        if drawing is None and name not in trajectories.shapes(0):
            there = ", ".join(camera for _, camera in trajectories.entries[0].layout.cameras)
            raise ValueError(f"cameras={options.cameras}: the data has no camera {name}, only {there}")
    facts = {
        key: getattr(options, key)
        for key in ("compression", "frames_a_chunk", "image_size", "cameras", "render", "suite", "episodes_per_shard")
    }
    cut = pieces.cut("convert", parts_of(trajectories.entries), options.episodes_per_shard)
    plan = Plan("convert", Path(options.to), facts, cut)
    return plan, pieces.make(plan, partial(convert_piece, options, drawing), options)


def convert_piece(options: Convert, drawing: Config | None, piece: Piece, final: Path) -> list[Finding]:
    packing = Packing(options.compression, options.frames_a_chunk, problem_info={"converted": True})
    write_shard(final, _converted(options, drawing, piece), packing)
    return []


def _converted(options: Convert, drawing: Config | None, piece: Piece) -> Iterator[Episode]:
    env = witness(drawing) if drawing else None
    try:
        for path, demos in piece.parts:
            trajectories = open_trajectories(path)
            for i, entry in enumerate(trajectories.entries):
                if entry.demo in demos:
                    episode = trajectories[i]
                    episode = drawn_anew(env, episode, f"{path}: {entry.demo}") if env else episode
                    yield _resized(_kept(episode, options.cameras), 0 if env else options.image_size)
            trajectories.close()
    finally:
        if env:
            env.close()


def _kept(episode: Episode, cameras: str) -> Episode:
    names = [name for name in cameras.split(",") if name] or list(episode.images)
    return dataclasses.replace(
        episode,
        images={name: episode.images[name] for name in names},
        final_images={name: episode.final_images[name] for name in names},
    )


def _resized(episode: Episode, size: int) -> Episode:
    if not size:
        return episode
    return dataclasses.replace(
        episode,
        images={name: resized(frames, size) for name, frames in episode.images.items()},
        final_images={name: resized(frame[None], size)[0] for name, frame in episode.final_images.items()},
    )


def resized(frames: np.ndarray, size: int) -> np.ndarray:
    """uint8 [N, size, size, 3]: means over areas when smaller, bicubic when larger."""
    from PIL import Image

    how = Image.Resampling.BOX if size < frames.shape[1] else Image.Resampling.BICUBIC
    if frames.shape[1:3] == (size, size):
        return frames
    return np.stack([np.asarray(Image.fromarray(frame).resize((size, size), how)) for frame in frames])
