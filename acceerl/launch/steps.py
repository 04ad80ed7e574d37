"""The hands of a keeper on a cluster: one keeper step per role group and node, each with a line to the supervisor.

A step that ends is started again, and its processes count as crashed. One whose node is lost, or that Slurm told to
leave, is not, and the run goes on without what it held. Nothing here waits, except `close`.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from acceerl.config import Config
from acceerl.launch import sbatch, srun
from acceerl.launch.line import Line
from acceerl.launch.machine import End, Frozen, Key
from acceerl.launch.reception import Reception
from acceerl.launch.slurm_queue import Unanswered, job_has
from acceerl.launch.step import SILENT_S
from acceerl.runtime.layout import Share, shares
from acceerl.runtime.placement import Row
from acceerl.runtime.rundir import Run
from acceerl.runtime.stop import STOPPED
from acceerl.runtime.world import Allocation, for_srun

PING_S = 1.0
LOST_S = SILENT_S + 5.0  # a keeper that hears nothing of us either has ended its processes by then
TRIES = 3  # starts in a row that never report
AGAIN_S = 2.0  # before a step that ended is started again
EXPENDABLE = {"rollout", "evaluator"}


@dataclass
class Held:
    """A keeper step through all its lives."""

    share: Share
    node: str
    log: Path
    life: int = 0
    srun: subprocess.Popen[bytes] | None = None
    line: Line | None = None
    began: float = 0.0
    due: float = 0.0  # when to start it next
    end_by: float = 0.0  # when an srun that should end is killed
    failures: int = 0  # starts in a row that never reported
    away: str = ""  # why it will not come back
    came: bool = False  # it has reported at least once
    told: str = ""  # Slurm wants this step to leave; how it said so
    ended_by_us: bool = False  # this life's srun was signalled by the supervisor
    fallen: set[Key] = field(default_factory=set)  # were held by the life that has ended, until its srun has
    keys: set[Key] = field(default_factory=set)  # started, and not known to have ended
    looks: dict[str, list[Any]] = field(default_factory=dict)  # by ROLE.INDEX: process id, what is frozen around it

    @property
    def name(self) -> str:
        return f"{self.share.group} on {self.node}"

    def words(self) -> str:
        """What srun said last."""
        said = [line.strip() for line in self._said().split("\n") if line.strip()]
        return said[-1] if said else "it said nothing"

    def cancelled(self) -> bool:
        """Did somebody scancel this life? Slurm kills a step without a signal before, and tells srun alone."""
        said = re.search(r"\*\*\* STEP \S+ ON \S+ CANCELLED AT (.*)", self._said())
        return said is not None and "NODE FAIL" not in said.group(1) and not self.ended_by_us

    def _said(self) -> str:
        return self.log.read_text(errors="replace").split(f"--- life {self.life}\n")[-1]


class Steps:
    """Hands (see machine.py) over the steps of an allocation. `address`: how its nodes reach this one."""

    def __init__(
        self, run: Run, config: Config, attempt: int, allocation: Allocation, address: str,
        start: srun.Starter = srun.popen, job_has: Callable[[str, str], bool] = job_has,
    ) -> None:  # fmt: skip
        self.run, self.config, self.attempt = run, config, attempt
        self.het = len(allocation.components) > 1
        self.job, self.job_has, self._start_process = allocation.job, job_has, start
        self.steps = [self._held(share, allocation) for share in shares(config)]
        self.of = {key: step for step in self.steps for key in step.share.processes}
        self.interrupted = ""  # why the attempt could not go on, when that is the cluster's doing
        self._reception = Reception(address)
        self._where = {**self._reception.where, "job": allocation.job, "node": allocation.node}
        self._ping_due = 0.0
        self._closing = False
        self._cut_off = ""
        self.node = allocation.node

    def ready(self, key: Key) -> bool:
        step = self.of[key]
        return step.line is not None and key not in step.keys and not step.away

    def start(self, key: Key, row: Row, life: int) -> None:
        step = self.of[key]
        assert step.line is not None and row.role == key[0]
        step.keys.add(key)
        step.line.send(do="start", role=key[0], index=key[1], life=life)

    def kill(self, key: Key) -> None:
        line = self.of[key].line
        if line is not None:
            line.send(do="kill", role=key[0], index=key[1])

    def pid(self, key: Key) -> int:
        return int(self._look(key)[0])

    def where(self, key: Key) -> str:
        return self.of[key].node

    def frozen(self, key: Key) -> Frozen | None:
        frozen = self._look(key)[1]
        return Frozen(*frozen) if frozen else None

    def lost(self, key: Key) -> str:
        return self.of[key].away

    def cut_off(self) -> str:
        return self._cut_off

    def ends(self) -> list[End]:
        """Also: takes calls, starts steps that are due, and gives up those that do not come."""
        self._let_in()
        found = [end for step in self.steps for end in self._heard(step)]
        found += [end for step in self.steps for end in self._watched(step)]
        self._ping()
        return found

    def close(self, keys: Iterable[Key], deadline: float) -> None:
        del keys  # everything ends
        self._closing = True
        for step in self.steps:
            if step.line is not None:
                step.line.send(do="end")
        self._await(time.monotonic() + deadline)
        for number, seconds in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            for step in self._running():
                _say(f"supervisor waited in vain for the step {step.name} to end: {number.name} to its srun")
                _signal(step, number)
            self._await(time.monotonic() + seconds)
        self._reception.close()

    def _held(self, share: Share, allocation: Allocation) -> Held:
        log = self.run.logs(self.attempt) / f"keeper.{share.name}.log"
        return Held(share, allocation.components[share.component][share.node], log)

    def _look(self, key: Key) -> list[Any]:
        return self.of[key].looks.get(f"{key[0]}.{key[1]}", [0, None])

    def _running(self) -> list[Held]:
        return [step for step in self.steps if step.srun is not None and step.srun.poll() is None]

    def _await(self, until: float) -> None:
        while self._running() and time.monotonic() < until:
            time.sleep(0.05)

    def _ping(self) -> None:
        due = time.monotonic() >= self._ping_due
        self._ping_due = time.monotonic() + PING_S if due else self._ping_due
        for step in self.steps:
            if step.line is not None:
                step.line.send(do="ping") if due else step.line.flush()

    def _let_in(self) -> None:
        """A step of an earlier life is not let in any more."""
        for line, hello in self._reception.arrivals():
            step = next((s for s in self.steps if s.share.name == hello["hello"]), None)
            if step is None or step.life != hello["life"] or step.line is not None:
                line.close()
            else:
                step.line, step.failures, step.came = line, 0, True

    def _heard(self, step: Held) -> Iterator[End]:
        line = step.line
        if line is None:
            return
        for message in line.receive():
            if "ended" in message:
                role, index = message["ended"]
                step.keys.discard((role, index))
                yield End((role, index), STOPPED if step.told else message["code"], message["text"], message["why"])
            elif "held" in message:
                step.looks = message["held"]
            elif "told" in message:
                self._told(step, f"Slurm sent {message['told']} to the step {step.name}")
        silent = time.monotonic() - line.heard
        if line.lost or silent > LOST_S:
            self._fallen(step, "its line broke" if line.lost else f"it was silent for {silent:.0f} s")

    def _told(self, step: Held, why: str) -> None:
        """scancel of one step, or the preemption of all: then a step that cannot be spared hears of it as well."""
        step.told = step.away = why
        if not self._can_spare(step):
            self.interrupted = self.interrupted or why

    def _can_spare(self, step: Held) -> bool:
        """Do others of its kind go on when this one is away?"""
        others = [s for s in self.steps if s.share.group == step.share.group and not s.away]
        return {role for role, _ in step.share.processes} <= EXPENDABLE and bool(others)

    def _fallen(self, step: Held, how: str) -> None:
        """A step that was up has ended. What follows for what it held is decided when its srun has ended as well."""
        assert step.line is not None
        step.line.close()
        step.line, step.fallen, step.keys, step.looks = None, step.keys, set(), {}
        step.end_by = time.monotonic() + 5.0  # it may end by itself
        step.due = time.monotonic() + AGAIN_S
        if step.fallen and not self._closing:
            _say(f"the keeper step of {step.name} ended: {step.told or how} (log {step.log})")

    def _buried(self, step: Held) -> Iterator[End]:
        """What a step held has crashed, or left with it; in the first case it is started again."""
        if not step.told and step.cancelled() and self._can_spare(step):
            self._told(step, f"the step {step.name} was cancelled")
        fallen, step.fallen = step.fallen, set()
        for key in sorted(fallen):
            yield End(key, STOPPED if step.told else 1, f"its keeper step on {step.node} ended")

    def _watched(self, step: Held) -> Iterator[End]:
        """Starts a step that is due, notices one that does not come up, and reaps its srun."""
        now = time.monotonic()
        code = step.srun.poll() if step.srun is not None else None
        if step.srun is None:
            if step.line is None and not (step.away or self._closing) and now >= step.due:
                yield from self._begin(step)
        elif code is not None:
            step.srun = None
            if step.line is not None:
                self._fallen(step, f"srun left with {code}")
            elif not step.end_by:
                yield from self._did_not_come(step, f"srun left with {code}")
            step.end_by = 0.0
            yield from self._buried(step)
        elif step.end_by and now > step.end_by:
            step.ended_by_us = True
            _signal(step, signal.SIGTERM if now < step.end_by + 5.0 else signal.SIGKILL)
        elif step.line is None and not step.end_by and now - step.began > self.config.slurm.start:
            step.end_by = now
            yield from self._did_not_come(step, f"not within {self.config.slurm.start:g} s")

    def _begin(self, step: Held) -> Iterator[End]:
        if step.life and not self._node_is_there(step):
            yield from self._give_up(step, f"node {step.node} is lost")
            return
        step.life, step.began, step.ended_by_us = step.life + 1, time.monotonic(), False
        with step.log.open("a") as log:
            log.write(f"--- life {step.life}\n")
        command = sbatch.keeper(self.run.path, step.share, sys.executable, self.attempt, step.life)
        words = sbatch.step(self.config, step.share, step.node, self.het, command)
        environment = for_srun(os.environ) | srun.addresses(self.run, self._where)
        step.srun = self._start_process(words, step.log, environment)

    def _node_is_there(self, step: Held) -> bool:
        """Also notices that it is this node which the others have lost. Without an answer the step is tried anyway."""
        try:
            return self.job_has(self.job, step.node)
        except Unanswered as error:
            away = [other for other in self.steps if other.node != self.node]
            if away and not any(other.line for other in away):
                self._cut_off = f"neither Slurm nor a step on another node answers {self.node} ({error})"
            return True

    def _did_not_come(self, step: Held, how: str) -> Iterator[End]:
        step.failures += 1
        text = f"{step.name} did not start ({how}): {step.words()} (log {step.log})"
        if step.failures >= TRIES:
            yield from self._give_up(step, text)
        else:
            _say(f"{text}; trying again")
            step.due = time.monotonic() + AGAIN_S * 2**step.failures

    def _give_up(self, step: Held, why: str) -> Iterator[End]:
        """Others of its kind go on; without any, the attempt is over.

        Another attempt may fare better where a step has worked, not where none ever came up.
        """
        step.away = why
        if self._can_spare(step):
            _say(f"{why}: going on without {step.share.inside}")
            return
        expendable = {role for role, _ in step.share.processes} <= EXPENDABLE
        whole = f"no {step.share.group} is left: {why}" if expendable else why
        self.interrupted = whole if step.came else ""
        yield End(step.share.processes[0], 1, why, why=whole)


def _signal(step: Held, number: signal.Signals) -> None:
    if step.srun is not None and step.srun.poll() is None:
        step.srun.send_signal(number)


def _say(text: str) -> None:
    print(f"acceerl: {text}", file=sys.stderr, flush=True)
