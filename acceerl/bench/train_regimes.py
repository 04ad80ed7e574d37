"""The workloads of `acceerl bench train`, as overrides of `acceerl train`."""

from __future__ import annotations

from collections.abc import Sequence

REGIMES = ("constant", "tail", "cpu", "tail_k2", "skeleton", "skeleton_k4", "learner")
ON_SLURM = "slurm_tail"  # asked for by name only: it needs a cluster
PROCESSES, MEAN_MS = 8, 5.0
# Half a millisecond: a batch of two saves processor time meanwhile, and longer costs more steps than it saves.
_SERVE_SOON = ("inference.max_wait_ms=0.5", "inference.max_batch=16")


def latency(mode: str, envs: int = 1) -> list[str]:
    """8 rollout processes whose steps take 5 ms in the mean, 4 numbers to see, a network of 2 x 64."""
    return [
        "env=latency", f"env.mode={mode}", f"env.mean_ms={MEAN_MS}", "env.camera=0",
        "policy=mlp", "policy.hidden=[64,64]", f"rollout.processes={PROCESSES}", f"rollout.envs={envs}",
        "learner.batch=512", "learner.micro_batch=512", *_SERVE_SOON,
    ]  # fmt: skip


def skeleton(envs: int = 1) -> list[str]:
    """Large observations, a network of 39 million weights that are published after every update.

    The authors train on 16 x 2 decisions, drawn one by one. Here whole episodes are drawn, which are 13 decisions, so
    an update is of 13 x 2: as many accumulated parts, and more updates for as many samples. The pace is the one that
    they keep (23 trained for 31 collected), and like theirs nothing of the replay is kept on disk.
    """
    return [
        "env=skeleton", "policy=mlp", "policy.hidden=[256,256]", "policy.chunk=4",
        "rollout.processes=2", f"rollout.envs={envs}", "inference.max_wait_ms=20", "inference.credits=8",
        "learner.batch=26", "learner.micro_batch=16", "learner.publish_every=1", "replay.on_resume=drop",
        "replay.samples_per_insert=0.75", "replay.slack=128", "replay.capacity=64",
    ]  # fmt: skip


def learner_bound() -> list[str]:
    """A learner that always has something to train on, beside rollouts that keep everyone else busy.

    Small batches: many updates in a window, so that their number is known well, and the most that a learner publishes.
    """
    return [
        "env=tabletop", "policy=tiny", "start=tabletop_spatial", "rollout.processes=2", "rollout.envs=4",
        "inference.max_batch=8", "learner.batch=16", "learner.micro_batch=16",
        "replay.samples_per_insert=1000", "replay.slack=1000000000", "replay.capacity=200",
    ]  # fmt: skip


def on_slurm(site: str) -> list[str]:
    """The same processes as one job: learner and inference on a GPU node each, rollouts on two CPU nodes."""
    return [
        "launch=slurm", f"site={site}", "placement=cluster", "placement.gpu_nodes=2", "placement.cpu_nodes=2",
        "placement.rollout_memory=500", "slurm.wait=true", "slurm.minutes=20", "learner.checkpoint_every=600",
    ]  # fmt: skip


def schedule(name: str) -> Sequence[str]:
    return (f"schedule={name}",)
