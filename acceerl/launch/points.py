"""One point of a sweep, from its job to its objective. What is known of it is read from its run and from Slurm."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

from acceerl.config import Config
from acceerl.launch import attempts, slurm, slurm_queue
from acceerl.launch.slurm_queue import Unanswered
from acceerl.launch.submission import Job
from acceerl.launch.train import figures
from acceerl.runtime import trackers
from acceerl.runtime.rundir import Run

WAITING, QUEUED, DONE, FAILED = "waiting", "queued", "done", "failed"
SHOWN_S = 15.0  # a shared file system may show the result a little later


@dataclass
class Point:
    """`name` is that of its run. `value`: the objective, when it is done; `why`: how it failed."""

    overrides: tuple[str, ...]
    name: str
    config: Config | None
    state: str = WAITING
    value: float | None = None
    why: str = ""
    job: str = ""

    @property
    def run(self) -> Run:
        assert self.config is not None, "an invalid point has no run"
        return Run((Path(self.config.runs) / self.name).resolve())

    def says(self) -> str:
        match self.state:
            case "done":
                return f"{self.value:g}"
            case "failed":
                return f"failed: {self.why}"
            case _:
                return f"job {self.job}" if self.job else "waits to be submitted"

    def fails(self, why: str) -> None:
        self.state, self.why = FAILED, why


def pick_up(point: Point) -> Point:
    """Finds the job that an earlier command submitted, even when it was ended before it could note the id."""
    if point.run.config_file.is_file():
        point.job = attempts.record(point.run)["job"] or _search(point.run)
        point.state = QUEUED if point.job else WAITING
    return point


def _search(run: Run) -> str:
    """A living job whose log is the run's. Names alone may be those of another folder's runs."""
    for job in slurm_queue.call("squeue", "-h", "--me", "-o", "%A", "-n", f"acceerl-{run.name}").split():
        if f"={attempts.folder(run)}/" in slurm_queue.call("scontrol", "show", "job", "-o", job):
            attempts.submitted(run, job, anew=True)
            return job
    return ""


def submit(point: Point) -> None:
    """Queues its job. What makes that impossible is the point's failure, not the sweep's."""
    assert point.config is not None
    try:
        trackers.check(point.config)
        slurm.check(point.config)
        run = point.run if point.run.config_file.is_file() else Run.create(point.config)
        with run.given_back_unless_begun():
            point.job = slurm.queue(point.config, run).job_id
        point.state = QUEUED
    except (ValueError, FileNotFoundError) as error:
        point.fails(" ".join(str(error).split()))


def look(point: Point, objective: str) -> None:
    """Notes the end of its job, over requeues and successors."""
    job = Job(attempts.folder(point.run), attempts.record(point.run)["job"] or point.job)
    point.job = job.job_id
    if not job.done() or attempts.record(point.run)["job"] not in ("", job.job_id):
        return
    try:
        code, state = _code(job), slurm_queue.job_state(job.job_id)
    except Unanswered:
        return  # at the next look
    value = figures(point.run).get(objective)
    if code == 0 and value is not None:
        point.state, point.value = DONE, float(value)
    elif code == 0:
        point.fails(f"it has no {objective} (evaluator.after=true makes train.success_after)")
    else:
        how = state.lower() if code is None else f"ended with {code}"
        point.fails(f"job {job.job_id} {how}: {point.run.status().get('error') or _last_words(job)}")


def _code(job: Job) -> int | None:
    deadline = time.monotonic() + SHOWN_S
    while (code := job.exit_code()) is None and job.state == "COMPLETED" and time.monotonic() < deadline:
        time.sleep(0.5)
    return code


def _last_words(job: Job) -> str:
    """The last line of the job's log, by preference one that names an error."""
    path = Path(job.paths.stdout)
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    said = [line.strip() for line in lines if line.strip()]
    errors = [line for line in said if re.search(r"error:", line)]
    return (errors or said or ["it said nothing"])[-1].removeprefix("acceerl: error: ")
