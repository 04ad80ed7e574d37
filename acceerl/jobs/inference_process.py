"""An inference process. Instances beyond `inference.instances` serve the evaluators: greedy, round by round."""

from __future__ import annotations

from acceerl.jobs.direct import with_direct
from acceerl.jobs.evaluate import EvaluationLog
from acceerl.jobs.parts import make_evaluation_inference, make_inference
from acceerl.jobs.process import Process


def serve(process: Process) -> bool:
    config, meter = process.config, process.meter
    ends = with_direct(config, process.endpoint, process.registry, config.inference.device)
    life = process.run.attempt * 1_000 + process.registry.incarnation  # random streams and episode numbers of its own
    if process.index < config.inference.instances:
        role = make_inference(config, process.spec, ends, meter, process.index, life)
    else:
        log = EvaluationLog(process.run, process.spec, meter)
        role = make_evaluation_inference(config, process.spec, ends, meter, log.finished)
    return process.drive(role.run())
