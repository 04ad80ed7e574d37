"""The entry of every process of a training: `python -m acceerl.jobs.process RUN ROLE INDEX`, started by a keeper.

Each role's module has `serve(process) -> bool` (True: the loop ended by itself); only that module is imported, so
that a rollout loads neither torch nor hydra.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from acceerl.channels.links import LINKS
from acceerl.channels.mpi import Endpoint
from acceerl.channels.mpi_library import Misfit
from acceerl.config import Config
from acceerl.jobs.build import read_spec
from acceerl.roles.drive import drive
from acceerl.runtime.metrics import RunMeter
from acceerl.runtime.placement import limits, rows
from acceerl.runtime.registry_client import RegistryClient
from acceerl.runtime.rundir import Run
from acceerl.runtime.stop import DONE, HOPELESS, LOST, STOPPED, StopFlag, Watchdog, die_with_keeper
from acceerl.types import EnvSpec

log = logging.getLogger(__name__)
ROLES = ("rollout", "inference", "learner", "world_model", "dreamer")
MODULES = {role: f"acceerl.jobs.{role}_process" for role in ROLES}
MODULES["evaluator"] = MODULES["rollout"]  # what makes it an evaluator is whom it talks to
IMAGINING = ("reality", "contexts", "dreams", "world_weights")  # links that come with a world model
LEAVE_S = 15.0  # seconds that a role without anything to save may take to leave
ORPHANED_S = 20.0  # seconds without the supervisor's registry after which a process leaves


@dataclass
class Process:
    """What a role's module gets to work with."""

    run: Run
    config: Config
    spec: EnvSpec
    role: str
    index: int
    registry: RegistryClient
    endpoint: Endpoint
    meter: RunMeter
    stop: StopFlag
    watchdog: Watchdog
    requested: set[str] = field(default_factory=set)
    orphaned: bool = False  # it leaves because the supervisor is gone, not because it was asked to

    def drive(self, loop: Iterator[bool], idle: float = 0.0) -> bool:
        """Runs the loop until it ends (True) or this process is asked to stop (False)."""
        gc.collect()
        gc.freeze()  # what is there now will stay, so the collector need not walk through it
        return drive(loop, self.stop, self.watchdog.beat, idle)


def main(run_dir: str, role: str, index: int) -> NoReturn:
    die_with_keeper()
    if role != "learner":
        _yield_politely()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    stop = StopFlag().install()
    run = Run.open(run_dir)
    config = run.config()
    watchdog = Watchdog(config.deadlines.watchdog, f"{role}[{index}]").start()
    registry = RegistryClient(run.path, role, index)
    module = importlib.import_module(MODULES[role])
    spec = read_spec(run)
    mpi_watchdog = Watchdog(config.deadlines.watchdog, f"{role}[{index}] MPI").start()
    links, world = links_of(config, role, index), _world_size(config)
    try:
        endpoint = Endpoint(registry, links, _agreement(spec, config), mpi_watchdog.beat,
                            silence_s=config.deadlines.heartbeat, world=world)  # fmt: skip
    except Misfit as error:
        print(f"acceerl: error: {error}", file=sys.stderr, flush=True)
        os._exit(HOPELESS)
    meter = RunMeter(run.metrics(role, index), role, index)
    process = Process(run, config, spec, role, index, registry, endpoint, meter, stop, watchdog)
    _listen(process)
    if any(limits(config).values()):
        from acceerl.jobs.gpu_memory import limit  # loads torch

        limit(config, role)
    done = module.serve(process)
    registry.heartbeat(meter.snapshot())  # the last counters, which the final status must show
    meter.close()
    log.info("%s[%d] leaves: %s", role, index, "done" if done else stop.reason)
    endpoint.finish(DONE if done else LOST if process.orphaned else STOPPED)


def _world_size(config: Config) -> int:
    return sum(row.count for row in rows(config)) if config.channels == "world" else 0


def _yield_politely() -> None:
    """Waking from a step or a message shall not throw others off their core: each such switch costs warm caches."""
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _agreement(spec: EnvSpec, config: Config) -> dict[str, object]:
    """What two processes must share before they exchange a frame."""
    shapes = {"cameras": list(spec.cameras), "image_size": list(spec.image_size), "proprio": spec.proprio}
    return shapes | {"chunk": config.policy["chunk"], "action_dim": spec.action_dim}


def links_of(config: Config, role: str, index: int) -> list[str]:
    """The links that a process takes part in.

    The evaluators' inference has no Segments to send: a receiver that granted it credits would be taken for broken.
    """
    absent = set() if config.world_model else set(IMAGINING)
    if role == "inference" and index >= config.inference.instances:
        absent |= {"experience", "reality"}
    return [name for name, row in LINKS.items() if role in row.senders + row.receivers and name not in absent]


def _listen(process: Process) -> None:
    """Requests of the supervisor become the stop flag; heartbeats go out once a second."""
    process.registry.on_request = lambda what: _request(process, what)
    for what in list(process.registry.requested):
        _request(process, what)
    threading.Thread(target=_heartbeats, args=(process,), name="heartbeat", daemon=True).start()


def _request(process: Process, what: str) -> None:
    if what == "checkpoint":
        process.requested.add(what)
        return
    process.stop.set(f"the supervisor asked to {what}")
    if process.role not in ("learner", "world_model"):  # which have a checkpoint to write first
        hard = threading.Timer(LEAVE_S, _leave_hard, (process,))
        hard.daemon = True
        hard.start()


def _leave_hard(process: Process) -> None:
    """An MPI call on a peer that leaves at the same moment may never return; nothing of this role needs saving."""
    log.error("%s[%d] did not leave within %.0f s: an MPI call hangs; ending it", process.role, process.index, LEAVE_S)
    os._exit(STOPPED)


def _heartbeats(process: Process) -> None:
    while not process.stop.is_set():
        time.sleep(1.0)  # not `stop.wait`, which looks 20 times: a wake costs a process of a busy machine 50 us
        _beat(process)
        if process.registry.refused:  # a newer life of it runs, which "asked to stop" would take for its own end
            log.error("the registry refused %s[%d]: %s", process.role, process.index, process.registry.refused)
            os._exit(1)
        if process.registry.disconnected_s > ORPHANED_S:
            process.orphaned = True
            process.stop.set("the supervisor is gone")


def _beat(process: Process) -> None:
    """A report that cannot be made must not end this thread: without it nobody would notice a lost supervisor."""
    try:
        process.registry.heartbeat(process.meter.snapshot())
    except Exception:
        log.exception("%s[%d] could not report its counters", process.role, process.index)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
