"""The world_model process: training in the main thread, MPI in a thread of its own."""

from __future__ import annotations

from acceerl.jobs.process import Process
from acceerl.jobs.world_parts import make_world_model
from acceerl.runtime.memory import keep_freed_memory

IDLE = 10e-3  # seconds to sleep when nothing arrived and nothing is owed


def serve(process: Process) -> bool:
    keep_freed_memory()
    parts = process.config, process.run, process.spec, process.endpoint, process.meter

    def beat() -> None:
        process.watchdog.beat()
        process.endpoint.beat()

    role = make_world_model(*parts, beat)
    process.endpoint.start_pumper()
    done = process.drive(role.run(), IDLE)
    role.checkpoint()
    return done
