"""The rules that a configuration must keep beyond the types of its keys: ranges, and what goes with what.

Read it when a key of yours needs a bound (`_AT_LEAST`, `_ABOVE_ZERO`) or forbids the value of another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from acceerl.config_reading import look_up

if TYPE_CHECKING:  # config.py imports this file
    from acceerl.config import Collect, Config


def check(config: Config) -> None:
    """Raises ValueError naming the key, what it holds and what it may hold."""
    _check_plugins(config)
    _check_numbers(config)
    _check_schedule(config)
    _check_replay(config)
    _check_guests(config)
    _check_tracking(config)
    _check_inline(config)
    _check_ranks(config)
    _check_one_gpu(config)
    _check_deadlines(config)
    _check_cluster(config)
    _check_collect(config.collect)
    _check_dreams(config)


def _check_plugins(config: Config) -> None:
    for group in ("env", "policy", "collect.expert", "world_model", "success_model"):
        plugin = look_up(config, group)
        if plugin and "_target_" not in plugin:
            raise ValueError(f"{group} needs _target_: module.Class (or pick a file of configs/{group}/)")


_AT_LEAST: dict[str, float] = {
    "learner.batch": 1, "learner.micro_batch": 0, "learner.publish_every": 1, "learner.keep": 1,
    "learner.ranks": 1, "learner.threads": 1, "replay.capacity": 1, "replay.slack": 1, "inference.instances": 1,
    "inference.max_batch": 1, "inference.max_wait_ms": 0, "inference.credits": 1, "rollout.processes": 0,
    "rollout.envs": 1, "rollout.stint": 1, "evaluator.processes": 0, "evaluator.envs": 1, "evaluator.episodes": 1,
    "collect.episodes": 1, "collect.workers": 1, "collect.noise": 0,
    "collect.successes": 0, "collect.failures": 0, "collect.tries": 1, "collect.part": 0, "collect.parts": 1,
    "pretrain.steps": 1, "pretrain.batch": 1, "pretrain.success_steps": 0,
    "supervisor.crash_limit": 1, "seed": 0, "algo.gamma": 0, "algo.lam": 0, "learner.max_updates": 1,
    "learner.warmup": 0, "learner.decay": 0, "learner.value_warmup": 0, "replay.max_uses": 0,
    "replay.imagined_until": 0, "evaluator.videos": 0,
    "placement.gpu_nodes": 1, "placement.cpu_nodes": 0, "placement.gpus": 0, "placement.learner_memory": 1,
    "placement.inference_memory": 1, "placement.rollout_memory": 1, "placement.world_model_memory": 1,
    "placement.dreamer_memory": 1, "slurm.minutes": 1, "slurm.attempts": 1,
    "site.lead": 1, "sweep.parallel": 0, "world.memory": 1, "world.updates_per_episode": 0, "world.max_updates": 0,
    "world.batch": 1, "world.publish_every": 1, "world.threads": 1, "dreamer.processes": 1, "dreamer.batch": 1,
    "dreamer.horizon": 1, "dreamer.doubt": 0, "dreamer.max_gap": 0, "dreamer.max_owed": 0, "dreamer.credits": 1,
    "dreamer.threads": 1,
    "pretrain.body_steps": 0, "pretrain.ticks": 1, "pretrain.ranks": 1, "evaluator.every": 0, "world.weight_decay": 0,
    "site.gpu_memory": 0,
}  # fmt: skip
_ABOVE_ZERO = (
    "learner.lr", "learner.value_lr", "learner.grad_clip", "learner.max_minutes", "replay.samples_per_insert",
    "algo.sigma", "pretrain.lr", "deadlines.connect", "deadlines.heartbeat", "deadlines.watchdog",
    "deadlines.collective", "slurm.start", "world.lr", "dreamer.check_every",
)  # fmt: skip


_SHARES = (
    "replay.imagined_fraction", "world.recorded_share", "world.record_share", "dreamer.first_share",
    "dreamer.threshold", "pretrain.held_out", "placement.learner_gpu", "placement.inference_gpu",
    "placement.world_model_gpu", "placement.dreamer_gpu",
)  # fmt: skip


def _check_numbers(config: Config) -> None:
    for key, least in _AT_LEAST.items():
        if look_up(config, key) < least:
            raise ValueError(f"{key} must be at least {least:g}, got {look_up(config, key)}")
    for key in _ABOVE_ZERO:
        if look_up(config, key) <= 0:
            raise ValueError(f"{key} must be above 0, got {look_up(config, key)}")
    for key in _SHARES:
        if not 0 <= look_up(config, key) <= 1:
            raise ValueError(f"{key} must be between 0 and 1, got {look_up(config, key)}")


def _check_replay(config: Config) -> None:
    """A pace that the replay cannot hold would leave the learner waiting for ever."""
    numbers = config.replay
    if 0 < numbers.max_uses < numbers.samples_per_insert:
        raise ValueError(
            f"replay.max_uses={numbers.max_uses} is below replay.samples_per_insert={numbers.samples_per_insert:g}: "
            "raise it, or set it to 0"
        )
    for key in ("algo.gamma", "algo.lam"):
        if look_up(config, key) > 1:
            raise ValueError(f"{key} must be at most 1, got {look_up(config, key)}")


def _check_schedule(config: Config) -> None:
    if config.schedule != "async" and config.replay.samples_per_insert != 1:
        raise ValueError(f"schedule={config.schedule} trains on each decision once: set replay.samples_per_insert=1")
    if config.schedule != "async" and config.inference.instances > 1:
        # after a fail-over one of two would wait for environments, or for its part of a turn, that the other has
        raise ValueError(f"schedule={config.schedule} takes turns with one inference: set inference.instances=1")


def _check_guests(config: Config) -> None:
    """A training without rollouts of its own needs a way for others to come."""
    if config.rollout.processes == 0 and config.channels != "mpi":
        raise ValueError("rollout.processes=0 leaves the rollouts to `acceerl join`, which needs channels=mpi")
    if config.rollout.processes == 0 and config.schedule == "sync":
        raise ValueError("rollout.processes=0: schedule=sync waits for rollouts of its own; raise it")


def _check_inline(config: Config) -> None:
    """One process plays each role once."""
    for key in ("learner.ranks", "inference.instances"):
        if config.channels == "inline" and look_up(config, key) > 1:
            raise ValueError(f"channels=inline has one process: set {key}=1, or channels=mpi")


def _check_ranks(config: Config) -> None:
    """A rank without a decision of its own in a batch would only wait; one that is alone has nothing to divide."""
    if config.learner.ranks > config.learner.batch:
        raise ValueError(
            f"learner.ranks={config.learner.ranks} is more than learner.batch={config.learner.batch}: lower it"
        )
    if config.learner.shard != "none" and config.learner.ranks == 1:
        raise ValueError(
            f"learner.shard={config.learner.shard} divides a policy over learner.ranks, of which there is 1: raise "
            "them, or set learner.shard=none"
        )


def _check_one_gpu(config: Config) -> None:
    if config.placement.kind == "one_gpu" and config.learner.ranks > 1:
        raise ValueError(f"placement=one_gpu has no GPU for each of learner.ranks={config.learner.ranks}: set it to 1")


def _check_deadlines(config: Config) -> None:
    """A rank that waits for another in vain must get to say so before its watchdog ends it without a name."""
    deadlines = config.deadlines
    if config.learner.ranks > 1 and deadlines.collective >= deadlines.watchdog:
        raise ValueError(
            f"deadlines.collective={deadlines.collective:g} must be below deadlines.watchdog={deadlines.watchdog:g}"
        )


def _check_cluster(config: Config) -> None:
    """What no cluster could do; what this one cannot is found out at submission."""
    if config.launch != "slurm":
        return
    if config.channels == "inline":
        raise ValueError("channels=inline is one process on this machine: use launch=local")
    kind = config.placement.kind
    if kind == "laptop":
        raise ValueError("placement=laptop is this machine: choose one_node, cluster or cluster_homogeneous")
    if kind in ("auto", "cluster") and not config.site.het_steps:
        raise ValueError(f"placement={kind} needs heterogeneous steps, which this site forbids (site.het_steps=false): "
                         "use placement=cluster_homogeneous")  # fmt: skip
    if kind in ("auto", "cluster") and not config.rollout.processes + config.evaluator.processes:
        raise ValueError("rollout.processes=0 leaves the CPU nodes of placement=cluster empty: use placement=one_node, "
                         "or cluster_homogeneous with placement.cpu_nodes=0")  # fmt: skip
    if kind in ("auto", "cluster") and not config.placement.cpu_nodes:
        raise ValueError(f"placement.cpu_nodes=0 leaves the rollouts of placement={kind} without a node: raise it")
    least = config.site.lead + 60 + config.learner.checkpoint_every  # Slurm may signal a minute early
    if 60 * config.slurm.minutes <= least:
        raise ValueError(
            f"slurm.minutes={config.slurm.minutes} is over before the first checkpoint: it must exceed "
            f"site.lead + 60 s + learner.checkpoint_every = {least:g} s"
        )


def _check_collect(collect: Collect) -> None:
    if collect.part >= collect.parts:
        raise ValueError(f"collect.part={collect.part} counts from 0 and must be below collect.parts={collect.parts}")
    if collect.only_successes and collect.failures:
        raise ValueError(f"collect.only_successes=true leaves no room for collect.failures={collect.failures}")
    for name in ("noise_share", "fumbles", "misses", "blind"):
        share = getattr(collect, name)
        if not 0 <= share <= 1:
            raise ValueError(f"collect.{name} must be between 0 and 1, got {share}")
    if collect.misses and not collect.blind:
        raise ValueError(f"collect.misses={collect.misses:g} leads blindfolded hands aside: set collect.blind, too")


def _check_tracking(config: Config) -> None:
    if config.tracker != "none" and config.channels == "inline":
        raise ValueError(
            f"tracker={config.tracker} is the supervisor's, and channels=inline has none: use channels=mpi"
        )
    if config.tracker != "none" and not config.tracking.project:
        raise ValueError("tracking.project must not be empty")
    if config.tracker == "mlflow" and config.tracking.entity:
        raise ValueError("tracking.entity is wandb's: leave it out with tracker=mlflow")


def _check_dreams(config: Config) -> None:
    """What a training with a world model needs, and what its parts must fit."""
    world = config.world_model
    if not world:
        return
    for key in ("stride", "context", "proprio"):
        if key not in world:
            raise ValueError(f"world_model needs the key {key} (pick a file of configs/world_model/ to begin with)")
    stride, chunk = world["stride"], config.policy.get("chunk", 1)
    if not isinstance(stride, int) or stride < 1 or chunk % stride:
        raise ValueError(f"world_model.stride={stride} must divide policy.chunk={chunk}: a decision is whole ticks")
    if config.schedule != "async":
        raise ValueError(f"schedule={config.schedule} takes turns with real episodes: dreams need schedule=async")
