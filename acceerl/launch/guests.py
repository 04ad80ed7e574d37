"""Guests: rollouts that joined a training from outside, by a keeper of their own, and may vanish at any time.

`Guests` is that keeper: `acceerl join` runs it here or as the batch step of a job. It asks the run's registry for
places behind the training's own rollouts, starts the processes, and leaves with the run. The training's supervisor
holds nothing of them but what they say of themselves: `present` and `rows` are its view.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from acceerl.config import Config
from acceerl.launch.keeper import Keeper
from acceerl.launch.leader import ENDED, FAILED, state_of
from acceerl.launch.lives import Child, Exit
from acceerl.launch.machine import Command, Machine, last_lines, process_command
from acceerl.launch.step import belongings, lent
from acceerl.launch.vitals import Vitals
from acceerl.runtime.layout import Share
from acceerl.runtime.placement import rows as placed
from acceerl.runtime.registry import Key, Record
from acceerl.runtime.registry_client import REGISTRY, RegistryClient, RegistryTimeout
from acceerl.runtime.rundir import Run
from acceerl.runtime.stop import DONE, STOPPED, StopFlag

ROLE = "rollout"
TICK = 0.1
ANSWER_S = 10.0  # a living registry answers within milliseconds
LEAVE_S = 20.0  # processes that are asked to leave do so within 15 s (jobs/process.py)
LOST_S = 20.0  # without the registry; its processes leave by themselves then
SETTLED_S = 15.0  # a training that was interrupted is `stopped` for a moment before it is queued again


class Guests:
    """`count` rollouts for one run. `patience`: seconds to wait for a run that is queued or whose leader is away."""

    def __init__(
        self, run: Run, count: int, stop: StopFlag, patience: float = 0.0, command: Command | None = None
    ) -> None:
        self.run, self.count, self.stop, self.patience, self.command = run, count, stop, patience, command
        self.over = ""  # token of a registry that asked to leave: what follows has another

    def stay(self) -> int:
        """Until the run ends (0), this keeper is told to leave (75), or its processes crash again and again (1).

        Raises ValueError when the run cannot be reached within `patience`. No process outlives this call.
        """
        while not self.stop.is_set():
            client = self._reach()
            if client is None:
                return STOPPED if self.stop.is_set() else DONE
            try:
                code = self._visit(client)
            except RegistryTimeout as error:  # it went just after it had answered
                _say(f"{error}; looking for {self.run.path} again")
                code = None
            finally:
                client.close()
            if code is not None:
                return code
        return STOPPED

    def _reach(self) -> RegistryClient | None:
        """A line to the run's registry; None when the run has ended, or this keeper is told to leave."""
        began, ended_since, why = time.monotonic(), 0.0, "no word of it"
        while not self.stop.is_set():
            state = state_of(self.run.status())
            ended_since = (ended_since or time.monotonic()) if state in ENDED else 0.0
            if ended_since and (state == "done" or time.monotonic() - ended_since >= min(SETTLED_S, self.patience)):
                _say(f"{self.run.path} has ended ({state})")
                return None
            client, why = self._call() if state == "running" else (None, f"it is {state}")
            if client is not None:
                return client
            if time.monotonic() - began >= self.patience and not ended_since:
                raise ValueError(f"{self.run.path} cannot be joined: {why}")
            self.stop.wait(1.0)
        return None

    def _call(self) -> tuple[RegistryClient | None, str]:
        """The address is read from the file at each try: it may be that of an earlier attempt for a minute (NFS).

        It stays in the environment for the processes, so that none of them finds a later attempt by itself.
        """
        path = self.run.path / "registry.json"
        try:
            where = json.loads(path.read_text())
            if where["token"] == self.over:
                return None, "it is ending"
            os.environ[REGISTRY] = json.dumps({**where, "run": str(self.run.path)})
            return RegistryClient(self.run.path, "host", secrets.randbelow(1 << 31), timeout_s=ANSWER_S), ""
        except (OSError, ValueError) as error:  # RegistryTimeout and RegistryRefused among them
            where = f" at {where['host']}:{where['port']}" if isinstance(error, RegistryTimeout) else ""
            return None, f"its registry{where} is not reachable ({error})"

    def _visit(self, client: RegistryClient) -> int | None:
        """One attempt of the run, from start to end; None when it was lost and another may follow."""
        config, attempt = self.run.config(), self.run.attempt
        first = client.places(ROLE, self.count, least=config.rollout.processes, timeout_s=ANSWER_S)
        keeper = self._keeper(config, attempt, first)
        _say(f"rollout[{first}-{first + self.count - 1}] join attempt {attempt} of {self.run.path}")
        try:
            return self._attend(keeper, client)
        finally:
            keeper.kill_all()
            for role, index in keeper.children:
                client.report_gone(role, index)

    def _keeper(self, config: Config, attempt: int, first: int) -> Keeper:
        """As if the training had that many rollouts, of which these are the last."""
        whole = replace(config, rollout=replace(config.rollout, processes=first + self.count))
        row = next(replace(row, count=self.count) for row in placed(whole) if row.role == ROLE)
        processes = tuple((ROLE, first + i) for i in range(self.count))
        share = Share(ROLE, 0, 0, processes, self.count, self.count * config.placement.rollout_memory, 0)
        command = self.command or process_command(self.run, config.site.mpiexec)
        hands = Machine(self.run, attempt, command, belongings(share, whole, lent()))
        return Keeper(self.run, attempt, [row], config.supervisor, hands, first)

    def _attend(self, keeper: Keeper, client: RegistryClient) -> int | None:
        """Starts and restarts, until there is a reason to leave. A process that was asked to stop is not replaced."""
        leave_by = float("inf")
        while not self.stop.is_set():
            for exit in keeper.poll():
                client.report_gone(exit.role, exit.index)
                if exit.hopeless and not keeper.closing:
                    return _gave_up(exit, keeper)
            away = bool(client.refused) or client.disconnected_s > LOST_S
            if client.requested:
                self.over = json.loads(os.environ[REGISTRY])["token"]
            if (client.requested or away) and not keeper.closing:
                keeper.no_more_starts()
                leave_by = time.monotonic() + LEAVE_S
            if keeper.closing and (not keeper.running or time.monotonic() > leave_by):
                return None
            if not (away or client.disconnected_s or any(_lives(child) for child in keeper.children.values())):
                return STOPPED
            self.stop.wait(TICK)
        _say(f"{self.stop.reason}: leaving {self.run.path}")
        return STOPPED


def _lives(child: Child) -> bool:
    return child.running or child.due < float("inf")


def _gave_up(exit: Exit, keeper: Keeper) -> int:
    log = keeper.log(keeper.children[exit.role, exit.index])
    words = last_lines(log)
    _say("\n  ".join([f"error: {exit.name} crashed again and again, last with {exit.text} ({log}):", *words]))
    return FAILED


def present(records: Mapping[Key, Record], own: Mapping[Key, object]) -> dict[Key, Record]:
    """The records of a training's own processes, and of guests that are here."""
    return {key: record for key, record in records.items() if key in own or record.alive}


def rows(records: Mapping[Key, Record], own: Mapping[Key, object], vitals: Vitals) -> list[dict[str, Any]]:
    """The guests in status.json. Those that have left have no row."""
    guests = [record for key, record in sorted(present(records, own).items()) if key not in own]
    return [_row(record, vitals) for record in guests]


def _row(record: Record, vitals: Vitals) -> dict[str, Any]:
    return {
        "role": record.role, "index": record.index, "pid": record.pid, "host": record.host, "running": True,
        "state": "running", "joined": True, "restarts": record.incarnation - 1,
        "age": round(max(0.0, time.monotonic() - record.last_heard), 1),
        **vitals.row((record.role, record.index), record),
    }  # fmt: skip


def _say(text: str) -> None:
    print(f"acceerl: {text}", file=sys.stderr, flush=True)
