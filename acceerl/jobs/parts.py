"""Assembles the roles of a training from its configuration, for a process of its own and for serial runs alike."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

import psutil
import torch

from acceerl.channels.collective import Alone, Collective
from acceerl.channels.links import Ends
from acceerl.config import Config
from acceerl.jobs.build import compiled, make_policy
from acceerl.jobs.saving import Saver, resume
from acceerl.jobs.world_parts import make_dreams
from acceerl.protocols import Meter
from acceerl.roles.fitting import micro_batch
from acceerl.roles.inference import Inference, Pace
from acceerl.roles.learner import Learner, unpack
from acceerl.roles.segments import longest
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
        TrainingTasks(spec, seed, record_share(config), config.rollout.stint),
        pace(config),
        meter,
        segments=ends.sender("experience", range(config.learner.ranks)),
        reality=ends.sender("reality") if config.world_model else None,
        weights=ends.reader("policy_weights"),
        load=unpack,
        first_episode=(life * config.inference.instances + index) * 10**9,
    )


def record_share(config: Config) -> float:
    """Of the episodes that are seen at every control step: none unless a world model has ticks shorter than a chunk."""
    fine = bool(config.world_model) and config.world_model["stride"] < config.policy["chunk"]
    return config.world.record_share if fine else 0.0


def make_evaluation_inference(
    config: Config, spec: EnvSpec, ends: Ends, meter: Meter, finished: Callable[[int, list[EpisodeResult]], None]
) -> Inference:
    """The evaluators' instance: plays rounds greedily, each with one published version."""
    torch.set_num_threads(config.inference.threads)
    return Inference(
        make_policy(config, spec, start="", device=config.inference.device),
        ends.serving(),
        EvaluationTasks(spec, config.evaluator.episodes, finished, every=config.evaluator.every),
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
    start, divided = None if found is None else "", numbers.shard != "none"
    # what will be divided stays on the host until then: a GPU need not hold all of it
    policy = make_policy(config, spec, start=start, device="cpu" if divided else numbers.device)
    replay = make_replay(config, run, together)
    policy = compiled(policy) if numbers.compile else policy
    trainer = Trainer(policy, config.algo, numbers, config.seed, together)
    if not numbers.micro_batch:
        free = psutil.virtual_memory().available
        segment = longest(max(spec.step_limits), config.policy["chunk"])
        numbers = replace(numbers, micro_batch=micro_batch(trainer, segment, free))
        log.info("learner.micro_batch=auto: %d decisions fit", numbers.micro_batch)
    saver = Saver(run, config, policy.spec, replay, together)
    learner = Learner(
        trainer=trainer,
        segments=ends.receiver("experience", credits=-(-config.inference.credits // together.size)),
        weights=ends.publisher("policy_weights"),
        replay=replay,
        tasks=TaskWeights(spec.n_tasks),
        numbers=numbers,
        meter=meter,
        save=saver,
        busy=saver.busy,
        settle=saver.settle,
        prefetch=prefetch,
        collective=together,
        dreams=make_dreams(config, ends, config.seed),
    )
    if found is not None:
        resume(learner, found, config, together)
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
    imagined = numbers.imagined_fraction if config.world_model else 0.0
    first = max(1, round(config.learner.batch * (1 - imagined)))  # real decisions before the first update
    limiter = RateLimiter(numbers.samples_per_insert, numbers.slack, first)
    uses = 1 if config.schedule != "async" else numbers.max_uses or None
    part = -(-numbers.capacity // collective.size)
    folder = run.path / "replay" if numbers.on_resume == "keep" else None  # what nobody reads back is not written
    return Replay(part, folder, config.seed, limiter, order=numbers.order, max_uses=uses, lane=lane)
