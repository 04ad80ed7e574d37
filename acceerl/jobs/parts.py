"""Assembles the roles of a training from its configuration, for a process of its own and for serial runs alike."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from acceerl.channels.collective import Alone, Collective
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
        segments=ends.sender("experience", range(config.learner.ranks)),
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
    """What `schedule` means to inference. Lock-step has one instance, which knows every environment."""
    turn = 0 if config.schedule == "async" else config.learner.batch
    return Pace(
        max_batch=config.inference.max_batch,
        max_wait=config.inference.max_wait_ms / 1e3,
        lockstep=config.schedule == "sync",
        expected=config.rollout.processes * config.rollout.envs,
        turn=turn,
    )


def make_learner(
    config: Config,
    run: Run,
    spec: EnvSpec,
    ends: Ends,
    meter: Meter,
    prefetch: Executor | None,
    collective: Collective | None = None,
) -> Learner:
    """One rank of the learner, resumed from the run's last whole checkpoint when there is one.

    `collective` joins it with the others, if there are any; the call returns when all have come this far.
    """
    together = collective or Alone()
    numbers = replace(config.learner, device=own_device(config.learner.device, together.rank, together.size))
    torch.set_num_threads(numbers.threads)
    torch.manual_seed(config.seed)
    found = _checkpoint(run, together)
    policy = make_policy(config, spec, start=None if found is None else "", device=numbers.device)
    replay = make_replay(config, run, together)
    learner = Learner(
        trainer=Trainer(policy, config.algo, numbers, config.seed, together),
        segments=ends.receiver("experience", credits=-(-config.inference.credits // together.size)),
        weights=ends.publisher("policy_weights"),
        replay=replay,
        tasks=TaskWeights(spec.n_tasks),
        numbers=numbers,
        meter=meter,
        save=Saver(run, config, policy.spec, replay),
        prefetch=prefetch,
        collective=together,
    )
    if found is not None:
        resume(learner, found, config)
    return learner


def own_device(device: str, rank: int, ranks: int) -> str:
    """The device of one rank: `cuda` is a GPU of its own for each, of those that its process sees.

    >>> own_device("cpu", 1, 2)
    'cpu'
    """
    return f"cuda:{rank % torch.cuda.device_count()}" if device == "cuda" and ranks > 1 else device


def _checkpoint(run: Run, collective: Collective) -> Path | None:
    """The one that rank 0 finds: a shared file system may show others an older state of the folder."""
    found = checkpoint.latest(run.checkpoints) if collective.rank == 0 else None
    name = collective.gather(found.name if found else "")[0]
    return run.checkpoints / name if name else None


def make_replay(config: Config, run: Run, collective: Collective) -> Replay:
    """A rank's part of it. Synchronous schedules train on each segment once, others as often as the pace allows."""
    numbers, lane = config.replay, (collective.rank, collective.size)
    limiter = RateLimiter(numbers.samples_per_insert, numbers.slack, config.learner.batch)
    uses = 1 if config.schedule != "async" else numbers.max_uses or None
    part = -(-numbers.capacity // collective.size)
    folder = run.path / "replay" if numbers.on_resume == "keep" else None  # what nobody reads back is not written
    return Replay(part, folder, config.seed, limiter, order=numbers.order, max_uses=uses, lane=lane)


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
        kept = [state["replay"], *checkpoint.each(self.run.checkpoints, "replay")]
        self.replay.retain([i for replay in kept for i in replay["ids"]], state["replay"]["logs"])
