"""A keeper step: holds the processes of one share on its node, as the supervisor orders over its line.

`python -m acceerl.launch.step RUN NAME ATTEMPT LIFE`, started by srun. It decides nothing. When it loses the
supervisor, or Slurm ends it, its processes end with it.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from acceerl.config import Config
from acceerl.launch.line import Line
from acceerl.launch.machine import Key, Machine, Own, process_command
from acceerl.launch.slurm_queue import node_is_up, requeue
from acceerl.runtime.layout import Share, gpus_of, pins, shares
from acceerl.runtime.placement import EGL_ENV, rows
from acceerl.runtime.rundir import Run
from acceerl.runtime.stop import DONE, LOST, STOPPED, StopFlag
from acceerl.runtime.world import here

SUPERVISOR = "ACCEERL_SUPERVISOR"  # environment variable: JSON of host, port and token
SILENT_S = 20.0  # without a word of the supervisor, which pings every second
LEAVE_S = 25.0  # after SIGTERM: the learner writes its checkpoint meanwhile
BEAT_S = 1.0
NOT_HERE = 2  # exit code: as of a wrong input
VERDICT_S = 600.0  # how long Slurm may take to notice that the supervisor's node is lost


class Step:
    """One life of a keeper step."""

    def __init__(self, machine: Machine, line: Line, config: Config, stop: StopFlag) -> None:
        self.machine, self.line, self.stop = machine, line, stop
        self.rows = {row.role: row for row in rows(config)}
        self.leave_by = float("inf")
        self.ended = False  # the supervisor said so
        self._beat_due = 0.0

    def hold(self) -> int:
        """Until the supervisor says `end`, falls silent, or Slurm ends the step. No process outlives this call."""
        try:
            while not (self.ended or self._alone() or self._told_to_leave()):
                select.select([self.line], [], [], 0.1)
                for message in self.line.receive():
                    self._obey(message)
                self._report()
            return DONE if self.ended else STOPPED if self.stop.is_set() else LOST
        finally:
            self.machine.close([], deadline=10.0)

    def _obey(self, order: dict[str, Any]) -> None:
        match order["do"]:
            case "start":
                self.machine.start((order["role"], order["index"]), self.rows[order["role"]], order["life"])
            case "kill":
                self.machine.kill((order["role"], order["index"]))
            case "end":
                self.ended = True

    def _report(self) -> None:
        self._told_to_leave()  # said before its processes' ends, which follow from it
        for (role, index), code, text, why in self.machine.ends():
            self.line.send(ended=[role, index], code=code, text=text, why=why)
        if time.monotonic() >= self._beat_due:
            self._beat_due = time.monotonic() + BEAT_S
            held = {f"{role}.{index}": self._look((role, index)) for role, index in self.machine.popen}
            self.line.send(held=held)
        self.line.flush()

    def _look(self, key: Key) -> list[Any]:
        """Process id, and what stands frozen around it."""
        frozen = self.machine.frozen(key)
        return [self.machine.pid(key), list(frozen) if frozen else None]

    def _alone(self) -> bool:
        silent = time.monotonic() - self.line.heard
        if self.line.lost or silent > SILENT_S:
            print(f"acceerl: keeper step heard nothing of the supervisor for {silent:.0f} s; ending its processes",
                  file=sys.stderr, flush=True)  # fmt: skip
            return True
        return False

    def _told_to_leave(self) -> bool:
        """Slurm sends SIGTERM to the whole step: what holds a checkpoint gets the time to write it."""
        if self.stop.is_set() and self.leave_by == float("inf"):
            self.leave_by = time.monotonic() + LEAVE_S
            self.line.send(told=self.stop.reason)  # a preempted job's batch step may hear of it much later
        return self.stop.is_set() and (not self.machine.popen or time.monotonic() > self.leave_by)


def lent() -> tuple[list[int], list[str]]:
    """CPUs and GPUs that Slurm has bound this process to.

    No CPUs where that is the whole machine: two steps of a node would both begin at the first.
    """
    mine = sorted(os.sched_getaffinity(0))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return mine if len(mine) < (os.cpu_count() or 1) else [], visible.split(",") if visible else []


def belongings(share: Share, config: Config, of: tuple[Sequence[int], Sequence[str]]) -> Callable[[Key], Own]:
    """CPUs, GPUs and GL of each process of a share, `of` the CPUs and GPUs that are lent to it."""
    cpus = pins(share, rows(config), of[0])
    gpus = gpus_of(share, of[1] if share.gpus else [])
    egl = EGL_ENV if config.site.gl == "egl" and share.gpus else {}

    def own(key: Key) -> Own:
        return Own(cpus[key], {**egl, **({"CUDA_VISIBLE_DEVICES": ",".join(gpus[key])} if gpus[key] else {})})

    return own


def connect(name: str, life: int, seconds: float = 20.0) -> Line:
    """The line to the supervisor that the environment names."""
    where = json.loads(os.environ[SUPERVISOR])
    line = Line(socket.create_connection((where["host"], where["port"]), timeout=seconds))
    line.send(hello=name, life=life, token=where["token"])
    return line


def visible(path: str) -> Run | None:
    """The run; none, and a line that says so, where this node does not see its folder."""
    try:
        return Run.open(path)
    except FileNotFoundError:
        print(f"acceerl: {path} is not visible on {here()}: runs= must name a folder that all nodes share", flush=True)
        return None


def main(path: str, name: str, attempt: int, life: int) -> int:
    stop = StopFlag().install()
    if (run := visible(path)) is None:
        return NOT_HERE
    config = run.config()
    [share] = [share for share in shares(config) if share.name == name]
    machine = Machine(run, attempt, process_command(run, config.site.mpiexec), belongings(share, config, lent()))
    step = Step(machine, connect(name, life), config, stop)
    code = step.hold()
    if not (step.ended or stop.is_set()):
        mourn(stop)
    return code


def mourn(stop: StopFlag, seconds: float = VERDICT_S) -> None:
    """Requeues the job when its batch step was lost with its node.

    With --no-kill Slurm would let the job go on without its supervisor until that node comes back.
    """
    where = json.loads(os.environ[SUPERVISOR])
    until = time.monotonic() + seconds
    while not stop.wait(5.0) and time.monotonic() < until:
        if not node_is_up(where["node"]):
            refused = requeue(where["job"])
            what = f"cannot be requeued: {refused}" if refused else "is requeued"
            print(f"acceerl: the supervisor's node {where['node']} is down; job {where['job']} {what}",
                  file=sys.stderr, flush=True)  # fmt: skip
            return


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
