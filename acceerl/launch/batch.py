"""A training inside its Slurm job: `lead` is what the batch step runs, on the first node of the first component.

It is `acceerl train` with steps for hands. Told to leave by Slurm (USR2 before the time limit, SIGTERM), it drains,
and then puts its own job back into the queue, or a successor where the site does not let it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

from acceerl.config import Config
from acceerl.launch import attempts, sbatch, slurm_queue, submission
from acceerl.launch.leader import FAILED, QUEUED
from acceerl.launch.machine import Command
from acceerl.launch.steps import Steps
from acceerl.launch.supervisor import Place
from acceerl.launch.train import train
from acceerl.launch.world import World, of_allocation
from acceerl.runtime.rundir import Run
from acceerl.runtime.stop import STOPPED, StopFlag
from acceerl.runtime.world import Allocation, allocation

WRONG_INPUT = 2
ASKED, AGAIN_S = 5, 3.0
REJOIN_S = 30.0  # how long a supervisor that was cut off waits for the network
KILLED_S = 60.0  # Slurm ends a requeued job at once


def lead(path: str) -> int:
    """One attempt; returns its exit code, or never when the job goes back into the queue."""
    stop, run, here = StopFlag().install(), Run.open(path), allocation()
    assert here is not None, "the batch step runs in a job"
    config = run.config()
    _say(f"job {here.job} on {', '.join('+'.join(nodes) for nodes in here.components)}, "
         f"restarted {here.restarts} times; attempt {run.attempt + 1}")  # fmt: skip
    hopeless = attempts.begin(run, config.slurm.attempts)
    if hopeless:
        _say(f"error: {hopeless}")
        run.write_status({**run.status(), "state": "failed", "error": hopeless})
        return FAILED
    steps: list[Steps | World] = []
    code = _train(config, run, stop, _place(here, steps.append))
    if lonely := next((s.cut_off() for s in steps if s.cut_off()), ""):
        code = _reconnected(run, here, lonely)
        return _interrupted(config, run, here, lonely, code)
    why = stop.reason or next((s.interrupted for s in steps), "")
    return _interrupted(config, run, here, why, code) if why and code in (STOPPED, FAILED) else code


def _place(here: Allocation, made: Callable[[Steps | World], None]) -> Place:
    """Steps over this allocation, reached at the address that Slurm knows this node by."""
    address = slurm_queue.node_address(here.node)

    def hands(run: Run, config: Config, attempt: int, command: Command | None) -> Steps | World:
        assert command is None, "steps start the real processes"
        make = of_allocation if config.channels == "world" else Steps
        steps = make(run, config, attempt, here, address)
        made(steps)
        return steps

    return Place(address, hands)


def _train(config: Config, run: Run, stop: StopFlag, place: Place) -> int:
    """The whole of `acceerl train`: exit codes instead of exceptions, since the result is what the user waits for."""
    try:
        return train(config, run, place, stop)
    except (ValueError, FileNotFoundError) as error:
        said = " ".join(str(error).split())
        _say(f"error: {said}")
        if run.status().get("state") == QUEUED:  # else another leads the run, whose status it is
            run.write_status({**run.status(), "state": "failed", "error": said})
        return WRONG_INPUT
    except SystemExit as error:  # a signal while the policy was scored
        stop.set("a signal")
        return int(error.code or 0)


def _interrupted(config: Config, run: Run, here: Allocation, why: str, code: int) -> int:
    """Back into the queue, unless Slurm is already ending the job: cancelled, over its limit, or requeued by itself."""
    if not _runs(here):
        _say(f"{why}; Slurm is ending job {here.job}: {slurm_queue.job_state(here.job)}")
        return code
    run.write_status({**run.status(), "state": QUEUED, "reason": why})
    refused = slurm_queue.requeue(here.job) if config.site.requeue else "site.requeue=false"
    if not refused:
        _say(f"{why}: job {here.job} goes back into the queue")
        time.sleep(KILLED_S)
        os._exit(STOPPED)
    try:
        follower = f"job {submit(config, run, after=here.job).job_id} follows"
    except ValueError as error:
        follower = f"no successor either: {error}; to continue: acceerl train resume={run.path}"
        run.write_status({**run.status(), "state": "stopped"})
    _say(f"{why}: requeue refused ({refused}); {follower}")
    return code


def _runs(here: Allocation) -> bool:
    """Is the job still whole? A controller that does not answer for a while must not cost the run its next attempt."""
    for _ in range(ASKED):
        try:
            return slurm_queue.all_run(here.job, here.restarts)
        except slurm_queue.Unanswered as error:
            _say(f"asking about job {here.job} again: {error}")
            time.sleep(AGAIN_S)
    return True


def _reconnected(run: Run, here: Allocation, why: str, seconds: float = REJOIN_S) -> int:
    """After a lost network: returns when Slurm answers again and still counts on this life of the job.

    Ends the process when another one leads the run by then, or nobody answers: Slurm has requeued the job, or will
    when it notices that this node is lost. By then all processes have ended and the lock of the run is free. Not for
    long: a node that comes back and still runs the batch script of a requeued job is drained ("Duplicate jobid").
    """
    attempt, until = run.attempt, time.monotonic() + seconds
    _say(f"{why}; asking for up to {seconds:g} s whether job {here.job} is still this one's")
    while time.monotonic() < until and run.attempt == attempt:
        try:
            if slurm_queue.all_run(here.job, here.restarts):
                return FAILED
            break
        except slurm_queue.Unanswered:
            time.sleep(AGAIN_S)
    _say("another attempt leads the run, or will")
    os._exit(FAILED)


def submit(config: Config, run: Run, after: str = "") -> submission.Job:
    """Queues a training, by a user or after another job of the same run."""
    text = sbatch.script(config, run.name, attempts.folder(run), sys.executable, after)
    job = submission.submit(attempts.folder(run), text, lead, str(run.path))
    attempts.submitted(run, job.job_id, anew=not after)
    return job


def _say(text: str) -> None:
    print(f"acceerl: {text}", file=sys.stderr, flush=True)
