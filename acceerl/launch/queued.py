"""Runs that wait in Slurm's queue: nobody leads them, so what became of their jobs is asked of Slurm by who looks."""

from __future__ import annotations

from typing import Any

from acceerl.launch import attempts, slurm_queue
from acceerl.launch.leader import QUEUED, whoami
from acceerl.launch.slurm_queue import ALIVE, Unanswered
from acceerl.runtime.rundir import Run


def looked_after(run: Run, status: dict[str, Any]) -> dict[str, Any]:
    """The status; where its job ended in the queue, written anew: nobody else is there to say so.

    A machine without Slurm, or a controller that does not answer, leaves it as it is.
    """
    if status.get("state") != QUEUED or not (job := attempts.record(run)["job"]):
        return status
    try:
        state = slurm_queue.job_state(job)
    except (Unanswered, ValueError):
        return {**status, "reason": status.get("reason") or f"job {job}"}
    if state in ALIVE:
        return {**status, "reason": status.get("reason") or f"job {job} {state}"}
    return ended(run, job, state)


def ended(run: Run, job: str, state: str) -> dict[str, Any]:
    """Writes and returns the status of a run whose job never came to begin, or to begin again."""
    status, attempt = run.status(), f"attempt {run.attempt + 1}"
    if status.get("state") != QUEUED:  # it began meanwhile
        return status
    if state.startswith("CANCELLED"):
        told = {"state": "stopped", "reason": f"job {job} was cancelled before {attempt} began"}
    else:
        log = attempts.folder(run) / f"{job}_0_log.out"
        hidden = f"is {run.path} visible on the nodes? runs= must name a folder that all share"
        seen = f"(log {log})" if log.exists() else hidden
        told = {"state": "failed", "error": f"job {job} ended before {attempt} began: {state}; {seen}"}
    status |= {**told, "supervisor": whoami()}
    run.write_status(status)
    return status


def cancel(run: Run, why: str) -> str:
    """Cancels the run's job. Raises ValueError naming the command, where that cannot be done from here."""
    job = attempts.record(run)["job"]
    try:
        slurm_queue.call("scancel", job)
    except (Unanswered, ValueError) as error:
        raise ValueError(f"{run.path} is {why}: `scancel {job}` on the cluster ends it (from here: {error})") from error
    return str(job)
