"""A learner rank's process: training in the main thread, MPI in a thread of its own, batches built in a third."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from acceerl.channels.collective import Collective, PeersLost, meet
from acceerl.jobs.direct import make_publisher
from acceerl.jobs.parts import make_learner, own_device
from acceerl.jobs.process import Process
from acceerl.jobs.weights import save_weights
from acceerl.roles.drive import drive
from acceerl.roles.learner import Learner
from acceerl.runtime.memory import keep_freed_memory
from acceerl.runtime.stop import LOST, StopFlag

log = logging.getLogger(__name__)
IDLE = 5e-3  # seconds to sleep when there is nothing to train on
LONG_IDLE = 20e-3  # the same for ranks that have found nothing for a while: asking each other costs a millisecond
PATIENCE = 50  # idle turns before that


def serve(process: Process) -> bool:
    """Ends with a checkpoint, whether the training is done or was stopped, on all ranks together."""
    try:
        return _serve(process)
    except PeersLost as error:
        log.error("%s", error)
        os._exit(LOST)  # nothing to save: all ranks start again from the checkpoint


def _serve(process: Process) -> bool:
    keep_freed_memory()  # gradients are as large as the policy, and each micro-batch makes them anew
    with ThreadPoolExecutor(1, "prefetch") as prefetch:
        ranks = _meet(process)
        learner = make_learner(
            process.config, process.run, process.spec, process.endpoint, process.meter, prefetch, ranks
        )
        learner.stop = process.stop.is_set
        device = own_device(process.config.learner.device, ranks.rank, ranks.size)
        learner.direct = make_publisher(process.config, process.registry, device)
        process.endpoint.start_pumper()
        # its own stop flag would let one rank leave while the others wait for it: the role itself asks all of them
        drive(_heeding(learner, process, ranks), StopFlag(), process.watchdog.beat, IDLE)
        save_weights(process.run, learner)
        ranks.barrier()  # nobody leaves before everything is written
    return learner.finished


def _meet(process: Process) -> Collective:
    learner, deadlines = process.config.learner, process.config.deadlines
    device = own_device(learner.device, process.index, learner.ranks)

    def beat() -> None:
        process.watchdog.beat()
        process.endpoint.beat()

    return meet(process.registry, learner.ranks, deadlines.connect, deadlines.collective, device, beat)


def _heeding(learner: Learner, process: Process, ranks: Collective) -> Iterator[bool]:
    """The learner's loop, with the supervisor's checkpoint requests passed on."""
    quiet = 0
    for updated in learner.run():
        if "checkpoint" in process.requested:
            process.requested.discard("checkpoint")
            learner.wants_checkpoint = True
        quiet = 0 if updated else quiet + 1
        if ranks.size > 1 and quiet > PATIENCE:
            time.sleep(LONG_IDLE - IDLE)
        yield updated
