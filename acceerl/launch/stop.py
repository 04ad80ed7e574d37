"""`acceerl stop RUN`: asks a run to write a checkpoint and leave, and waits until it has.

A training is asked through its registry, on whichever machine it runs. While a policy is scored, before and after,
there is no registry and nothing to save: the process itself gets SIGTERM, which works on its own machine only; a Slurm
job is cancelled, as one that still waits in the queue is.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from acceerl.launch.leader import ENDED, FAILED, LED, QUEUED, is_here, latest, leader, state_of
from acceerl.launch.queued import cancel, ended, looked_after
from acceerl.runtime.registry_client import RegistryClient, RegistryRefused, RegistryTimeout
from acceerl.runtime.rundir import Run

ANSWER_S = 10.0  # a living supervisor's registry answers within milliseconds
LATER_S = 30.0  # beyond deadlines.drain: killing who does not leave, closing, the last status


def command(words: Sequence[str], options: Mapping[str, str]) -> int:
    assert not options, "stop takes none"
    return stop(words[0])


def stop(path: str | Path) -> int:
    """Returns 0 when the run has stopped (or was done first), 1 when it would not.

    Raises ValueError, naming its state, for a run that is not running.
    """
    run = Run.open(path)
    status = looked_after(run, latest(run))
    _refuse_idle(run, status)
    if status["state"] == QUEUED:
        return _cancel_queued(run)
    if status["state"] in ("starting", "scoring") or run.config().channels == "inline":
        _signal(run, status)
    elif status["state"] == "running" and not _ask(run, status):
        return FAILED
    return _await_end(run)


def _refuse_idle(run: Run, status: dict[str, Any]) -> None:
    state = state_of(status) if status else "never started"
    if state == "lost":
        raise ValueError(
            f"{run.path} is not running: its supervisor is gone; to continue: acceerl train resume={run.path}"
        )
    if state not in (*LED, QUEUED):
        raise ValueError(f"{run.path} is not running ({state}): there is nothing to stop")


def _cancel_queued(run: Run) -> int:
    job = cancel(run, "queued")
    print(f"{run.path} was queued: job {job} is cancelled", flush=True)
    status = ended(run, job, "CANCELLED")
    return _tell(run, status, "stopped") if status["state"] == "stopped" else _await_end(run)


def _ask(run: Run, status: dict[str, Any]) -> bool:
    """Through the control plane. False when nobody answers, which is said."""
    by, client = f"acceerl stop from {socket.gethostname()} (process {os.getpid()})", None
    try:
        client = RegistryClient(run.path, "operator", os.getpid(), timeout_s=ANSWER_S)
        client.ask("stop", by, timeout_s=ANSWER_S)
        print(f"asked {run.path} to stop: it writes a checkpoint and leaves", flush=True)
        return True
    except (RegistryTimeout, RegistryRefused) as error:
        owner = status["supervisor"]
        print(f"acceerl: the supervisor of {run.path} does not answer ({error}): on {owner['host']}, "
              f"`kill -TERM {owner['pid']}` does the same", file=sys.stderr)  # fmt: skip
        return False
    finally:
        if client is not None:
            client.close()


def _signal(run: Run, status: dict[str, Any]) -> None:
    """SIGTERM through a handle on the process, so that it cannot meet another one that got its id."""
    what, host = status["state"], status["supervisor"]["host"]
    if not is_here(status) and run.config().launch == "slurm":
        print(f"{run.path} is {what} on {host}, with nothing to save: job {cancel(run, what)} is cancelled", flush=True)
        return
    if not is_here(status):
        raise ValueError(f"{run.path} has no supervisor to ask ({what}): run `acceerl stop {run.path}` on {host}")
    process = leader(status)
    if process is None:
        raise ValueError(f"{run.path} is not running: it has just ended")
    handle = os.pidfd_open(process.pid)
    try:
        if leader(status) is None:  # its id may have gone to another process before the handle was taken
            raise ValueError(f"{run.path} is not running: it has just ended")
        doing = "runs in one process" if what == "running" else f"is {what} {status.get('reason', '')}".rstrip()
        print(f"{run.path} {doing}: asking process {process.pid} to leave", flush=True)
        signal.pidfd_send_signal(handle, signal.SIGTERM)
    finally:
        os.close(handle)


def _await_end(run: Run) -> int:
    seconds = run.config().deadlines.drain + LATER_S
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        status = latest(run)
        state = state_of(status)
        if state in ENDED or state == "lost":
            return _tell(run, status, state)
        time.sleep(0.2)
    print(
        f"acceerl: stop waited {seconds:.0f} s for {run.path} to leave (deadlines.drain + {LATER_S:.0f})",
        file=sys.stderr,
    )
    return FAILED


def _tell(run: Run, status: dict[str, Any], state: str) -> int:
    saved = f"last checkpoint: {status.get('last_checkpoint') or 'none'}"
    if state == "done":
        print(f"the training was done first; its weights: {run.weights}")
    elif state == "stopped":
        print(f"stopped; {saved}; to continue: acceerl train resume={run.path}")
    else:
        print(
            f"acceerl: {run.path} ended otherwise ({state}: {status.get('error') or 'no word'}); {saved}",
            file=sys.stderr,
        )
        return FAILED
    return 0
