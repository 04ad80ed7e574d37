"""A sweep on a cluster: one Slurm job a point, never an array, and the objective of each when it has ended.

What was submitted stands in `RUNS/NAME/sweep.json`, and everything else in the run directories of the points. So the
same command, given again after a lost connection, finds its points instead of submitting them twice.
"""

from __future__ import annotations

import fcntl
import hashlib
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from acceerl.config import Config, from_dict, to_dict
from acceerl.launch import slurm
from acceerl.launch.compose import compose, is_swept, multirun
from acceerl.launch.points import DONE, FAILED, QUEUED, WAITING, Point, look, pick_up, submit
from acceerl.runtime.rundir import cannot_hold_runs, read_json, replace_json

LOOK_S = 3.0
EACH_S = 0.2  # Slurm's controller is asked about every job; large sweeps ask less often
LAUNCHER = "hydra/launcher=acceerl_slurm"
Composed = tuple[tuple[str, ...], Config | Exception]  # the overrides of a point, and what they gave

_led: dict[str, Sweep] = {}  # sweeps of this process, by folder; a sweeper may call several times for one


class PointFailed(RuntimeError):
    """What a sweeper meets that asks for the objective of a failed point."""


def wanted(overrides: Sequence[str]) -> bool:
    """Does `acceerl train -m` with these words submit its points as jobs?"""
    if any(word.startswith("hydra/launcher=") for word in overrides):
        return LAUNCHER in overrides
    given = [word for word in overrides if word.startswith("launch=")]
    if given:
        return given[-1] == "launch=slurm"
    try:
        return compose("train", [word for word in overrides if not is_swept(word)]).launch == "slurm"
    except ValueError:  # the sweep itself will say what is wrong
        return False


def command(overrides: Sequence[str]) -> int:
    """Returns 0 when any point has a result (with sweep.strict=true: all), else 1."""
    _led.clear()
    words = [*overrides, *([] if LAUNCHER in overrides else [LAUNCHER])]
    try:
        multirun(words, _refuse)
    except PointFailed as error:
        print(f"acceerl: the sweeper ended at a failed point: {error}", file=sys.stderr)
        return 1
    return max(sweep.summary() for sweep in _led.values())


def _refuse(config: Config) -> int:
    raise AssertionError(f"points run in jobs, not here: {config.name}")


def lead(task: Sequence[str], composed: Sequence[Composed]) -> list[float | Exception]:
    """Submits the points, waits for all, and returns the objective of each, or why there is none.

    `task`: the words of the whole command, which name the sweep when `name=` does not. Raises ValueError for a sweep
    that cannot be one.
    """
    config = next((made for _, made in composed if isinstance(made, Config)), None)
    if config is None:
        raise ValueError(f"no point of the sweep is valid; the first: {composed[0][1]}")
    if config.launch != "slurm":
        raise ValueError(f"{LAUNCHER} submits jobs: add launch=slurm")
    _refuse_no_objective(config)
    slurm.warn(config)
    folder = Path(config.runs).absolute() / (config.name or _name(task))
    sweep = _led.setdefault(str(folder), Sweep(folder, config))
    with sweep.alone():
        points = [sweep.point(*entry) for entry in composed]
        sweep.run(points)
    return [PointFailed(f"{p.name}: {p.why}") if p.value is None else p.value for p in points]


def _refuse_no_objective(config: Config) -> None:
    """Before hours are spent on points that cannot be compared."""
    _, _, label = config.sweep.objective.partition("train.success_")
    if label and not getattr(config.evaluator, label):
        raise ValueError(f"sweep.objective={config.sweep.objective}, but evaluator.{label}=false: no point would have "
                         f"it; set evaluator.{label}=true or another sweep.objective (train.updates, ...)")  # fmt: skip


def _name(task: Sequence[str]) -> str:
    """The same for the same command, in whatever order its words stand."""
    return f"sweep-{hashlib.sha256(' '.join(sorted(of_point(task))).encode()).hexdigest()[:8]}"


def of_point(words: Sequence[str]) -> tuple[str, ...]:
    """What makes a point: the last word of each key, in any order. What is about the sweep may change.

    >>> of_point(["seed=1", "sweep.strict=true", "name=s", "seed=2"])
    ('seed=2', 'name=s')
    """
    last = {word.split("=")[0]: word for word in words}
    return tuple(word for word in last.values() if not word.startswith(("sweep.", "hydra")))


class Sweep:
    """The points of one folder."""

    def __init__(self, folder: Path, config: Config) -> None:
        if (folder / "config.yaml").exists():
            raise ValueError(f"{folder} is a run: choose another name=... for the sweep")
        self.folder, self.rules = folder, config.sweep
        self.file = folder / "sweep.json"
        self.known: list[dict[str, Any]] = read_json(self.file).get("points", [])
        self.points: list[Point] = []

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Raises ValueError when another process leads the same sweep."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(cannot_hold_runs(self.folder.parent, error)) from error
        with (self.folder / "lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(f"the sweep {self.folder} is led by another process: end that first") from error
            yield

    def point(self, overrides: tuple[str, ...], made: Config | Exception) -> Point:
        """The point of these overrides, from an earlier command or new; noted before it is submitted."""
        overrides = of_point(overrides)
        same = (i for i, p in enumerate(self.known) if sorted(p["overrides"]) == sorted(overrides))
        number = next(same, len(self.known))
        name = f"{self.folder.name}-{number}"
        if number == len(self.known):
            self.known.append({"overrides": list(overrides), "run": name})
        if isinstance(made, Config):
            point = pick_up(Point(overrides, name, from_dict({**to_dict(made), "name": name})))
        else:
            point = Point(overrides, name, None, FAILED, why=" ".join(str(made).split()))
        self.points = [p for p in self.points if p.name != name] + [point]
        self._write()
        return point

    def run(self, points: Sequence[Point]) -> None:
        """Until all have ended. Ctrl-C or a lost terminal leaves the jobs alone."""
        found = sum(point.state == QUEUED for point in points)
        print(f"sweep {self.folder}: {len(points)} points" + (f", {found} of them begun before" if found else ""),
              flush=True)  # fmt: skip
        try:
            while unfinished := [p for p in points if p.state in (WAITING, QUEUED)]:
                for point in unfinished:
                    self._advance(point, points)
                time.sleep(max(LOOK_S, EACH_S * len(unfinished)))
        except KeyboardInterrupt:
            print("\nthe jobs go on; the same command finds them again", file=sys.stderr)
            raise

    def _advance(self, point: Point, points: Sequence[Point]) -> None:
        before = point.state
        if point.state == QUEUED:
            look(point, self.rules.objective)
        elif self.rules.parallel == 0 or sum(p.state == QUEUED for p in points) < self.rules.parallel:
            submit(point)
        if point.state != before:
            self._write()
            print(f"  {point.name}: {self._words(point)}: {point.says()}", flush=True)

    def summary(self) -> int:
        """Prints every point and the best; returns the exit code."""
        done, failed = ([p for p in self.points if p.state == state] for state in (DONE, FAILED))
        print(f"\n{self.folder.name}: {len(done)} of {len(self.points)} points have a result "
              f"({self.rules.objective}, {self.rules.direction})")  # fmt: skip
        for point in self.points:
            print(f"  {point.name:<{len(self.folder.name) + 4}} {self._words(point):<32} {point.says()}")
        best = self.best()
        if best is not None:
            print(f"best: {self._words(best)}: {best.value:g} ({best.run.path})")
        return 1 if not done or (failed and self.rules.strict) else 0

    def best(self) -> Point | None:
        sign = 1 if self.rules.direction == "maximize" else -1
        return max((p for p in self.points if p.value is not None), key=lambda p: sign * (p.value or 0.0), default=None)

    def _words(self, point: Point) -> str:
        """What makes it differ from the others."""
        common = set.intersection(*(set(p["overrides"]) for p in self.known)) if len(self.known) > 1 else set()
        return " ".join(word for word in point.overrides if word not in common)

    def _write(self) -> None:
        told = {p.name: {"state": p.state, "value": p.value, "why": p.why} for p in self.points}
        best = self.best()
        replace_json(self.file, {
            "objective": self.rules.objective, "direction": self.rules.direction, "best": best.name if best else "",
            "points": [{**known, **told.get(known["run"], {})} for known in self.known],
        })  # fmt: skip
