"""A dreamer process: imagination in the main thread, MPI in a thread of its own."""

from __future__ import annotations

from acceerl.jobs.direct import with_direct
from acceerl.jobs.process import Process
from acceerl.jobs.world_parts import make_dreamer

IDLE = 5e-3  # seconds to sleep while the learner has dreams enough


def serve(process: Process) -> bool:
    life = process.run.attempt * 1_000 + process.registry.incarnation
    ends = with_direct(process.config, process.endpoint, process.registry, process.config.dreamer.device)
    role = make_dreamer(process.config, process.spec, ends, process.meter, process.index, life)
    process.endpoint.start_pumper()
    return process.drive(role.run(), IDLE)
