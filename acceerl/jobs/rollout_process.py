"""A rollout or evaluator process: K environments and one request link. Imports neither torch nor hydra itself."""

from __future__ import annotations

from acceerl.jobs.build import make_env
from acceerl.jobs.process import Process
from acceerl.roles.rollout import rollout


def serve(process: Process) -> bool:
    config, evaluates = process.config, process.role == "evaluator"
    envs = [make_env(config) for _ in range(config.evaluator.envs if evaluates else config.rollout.envs)]
    training = list(range(config.inference.instances))
    servers = [len(training)] if evaluates else training
    process.watchdog.beat()  # making environments may have taken seconds
    return process.drive(rollout(envs, process.endpoint.requests(servers), process.meter))
