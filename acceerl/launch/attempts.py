"""What became of a run's Slurm job: its ids, and the checkpoint at which each attempt began. `RUN/slurm/job.json`.

A training that is interrupted again and again before it can save anything must stop with a reason instead of looping.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from acceerl.runtime.rundir import Run, read_json, replace_json


def folder(run: Run) -> Path:
    """The batch scripts, their logs and what submitit keeps."""
    return run.path / "slurm"


def record(run: Run) -> dict[str, Any]:
    """`job`: the newest id; `began`: the newest checkpoint at the begin of each attempt since a user submitted."""
    return {"job": "", "began": [], **read_json(folder(run) / "job.json")}


def submitted(run: Run, job: str, anew: bool) -> None:
    """Notes the job that leads the run from now on; `anew`: by a user, who starts the count again."""
    _write(run, {"job": job, "began": [] if anew else record(run)["began"]})


def begin(run: Run, limit: int) -> str:
    """Notes that an attempt begins; returns why it must not, empty when it may."""
    before = record(run)
    names = [path.name for path in run.checkpoints.glob("*") if "." not in path.name]
    now = max(names, default="none")
    began = [*before["began"], now]
    _write(run, {**before, "began": began})
    if len(began) > limit and set(began[-limit - 1 :]) == {now}:
        return f"no progress: {limit} attempts in a row ended without a new checkpoint (slurm.attempts; newest: {now})"
    return ""


def _write(run: Run, noted: dict[str, Any]) -> None:
    folder(run).mkdir(exist_ok=True)
    replace_json(folder(run) / "job.json", noted)
