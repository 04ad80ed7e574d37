"""The learner process: training in the main thread, MPI in a thread of its own, batches built in a third."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from acceerl.jobs.parts import make_learner
from acceerl.jobs.process import Process
from acceerl.jobs.weights import save_weights
from acceerl.roles.learner import Learner

IDLE = 2e-3  # seconds to sleep when there is nothing to train on


def serve(process: Process) -> bool:
    """Ends with a checkpoint, whether the training is done or was stopped."""
    with ThreadPoolExecutor(1, "prefetch") as prefetch:
        learner = make_learner(process.config, process.run, process.spec, process.endpoint, process.meter, prefetch)
        process.endpoint.start_pumper()
        done = process.drive(_heeding(learner, process), IDLE)
        if not done:
            learner.checkpoint()
        save_weights(process.run, learner.trainer.policy, learner.counters.updates)
    return done


def _heeding(learner: Learner, process: Process) -> Iterator[bool]:
    """The learner's loop, with the supervisor's checkpoint requests passed on."""
    for updated in learner.run():
        if "checkpoint" in process.requested:
            process.requested.discard("checkpoint")
            learner.wants_checkpoint = True
        yield updated
