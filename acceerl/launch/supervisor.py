"""Leads one training from the first process to the last: `supervise`. Read it to know what ends a run, and how.

The supervisor holds the registry, tells its keeper what to do about every death, silence and signal, and writes
`status.json`. It computes nothing and waits for nothing without a deadline.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from acceerl.config import Config
from acceerl.launch import guests
from acceerl.launch.keeper import Keeper
from acceerl.launch.leader import FAILED, whoami
from acceerl.launch.lives import Child, Exit
from acceerl.launch.machine import Command, Hands, Machine, last_lines, process_command
from acceerl.launch.progress import Key, Progress, Totals, scalars
from acceerl.launch.vitals import Vitals
from acceerl.launch.world import of_this_machine
from acceerl.runtime.metrics import TensorBoard
from acceerl.runtime.placement import rows
from acceerl.runtime.registry import Record, Registry
from acceerl.runtime.rundir import Run
from acceerl.runtime.stop import DONE, STOPPED, StopFlag
from acceerl.runtime.trackers import Tracking

TICK = 0.1  # seconds between two looks at the processes
DYING_S = 10.0  # that a killed process of another node may take to be reported, before it is killed again
STATUS_EVERY = 2.0
STOPPED_EVERY = 1.0  # seconds between two looks for processes that SIGSTOP has stopped
SCALARS_EVERY = 10.0


def _here(run: Run, config: Config, attempt: int, command: Command | None) -> Hands:
    if config.channels == "world":
        return of_this_machine(run, config, attempt, command)
    return Machine(run, attempt, command or process_command(run, config.site.mpiexec))


@dataclass(frozen=True)
class Place:
    """Where a supervisor's processes run: the address at which they reach it, and the hands that hold them."""

    address: str
    hands: Callable[[Run, Config, int, Command | None], Hands]


HERE = Place("127.0.0.1", _here)


def supervise(
    run: Run, config: Config, on_progress: Callable[[Progress], None],
    *, command: Command | None = None, stop: StopFlag | None = None, place: Place = HERE,
) -> int:  # fmt: skip
    """Runs one attempt of a training with all its processes, on this machine or wherever `place` starts them.

    Returns 0 when the learner is done, 75 when a signal (TERM, USR2, INT) asked to stop, 1 after a crash loop.
    No process outlives this call. `command` replaces the real processes in tests. Main thread only.
    """
    supervisor = Supervisor(run, config, on_progress, command, stop or StopFlag().install(), place)
    try:
        return supervisor.lead()
    finally:
        supervisor.close()


class Supervisor:
    """One attempt. States: starting -> running -> draining -> done, stopped or failed."""

    def __init__(
        self, run: Run, config: Config, on_progress: Callable[[Progress], None], command: Command | None,
        stop: StopFlag, place: Place = HERE,
    ) -> None:  # fmt: skip
        self.run, self.config, self.stop = run, config, stop
        self.on_progress = on_progress
        placement = rows(config)
        self.totals = Totals(run.status().get("counters", {}))
        self.attempt = run.begin_attempt()
        self.registry = Registry(run.path, host=place.address)
        hands = place.hands(run, config, self.attempt, command)
        self.keeper = Keeper(run, self.attempt, placement, config.supervisor, hands)
        self.vitals = Vitals()
        self.tensorboard = TensorBoard(run.tensorboard)
        self.tracking = Tracking(run, config)
        self.began = time.time()
        self.state, self.reason, self.error = "starting", "", ""
        self.code: int | None = None  # what the attempt will return, once that is known
        self.drain_until = float("inf")
        self._stopped: dict[int, float] = {}  # process ids around roles, since when they are seen stopped
        self._looked = self._awake = time.monotonic()  # when this loop last looked, and since when without a pause
        self._due = {self._report: 0.0, self._replace_stopped: 0.0}
        self._due[self._write_scalars] = time.monotonic() + SCALARS_EVERY

    def lead(self) -> int:
        self.state = "running"
        while self.code is None or self.keeper.running:
            for exit in self.keeper.poll():
                self._judge(exit)
            if self.code is None:
                self._heed_signals()
                self._replace_silent()
            elif time.monotonic() > self.drain_until:
                self._end_stragglers()
            self._now_and_then()
            if cut_off := self._cut_off():
                _say(f"{cut_off}: ending this attempt without a word in status.json")
                return FAILED
            time.sleep(TICK)
        self.state = {DONE: "done", STOPPED: "stopped"}.get(self.code, "failed")
        return self.code

    def close(self) -> None:
        """Whatever happened, also in here: no process, no socket and no half-told status stays behind."""
        if self.code is None:
            self.state = "failed"
        with ExitStack() as parts:  # called from the last to the first, each even when others raise
            parts.callback(self.registry.wait_closed)
            parts.callback(self.tracking.close, self.state)
            parts.callback(self.tensorboard.close)
            parts.callback(self._write_scalars)
            parts.callback(self._report)
            parts.callback(self.keeper.kill_all)

    def _cut_off(self) -> str:
        """Why another attempt may lead the run, now or soon: then status.json is not this one's any more."""
        return self.keeper.hands.cut_off()

    def _judge(self, exit: Exit) -> None:
        self.registry.gone(exit.role, exit.index)
        if exit.role == "learner" and exit.code == DONE:
            if exit.index == 0:  # the other ranks leave beside it
                self._drain(DONE, "the learner is done")
        elif exit.code == STOPPED:
            self._left(exit)
        elif exit.hopeless and self.code is None:
            self._give_up(exit)
        elif exit.again and self.code is None:
            child = self.keeper.children[exit.role, exit.index]
            _say(f"{exit.name} ended: {exit.text}; restart {child.restarts} follows (log {self.keeper.log(child)})")

    def _left(self, exit: Exit) -> None:
        """A process was asked to leave by somebody else. One of several rollouts may; others hold the training."""
        if not self.keeper.can_spare(exit.role):
            self._drain(STOPPED, f"{exit.name} was asked to stop")
        elif self.code is None:
            _say(f"{exit.name} was asked to leave ({exit.text}): going on without it")

    def _heed_signals(self) -> None:
        reason = self.stop.reason if self.stop.is_set() else self.registry.asked("stop")
        if reason:
            _say(f"{reason}: asking the learner for a checkpoint and everyone to leave")
            self._drain(STOPPED, reason)

    def _drain(self, code: int, why: str) -> None:
        """Asks everyone to leave, once; a learner that finishes meanwhile turns `stopped` into `done`."""
        if self.code is not None:
            self.code = DONE if code == DONE and self.code == STOPPED else self.code
            return
        self.code, self.reason, self.state = code, why, "draining"
        self.drain_until = time.monotonic() + self.config.deadlines.drain
        self.keeper.no_more_starts()
        self.registry.request(None, "stop")

    def _give_up(self, exit: Exit) -> None:
        """Ends the run after a crash loop and says why with the process' own last words."""
        child = self.keeper.children[exit.role, exit.index]
        rules, log = self.config.supervisor, self.keeper.log(child)
        what = f"{exit.name} crashed {len(child.crashes)} times within {rules.crash_window:g} s, last with {exit.text}"
        what, words = (exit.why, []) if exit.why else (what, last_lines(log))
        self.error = ": ".join([what, *words[-1:]])
        _say("\n  ".join([f"error: {what}" + (f"; its last lines ({log}):" if words else ""), *words]))
        self._drain(FAILED, exit.why or f"{exit.name} crashed again and again")

    def _replace_silent(self) -> None:
        """Kills processes that the registry has not heard of for too long; their keeper starts them again.

        After a pause of the supervisor itself (SIGSTOP, a suspended machine) the life signs wait unread: all clocks
        begin again.
        """
        now = time.monotonic()
        if now - self._looked > self.config.deadlines.heartbeat / 2:
            self._awake = now
        self._looked = now
        records = self.registry.processes()
        for child in self.keeper.running:
            silent, limit = self._silence(child, records.get(child.key))
            if silent > limit and now - child.killed > DYING_S:
                name = f"{child.name} (process {self.keeper.pid(child)})"
                _say(f"supervisor waited {silent:.0f} s for a life sign of {name}: killing it (deadlines.heartbeat)")
                self.keeper.kill(child)

    def _silence(self, child: Child, record: Record | None) -> tuple[float, float]:
        """Seconds since a life sign, and how many are allowed: loading libraries comes before the first one."""
        deadlines, now = self.config.deadlines, time.monotonic()
        if record is None or record.last_heard < child.started:
            return now - max(child.started, self._awake), deadlines.connect + deadlines.heartbeat
        return now - max(record.last_heard, self._awake), deadlines.heartbeat

    def _replace_stopped(self) -> None:
        """Kills processes whose mpiexec or proxy has been stopped for longer than deadlines.heartbeat."""
        limit, now, before, self._stopped = self.config.deadlines.heartbeat, time.monotonic(), self._stopped, {}
        records = self.registry.processes()
        for child in self.keeper.running:
            frozen = self.keeper.frozen(child) if child.key in records else None
            if frozen is None:
                continue
            since = self._stopped[frozen.pid] = before.get(frozen.pid, now)
            if now - since > limit and now - child.killed > DYING_S:
                _say(f"{frozen.name} (process {frozen.pid}) around {child.name} has been stopped for "
                     f"{now - since:.0f} s: killing both (deadlines.heartbeat)")  # fmt: skip
                self.keeper.kill(child)

    def _end_stragglers(self) -> None:
        names = ", ".join(c.name for c in self.keeper.running)
        _say(f"supervisor waited {self.config.deadlines.drain:g} s (deadlines.drain) for {names} to leave: killing")
        self.keeper.kill_all()

    def _now_and_then(self) -> None:
        every = {self._report: STATUS_EVERY, self._replace_stopped: STOPPED_EVERY, self._write_scalars: SCALARS_EVERY}
        for task, seconds in every.items():
            if time.monotonic() >= self._due[task]:
                self._due[task] = time.monotonic() + seconds
                task()

    def _report(self) -> None:
        records = self.registry.processes()
        self.totals.take(records)
        self.vitals.take(records)
        restarts = sum(child.restarts for child in self.keeper.children.values())
        totals = self.totals
        progress = Progress(
            self.state, self.attempt, totals.counters(), totals.rates(), totals.success, totals.lag, restarts
        )
        self.on_progress(progress)
        if not self._cut_off():
            self.run.write_status(self._status(progress, records))

    def _status(self, progress: Progress, records: dict[Key, Record]) -> dict[str, Any]:
        return {
            "state": self.state,
            "reason": self.reason,
            "error": self.error,
            "attempt": self.attempt,
            "began": self.began,
            "supervisor": whoami(),
            "counters": progress.counters,
            "rates": {k: round(v, 2) for k, v in progress.rates.items()},
            "success": progress.success,
            "lag": progress.lag,
            "last_checkpoint": self._last_checkpoint(),
            "processes": [self._row(child, records.get(child.key)) for child in self.keeper.children.values()]
            + guests.rows(records, self.keeper.children, self.vitals),
        }

    def _row(self, child: Child, record: Record | None) -> dict[str, Any]:
        """One process. `pid` is the role's own one (mpiexec and its proxy stand around it), 0 until it announces it."""
        announced = child.running and record is not None and record.last_heard >= child.started
        return {
            "role": child.row.role,
            "index": child.index,
            "pid": record.pid if announced and record else 0,
            "host": self.keeper.hands.where(child.key),
            "running": child.running,
            "state": self._state_of(child, bool(announced)),
            "restarts": child.restarts,
            "age": round(self._silence(child, record)[0], 1) if child.running else None,
            **self.vitals.row(child.key, record if announced else None),
        }

    def _state_of(self, child: Child, announced: bool) -> str:
        if child.running:
            return "running" if announced else "starting"
        if self.keeper.hands.lost(child.key) and child.due < float("inf"):
            return "lost"
        if self.keeper.closing or child.due == float("inf"):
            return "ended"
        return "restarting" if child.due else "starting"  # for the first time, as soon as there are hands for it

    def _last_checkpoint(self) -> str:
        """The newest whole checkpoint's name; half-written ones carry a dot or `.partial` in theirs."""
        names = [p.name for p in self.run.checkpoints.glob("*") if "." not in p.name]
        return max(names, key=lambda n: (self.run.checkpoints / n).stat().st_mtime, default="")

    def _write_scalars(self) -> None:
        counters, rates = self.totals.counters(), self.totals.rates()
        totals = {f"run/{k}": float(v) for k, v in counters.items()} | {f"run/{k}_per_s": v for k, v in rates.items()}
        values = totals | scalars(guests.present(self.registry.processes(), self.keeper.children))
        self.tensorboard.scalars(values, counters["updates"])
        self.tracking.scalars(values, counters["updates"])


def _say(text: str) -> None:
    print(f"acceerl: {text}", file=sys.stderr, flush=True)
