"""One run directory: where everything about one training lies. Whoever needs a path of a run asks `Run`."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from acceerl.config import Config, from_dict, to_dict

_BEFORE_THE_BEGIN = {"config.yaml", "spec.json", "lock"}  # files that a job writes before it does anything


@dataclass(frozen=True)
class Run:
    """The paths of one run; making a Run touches nothing, `create`, `begin_attempt` and `write_*` do.

    >>> Run(Path("runs/blue")).log(2, "rollout", 7).as_posix()
    'runs/blue/logs/attempt_2/rollout.7.log'
    """

    path: Path

    @classmethod
    def create(cls, config: Config) -> Run:
        """Makes `runs/NAME` with its config.yaml; without a name, date and time become one.

        Raises ValueError when a run of that name exists, or `runs=` names no folder in which one can be made.
        """
        path = Path(config.runs) / (config.name or time.strftime("%Y-%m-%d_%H-%M-%S"))
        try:
            run = cls(_claim(path, may_rename=not config.name).resolve())
            run.write_config(config)
        except OSError as error:
            raise ValueError(cannot_hold_runs(config.runs, error)) from error
        return run

    @contextmanager
    def given_back_unless_begun(self) -> Iterator[None]:
        """Removes the run directory again when a wrong input (ValueError) ends the job before it began anything."""
        try:
            yield
        except (ValueError, FileNotFoundError):
            if _never_began(self.path):
                shutil.rmtree(self.path, ignore_errors=True)  # NFS keeps a folder whose lock is still held
            raise

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """An existing run. Raises FileNotFoundError naming the path when there is none."""
        run = cls(Path(path).resolve())
        if not run.config_file.is_file():
            raise FileNotFoundError(f"{path} is no run directory: it has no config.yaml (give a folder like runs/NAME)")
        return run

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def status_file(self) -> Path:
        return self.path / "status.json"

    @property
    def lock_file(self) -> Path:
        """Held by the one process that leads the run (launch/leader.py)."""
        return self.path / "lock"

    @property
    def tracker_file(self) -> Path:
        """Which run of an experiment tracker this is, so that a resumed one continues it."""
        return self.path / "tracker.json"

    @property
    def scores_file(self) -> Path:
        return self.path / "scores.json"

    @property
    def metrics_folder(self) -> Path:
        return self.path / "metrics"

    def metrics(self, role: str, index: int) -> Path:
        return self.metrics_folder / f"{role}.{index}.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    def logs(self, attempt: int) -> Path:
        return self.path / "logs" / f"attempt_{attempt}"

    def log(self, attempt: int, role: str, index: int) -> Path:
        return self.logs(attempt) / f"{role}.{index}.log"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def world_checkpoints(self) -> Path:
        """Of the world_model role, which saves on its own."""
        return self.path / "world_checkpoints"

    @property
    def world(self) -> Path:
        """World and success model alone: what `acceerl pretrain world_model` writes and `world.start` reads."""
        return self.path / "world.pt"

    @property
    def weights(self) -> Path:
        """The policy's weights alone, as the last job left them: what `after` scores and users load."""
        return self.path / "policy.pt"

    @property
    def links(self) -> Path:
        return self.path / "links"

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def videos(self) -> Path:
        return self.path / "videos"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def attempt(self) -> int:
        """The running or last attempt, from 1; 0 before the first."""
        folders = (self.path / "logs").glob("attempt_*")
        numbers = [f.name.removeprefix("attempt_") for f in folders]
        return max((int(n) for n in numbers if n.isdigit()), default=0)

    def begin_attempt(self) -> int:
        """Makes the log folder of the next attempt and returns its number."""
        number = self.attempt + 1
        self.logs(number).mkdir(parents=True)
        return number

    def write_config(self, config: Config) -> None:
        replace_text(self.config_file, yaml.safe_dump(to_dict(config), sort_keys=False))

    def config(self) -> Config:
        """The resolved configuration. Raises ValueError when the file was edited into something invalid."""
        try:
            return from_dict(yaml.safe_load(self.config_file.read_text()))
        except yaml.YAMLError as error:
            raise ValueError(f"{self.config_file} is not valid YAML: {' '.join(str(error).split())}") from error

    def write_status(self, status: dict[str, Any]) -> None:
        replace_json(self.status_file, status)

    def status(self) -> dict[str, Any]:
        return read_json(self.status_file)

    def write_score(self, label: str, success: float) -> None:
        """Remembers the success rate (0 to 1) of one evaluation round, so that a resumed run need not repeat it."""
        replace_json(self.scores_file, {**self.scores(), label: success})

    def scores(self) -> dict[str, float]:
        return read_json(self.scores_file)


def replace_text(path: Path, text: str) -> None:
    """Writes beside and renames: a reader, or a kill, never sees half a file."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    beside.write_text(text)
    os.replace(beside, path)


def replace_json(path: Path, record: dict[str, Any]) -> None:
    replace_text(path, json.dumps(record, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """What the file holds; empty when it is not there yet. Raises ValueError when it holds something else."""
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return {}
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{path} is not a JSON object ({error}): delete it and try again") from error


def cannot_hold_runs(folder: str | Path, error: OSError) -> str:
    why = "it is a file" if Path(folder).is_file() else (error.strerror or str(error))
    return f"runs={folder}: no run can be written there ({why}); name a folder in which you may write, with room"


def _claim(path: Path, may_rename: bool) -> Path:
    """Makes the folder; two runs of the same second get `-2`, `-3`, ... appended.

    A run that ended on a wrong input before it began anything gives its name back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in range(1, 1_000 if may_rename else 2):
        candidate = path if number == 1 else path.with_name(f"{path.name}-{number}")
        if not candidate.exists() or (not may_rename and _never_began(candidate)):
            candidate.mkdir(exist_ok=True)
            return candidate
    raise ValueError(f"the run {path} exists: choose another name=..., or resume={path}")


def _never_began(path: Path) -> bool:
    return path.is_dir() and {p.name for p in path.iterdir()} <= _BEFORE_THE_BEGIN
