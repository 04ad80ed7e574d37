"""`channels=inline`: the whole training in one process, role by role, for a debugger. Same parts, no processes."""

from __future__ import annotations

import time
from collections.abc import Iterator

from acceerl.channels.inline import Hub
from acceerl.config import Config
from acceerl.jobs.build import make_env
from acceerl.jobs.parts import make_inference, make_learner
from acceerl.jobs.weights import save_weights
from acceerl.jobs.world_parts import make_dreamer, make_world_model
from acceerl.protocols import Stop
from acceerl.roles.drive import take_turns
from acceerl.roles.learner import Learner
from acceerl.roles.rollout import rollout
from acceerl.runtime.metrics import RunMeter
from acceerl.runtime.rundir import Run
from acceerl.runtime.stop import DONE, STOPPED


def run(config: Config, run: Run, stop: Stop) -> int:
    """Trains until the learner is done or `stop` is set; both end with a checkpoint. Returns an exit code."""
    hub = Hub()
    imagining = ("world_model", "dreamer") if config.world_model else ()
    roles = ("rollout", "inference", "learner", *imagining)
    meters = {role: RunMeter(run.metrics(role, 0), role, 0) for role in roles}
    envs = [make_env(config) for _ in range(config.rollout.processes * config.rollout.envs)]
    spec = envs[0].spec
    learner = make_learner(config, run, spec, hub.ends("learner"), meters["learner"], prefetch=None)
    inference = make_inference(config, spec, hub.ends("inference"), meters["inference"], 0, run.attempt * 1_000 + 1)
    loops = [
        rollout(envs, hub.ends("rollout").requests(), meters["rollout"]),
        inference.run(),
        _with_progress(learner),
    ]
    if imagining:
        life = run.attempt * 1_000 + 1
        loops.append(make_world_model(config, run, spec, hub.ends("world_model"), meters["world_model"]).run())
        loops.append(make_dreamer(config, spec, hub.ends("dreamer"), meters["dreamer"], 0, life).run())
    take_turns(loops, until=stop.is_set)
    if not learner.done():
        learner.checkpoint()
    save_weights(run, learner)
    for env in envs:
        env.close()
    for meter in meters.values():
        meter.close()
    return DONE if learner.done() else STOPPED


def _with_progress(learner: Learner, every: float = 10.0) -> Iterator[bool]:
    """The learner's loop, with a line now and then."""
    said = time.monotonic()
    for updated in learner.run():
        if time.monotonic() - said >= every:
            said = time.monotonic()
            c = learner.counters
            rate = 100 * learner.tasks.success_rate()
            done = f"updates {c.updates}  decisions {c.decisions}  episodes {c.episodes}"
            print(f"{done}  success {rate:.1f} %", flush=True)
        yield updated
