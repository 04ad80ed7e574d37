"""Assembles the roles of a training from its configuration, for a process of its own and for serial runs alike."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from acceerl.channels.links import Ends
from acceerl.config import Config, to_dict
from acceerl.jobs.build import make_policy
from acceerl.protocols import Meter, PolicySpec
from acceerl.roles.inference import Inference, Pace
from acceerl.roles.learner import Learner, unpack
from acceerl.roles.tasks import EvaluationTasks, TaskWeights, TrainingTasks
from acceerl.roles.trainer import Trainer
from acceerl.runtime.rundir import Run
from acceerl.stores import checkpoint
from acceerl.stores.replay import RateLimiter, Replay
from acceerl.types import EnvSpec, EpisodeResult

log = logging.getLogger(__name__)


def make_inference(config: Config, spec: EnvSpec, ends: Ends, meter: Meter, index: int, life: int) -> Inference:
    """One training inference instance. It waits for the learner's first weights before it serves.

    `life` counts its starts over all attempts, so that none repeats another's random numbers or episode numbers.
    """
    torch.set_num_threads(config.inference.threads)
    seed = config.seed * 1_000 + index + 1_000_000 * life
    policy = make_policy(config, spec, start="", device=config.inference.device)
    policy.seed(seed)  # type: ignore[attr-defined]
    return Inference(
        policy,
        ends.serving(),
        TrainingTasks(spec, seed),
        pace(config),
        meter,
        segments=ends.sender("experience"),
        weights=ends.reader("policy_weights"),
        load=unpack,
        first_episode=(life * config.inference.instances + index) * 10**9,
    )


def make_evaluation_inference(
    config: Config, spec: EnvSpec, ends: Ends, meter: Meter, finished: Callable[[int, list[EpisodeResult]], None]
) -> Inference:
    """The evaluators' instance: plays rounds greedily, each with one published version."""
    torch.set_num_threads(config.inference.threads)
    return Inference(
        make_policy(config, spec, start="", device=config.inference.device),
        ends.serving(),
        EvaluationTasks(spec, config.evaluator.episodes, finished),
        Pace(max_batch=config.evaluator.processes * config.evaluator.envs),
        meter,
        weights=ends.reader("policy_weights"),
        load=unpack,
    )


def pace(config: Config) -> Pace:
    """What `schedule` means to inference."""
    environments = config.rollout.processes * config.rollout.envs // config.inference.instances
    turn = 0 if config.schedule == "async" else -(-config.learner.batch // config.inference.instances)
    return Pace(
        max_batch=config.inference.max_batch,
        max_wait=config.inference.max_wait_ms / 1e3,
        lockstep=config.schedule == "sync",
        expected=environments,
        turn=turn,
    )


def make_learner(
    config: Config, run: Run, spec: EnvSpec, ends: Ends, meter: Meter, prefetch: Executor | None
) -> Learner:
    """The learner, resumed from the run's last whole checkpoint when there is one."""
    torch.set_num_threads(config.learner.threads)
    torch.manual_seed(config.seed)
    found = checkpoint.latest(run.checkpoints)
    policy = make_policy(config, spec, start=None if found is None else "", device=config.learner.device)
    replay = make_replay(config, run)
    learner = Learner(
        trainer=Trainer(policy, config.algo, config.learner, config.seed),
        segments=ends.receiver("experience", credits=config.inference.credits),
        weights=ends.publisher("policy_weights"),
        replay=replay,
        tasks=TaskWeights(spec.n_tasks),
        numbers=config.learner,
        meter=meter,
        save=Saver(run, config, policy.spec, replay),
        prefetch=prefetch,
    )
    if found is not None:
        resume(learner, found, config)
    return learner


def make_replay(config: Config, run: Run) -> Replay:
    """Synchronous schedules train on each segment once, asynchronous ones as often as the pace allows."""
    numbers = config.replay
    limiter = RateLimiter(numbers.samples_per_insert, numbers.slack, config.learner.batch)
    once = config.schedule != "async"
    uses = 1 if once else numbers.max_uses or None
    return Replay(numbers.capacity, run.path / "replay", config.seed, limiter, order=numbers.order, max_uses=uses)


def resume(learner: Learner, path: Path, config: Config) -> None:
    state = checkpoint.load(path, spec=asdict(learner.trainer.policy.spec))
    learner.load(state, keep_replay=config.replay.on_resume == "keep")
    log.info("resumed from %s at update %d", path.name, learner.counters.updates)


class Saver:
    """Writes a learner's state as a checkpoint of the run, and frees spooled segments that no checkpoint names."""

    def __init__(self, run: Run, config: Config, spec: PolicySpec, replay: Replay) -> None:
        self.run, self.config, self.spec, self.replay = run, config, spec, replay

    def __call__(self, state: dict[str, Any]) -> None:
        whole = state | {"policy_spec": asdict(self.spec), "config": to_dict(self.config)}
        checkpoint.save(self.run.checkpoints, state["counters"]["updates"], whole, self.config.learner.keep)
        kept = checkpoint.each(self.run.checkpoints, "replay")
        self.replay.retain(i for replay in kept for i in replay["ids"])
