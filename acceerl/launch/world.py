"""The hands of a keeper with channels=world: all processes of a training as the ranks of one srun, or one mpiexec.

Each rank is a keeper step for one process (rank.py), with a line to the supervisor; so it knows who died, and how,
where the launcher only tells that something did. The unit of failure is the world: when its processes have ended, so
has its life, and the next one begins from the checkpoint. Nothing here waits, except `close`.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from acceerl.config import Config
from acceerl.launch import sbatch, srun
from acceerl.launch.line import Line
from acceerl.launch.machine import Command, End, Frozen, Key
from acceerl.launch.reception import Reception
from acceerl.launch.slurm_queue import Unanswered, job_has
from acceerl.launch.step import SILENT_S
from acceerl.runtime.layout import Share, ranks, shares
from acceerl.runtime.mpiexec import find_mpiexec
from acceerl.runtime.placement import Row
from acceerl.runtime.rundir import Run
from acceerl.runtime.stop import STOPPED
from acceerl.runtime.world import Allocation, for_srun, without_slurm

PING_S = 1.0
LOST_S = SILENT_S + 5.0  # a rank that hears nothing of us either has ended its process by then
TRIES = 3  # starts in a row that do not come up
AGAIN_S = 2.0  # between the end of a world and the next one
ENDING_S = 5.0  # that a launcher may take to end when its ranks have
Words = Callable[[int], list[str]]  # which life -> the launcher's command


class World:
    """Hands (see machine.py) over one launcher. `nodes` names the node of each rank, in order."""

    def __init__(
        self, run: Run, config: Config, attempt: int, words: Words, nodes: Sequence[str], address: str,
        inherited: Callable[[Mapping[str, str]], dict[str, str]] = without_slurm,
        lost_node: Callable[[], str] = lambda: "", facts: dict[str, Any] | None = None,
        start: srun.Starter = srun.popen,
    ) -> None:  # fmt: skip
        self.run, self.config, self.words, self.lost_node = run, config, words, lost_node
        self._start_process, self._inherited = start, inherited
        self.log = run.logs(attempt) / "world.log"
        self.nodes = dict(zip(ranks(config), nodes, strict=True))
        self.interrupted = ""  # why the attempt could not go on, when that is the cluster's doing
        self.life, self.began, self.due, self.failures = 0, 0.0, 0.0, 0
        self.launcher: subprocess.Popen[bytes] | None = None
        self.lines: dict[Key, Line] = {}
        self.keys: set[Key] = set()  # started, and not known to have ended
        self.looks: dict[Key, list[Any]] = {}  # process id, what is frozen around it
        self.told: set[Key] = set()  # ranks that Slurm wants to leave
        self.end_by = 0.0  # when a launcher that should end is signalled; 0: it may run
        self.hopeless = self._cut_off = ""
        self._used = self._closing = False
        self._ping_due = 0.0
        self._reception = Reception(address)
        self._where = {**self._reception.where, **(facts or {})}

    def ready(self, key: Key) -> bool:
        """All ranks are there: MPI begins when the last of their processes has."""
        return not self.end_by and len(self.lines) == len(self.nodes) and key not in self.keys

    def start(self, key: Key, row: Row, life: int) -> None:
        del row  # its rank knows
        self.keys.add(key)
        self._used = True
        self.lines[key].send(do="start", role=key[0], index=key[1], life=life)

    def kill(self, key: Key) -> None:
        if key in self.lines:
            self.lines[key].send(do="kill", role=key[0], index=key[1])

    def pid(self, key: Key) -> int:
        return int(self.looks.get(key, [0])[0])

    def where(self, key: Key) -> str:
        return self.nodes[key]

    def frozen(self, key: Key) -> Frozen | None:
        frozen = self.looks.get(key, [0, None])[1]
        return Frozen(*frozen) if frozen else None

    def lost(self, key: Key) -> str:
        del key  # all or nobody
        return self.hopeless

    def cut_off(self) -> str:
        return self._cut_off

    def ends(self) -> list[End]:
        """Also: begins a world that is due, takes the calls of its ranks, and buries it when its processes are down."""
        self._let_in()
        found = [end for key in list(self.lines) for end in self._heard(key)]
        found += self._watched()
        self._ping()
        return found

    def close(self, keys: Iterable[Key], deadline: float) -> None:
        del keys  # everything ends
        self._closing = True
        self._end_ranks()
        self._await(time.monotonic() + deadline)
        for number in (signal.SIGTERM, signal.SIGKILL):
            self._signal(number)
            self._await(time.monotonic() + ENDING_S)
        self._reception.close()

    def _await(self, until: float) -> None:
        while self.launcher is not None and self.launcher.poll() is None and time.monotonic() < until:
            for line in self.lines.values():
                line.flush()
            time.sleep(0.05)

    def _ping(self) -> None:
        due = time.monotonic() >= self._ping_due
        self._ping_due = time.monotonic() + PING_S if due else self._ping_due
        for line in self.lines.values():
            line.send(do="ping") if due else line.flush()

    def _let_in(self) -> None:
        for line, hello in self._reception.arrivals():
            role, _, index = str(hello["hello"]).rpartition(".")
            key = (role, int(index))
            if key not in self.nodes or key in self.lines or hello["life"] != self.life:
                line.close()
            else:
                self.lines[key] = line

    def _heard(self, key: Key) -> Iterator[End]:
        line = self.lines[key]
        for message in line.receive():
            if "ended" in message and key in self.keys:
                self.keys.discard(key)
                code = STOPPED if key in self.told else message["code"]
                yield End(key, code, message["text"], message["why"])
            elif "held" in message:
                self.looks = {**self.looks, key: next(iter(message["held"].values()), [0, None])}
            elif "told" in message:
                self.told.add(key)
                self.interrupted = self.interrupted or f"Slurm sent {message['told']} to the step of the world"
        if (line.lost or time.monotonic() - line.heard > LOST_S) and not self.end_by:
            yield from self._broken(f"the rank of {key[0]}[{key[1]}] on {self.nodes[key]} ended")

    def _watched(self) -> Iterator[End]:
        now = time.monotonic()
        code = self.launcher.poll() if self.launcher is not None else None
        if self.launcher is None:
            if not (self.hopeless or self._closing) and now >= self.due:
                yield from self._begin()
        elif code is not None:
            yield from self._broken(f"its launcher left with {code}")
            self._bury()
            if not self._used:
                yield from self._did_not_come(f"its launcher left with {code}")
        elif self.end_by and now > self.end_by:
            self._signal(signal.SIGTERM if now < self.end_by + ENDING_S else signal.SIGKILL)
        elif self._used and not self.keys and not self.end_by:
            self._end_ranks()
        elif not self._used and not self.end_by and now - self.began > self.config.slurm.start:
            self._end_ranks()
            self.end_by = now

    def _begin(self) -> Iterator[End]:
        """A world needs every node: one that is lost ends the attempt."""
        try:
            why = self.lost_node() if self.life else ""
        except Unanswered as error:
            self._ask_later(error)
            return
        if why:
            self.interrupted = why
            yield from self._give_up(why)
            return
        self.life, self.began, self._used, self.end_by = self.life + 1, time.monotonic(), False, 0.0
        with self.log.open("a") as log:
            log.write(f"--- life {self.life}\n")
        environment = self._inherited(os.environ) | srun.addresses(self.run, self._where)
        self.launcher = self._start_process(self.words(self.life), self.log, environment)

    def _ask_later(self, error: Unanswered) -> None:
        """All ranks are gone and Slurm does not answer: if that lasts, it is this node that is cut off."""
        self.failures += 1
        self.due = time.monotonic() + AGAIN_S * 2 ** min(self.failures, 5)
        if self.failures >= TRIES:
            self._cut_off = f"neither Slurm nor any rank answers ({error})"

    def _broken(self, how: str) -> Iterator[End]:
        """What ran in this world has crashed with it. Whoever stays behind is ended by `_end_ranks`."""
        keys, self.keys = self.keys, set()
        if keys and not self._closing:
            _say(f"the world ended: {how} (log {self.log})")
        self._end_ranks()
        for key in sorted(keys):
            yield End(key, STOPPED if self.told else 1, f"its world ended: {how}")

    def _end_ranks(self) -> None:
        """Each leaves by itself, with its process; a launcher that stays is signalled."""
        for line in self.lines.values():
            line.send(do="end")
        self.end_by = self.end_by or time.monotonic() + ENDING_S

    def _bury(self) -> None:
        for line in self.lines.values():
            line.close()
        self.launcher, self.lines, self.looks = None, {}, {}
        self.failures = 0 if self._used else self.failures + 1
        self.due = time.monotonic() + AGAIN_S * 2 ** min(self.failures, 5)

    def _did_not_come(self, how: str) -> Iterator[End]:
        text = f"the world did not start ({how}): {self._words()} (log {self.log})"
        if self.failures >= TRIES:
            yield from self._give_up(text)
        elif not self._closing:
            _say(f"{text}; trying again")

    def _give_up(self, why: str) -> Iterator[End]:
        self.hopeless = why
        yield End(next(iter(self.nodes)), 1, why, why=why)

    def _words(self) -> str:
        said = self.log.read_text(errors="replace").split(f"--- life {self.life}\n")[-1].split("\n")
        return next((line.strip() for line in reversed(said) if line.strip()), "it said nothing")

    def _signal(self, number: signal.Signals) -> None:
        if self.launcher is not None and self.launcher.poll() is None:
            self.launcher.send_signal(number)


def of_this_machine(run: Run, config: Config, attempt: int, command: Command | None) -> World:
    """All ranks under one mpiexec."""
    assert command is None, "ranks start the real processes"
    size = len(ranks(config))

    def words(life: int) -> list[str]:
        launcher = [find_mpiexec(config.site.mpiexec), "-bootstrap", "fork", "-n", str(size)]
        return [*launcher, *sbatch.rank(run.path, sys.executable, attempt, life)]

    return World(run, config, attempt, words, [socket.gethostname()] * size, "127.0.0.1")


def of_allocation(run: Run, config: Config, attempt: int, here: Allocation, address: str) -> World:
    """All ranks under one srun over all components of this job."""
    placed = shares(config)

    def words(life: int) -> list[str]:
        return sbatch.world(config, here.components, sbatch.rank(run.path, sys.executable, attempt, life))

    nodes = [_node(share, here) for share in placed for _ in share.processes]
    facts = {"job": here.job, "node": here.node}
    lost_node = partial(_lost_node, here.job, nodes)
    return World(run, config, attempt, words, nodes, address, for_srun, lost_node, facts)


def _node(share: Share, here: Allocation) -> str:
    return here.components[share.component][share.node]


def _lost_node(job: str, nodes: Sequence[str]) -> str:
    """Why the world cannot begin again. Raises Unanswered."""
    return next((f"node {node} is lost" for node in dict.fromkeys(nodes) if not job_has(job, node)), "")


def _say(text: str) -> None:
    print(f"acceerl: {text}", file=sys.stderr, flush=True)
