"""What can be wrong with the numbers of a demo, and with one among its neighbours; validate and import ask both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from acceerl.stores.opening import opened
from acceerl.stores.reader import Entry, Trajectories
from acceerl.stores.schema import NOT_FINITE, Episode

COARSE = 16  # pixels a side of what orientations are compared on
CLEARER = 0.6  # an image is upside down when turning it leaves less than this share of the difference
NOTICED = 3.0  # grey levels; smaller differences say nothing
SLACK = 1e-3  # beyond the limit of actions
FLOATS = ("actions", "expert_actions", "rewards", "obs/proprio", "final_obs/proprio")  # float32
NUMBERS = (*FLOATS, "states")
TURNS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "upside down": lambda frame: frame[::-1],
    "mirrored": lambda frame: frame[:, ::-1],
    "turned by 180 degrees": lambda frame: frame[::-1, ::-1],
}
TELLING = (
    "upside down",
    "turned by 180 degrees",
)  # many scenes are as good as symmetric, so a mirror alone says nothing


@dataclass(frozen=True)
class Finding:
    """One thing wrong with a file; `demo` and `field` are empty when it concerns the whole file."""

    file: str
    demo: str
    field: str
    message: str

    def __str__(self) -> str:
        where = " ".join(part for part in (self.demo, self.field) if part)
        return f"{self.file}: {where + ': ' if where else ''}{self.message}"


@dataclass(frozen=True)
class Rules:
    """What a data set must hold beyond being whole. `instructions`: the tasks in order; empty: any."""

    limit: float = 0.0  # largest action; 0: any
    instructions: tuple[str, ...] = ()


def contents(episode: Episode, rules: Rules) -> list[tuple[str, str]]:
    """(field, message) of what is wrong with the numbers of an episode that could be read."""
    found = [(field, message) for field, message in (line.split(": ", 1) for line in episode.problems())]
    largest = np.abs(episode.actions).max(initial=0)
    if rules.limit and np.isfinite(largest) and largest > rules.limit + SLACK:
        found.append(("actions", f"reach {largest:.3g}, beyond {rules.limit:g}"))
    if not episode.instruction:
        found.append(("instruction", "is empty: nobody knows the task"))
    elif rules.instructions and episode.instruction not in rules.instructions:
        found.append(("instruction", f"unknown task {episode.instruction!r}"))
    found += [(f"obs/{name}_rgb", "shows one colour only") for name, frames in episode.images.items() if _blank(frames)]
    return found


def _blank(frames: np.ndarray) -> bool:
    return bool(len(frames)) and bool((frames == frames.reshape(-1, 3)[0]).all())


def labels(trajectories: Trajectories, i: int, rules: Rules) -> Iterator[tuple[str, str]]:
    """(field, message) of what a file of ours says about a demo that reads well all the same."""
    entry = trajectories.entries[i]
    dtypes = trajectories.dtypes(i) if entry.layout.ours else {}
    for field in FLOATS:
        if (dtype := dtypes.get(field, np.dtype(np.float32))) != np.float32:
            yield field, f"{dtype} is not float32"
    yield from misnumbered(entry.task, entry.instruction, rules.instructions)


def misnumbered(task: int, instruction: str, tasks: tuple[str, ...]) -> list[tuple[str, str]]:
    """A demo's number and words, against all tasks in order. Several tasks may have the same words."""
    known = [number for number, words in enumerate(tasks) if words == instruction]
    if task < 0 or not known or task in known:
        return []
    return [("@task", f"is {task}, but {instruction!r} is number {known[0]}")]


def finite(entry: Entry, field: str, rows: np.ndarray) -> np.ndarray:
    """`rows` of a demo, as they are. Raises ValueError naming file, demo and field when there is NaN in them."""
    if np.isfinite(rows).all():
        return rows
    found = Finding(str(entry.path), entry.demo, field, NOT_FINITE)
    raise ValueError(f"{found}: `acceerl data import on_error=skip` leaves it out")


def refuse_nonsense(entries: Iterable[Entry]) -> None:
    """Raises ValueError for a demo of ours that holds NaN or infinity; images, which cannot, are not read."""
    for path, demos in groupby(entries, key=lambda entry: entry.path):
        with opened(path) as file:
            for entry in demos:
                rows = file["data"][entry.demo]
                for name in (name for name in NUMBERS if name in rows):
                    finite(entry, name, rows[name][()])


def upside_down(trajectories: Trajectories, whole: Sequence[int]) -> list[tuple[int, str, str]]:
    """(episode, field, message) of first images that look like their neighbours' only when they are turned.

    Compared are episodes of one instruction, at least three, against their median: whoever is in the minority is named.
    """
    found = []
    for camera, several in _first_frames(trajectories, whole).items():
        for frames in several.values():
            if len(frames) >= 3:
                found += [(i, f"obs/{camera}_rgb", message) for i, message in _turned(frames)]
    return sorted(found)


def _first_frames(trajectories: Trajectories, whole: Sequence[int]) -> dict[str, dict[str, dict[int, np.ndarray]]]:
    """camera -> instruction -> episode -> coarse first image."""
    seen: dict[str, dict[str, dict[int, np.ndarray]]] = defaultdict(lambda: defaultdict(dict))
    for i in whole:
        entry = trajectories.entries[i]
        for _, camera in entry.layout.cameras:
            try:
                frame = trajectories.frames(i, camera, 0, 1)[0]
            except ValueError:
                continue  # damaged: whoever reads the episode says so
            seen[camera][f"{entry.instruction} {frame.shape}"][i] = coarse(frame)
    return seen


def coarse(frame: np.ndarray) -> np.ndarray:
    """float [COARSE or less, ...]: block means of the grey image."""
    grey = frame.mean(axis=-1)
    block = max(1, min(grey.shape) // COARSE)
    height, width = (side // block * block for side in grey.shape)
    return grey[:height, :width].reshape(height // block, block, width // block, block).mean(axis=(1, 3))


def _turned(frames: dict[int, np.ndarray]) -> Iterator[tuple[int, str]]:
    usual = np.median(np.stack(list(frames.values())), axis=0)
    for i, frame in frames.items():
        difference = np.abs(frame - usual).mean()
        turned = {how: np.abs(turn(frame) - usual).mean() for how, turn in TURNS.items()}
        least = min(turned[how] for how in TELLING)
        if difference > NOTICED and least < CLEARER * difference:
            how = min(turned, key=turned.__getitem__)
            yield i, f"{how}, against the other demos of its task"
