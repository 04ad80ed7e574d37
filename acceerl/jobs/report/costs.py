"""What a training has taken of a cluster, role by role: CPU-hours and GPU-hours, from the lives of its processes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from acceerl.config import Config
from acceerl.runtime.layout import shares


@dataclass(frozen=True)
class Cost:
    """Hours that the processes of one role held, over all attempts; what a node's other CPUs did is not in them."""

    process_h: float
    cpu_h: float
    gpu_h: float


def costs(config: Config, seconds: Mapping[str, float]) -> dict[str, Cost]:
    """`seconds`: of all processes of a role together (Records.seconds)."""
    gpus, found = _gpus(config), {}
    for role, lived in seconds.items():
        hours = lived / 3600
        found[role] = Cost(hours, hours * _threads(config, role), hours * gpus.get(role, 0.0))
    return found


def _threads(config: Config, role: str) -> int:
    return {"learner": config.learner.threads, "inference": config.inference.threads}.get(role, 1)


def _gpus(config: Config) -> dict[str, float]:
    """GPUs for one process of each role; roles that share a step's GPUs share them evenly."""
    if config.launch == "local":
        devices = {"learner": config.learner.device, "inference": config.inference.device}
        return {role: 1.0 for role, device in devices.items() if device.startswith("cuda")}
    given: dict[str, float] = defaultdict(float)
    number: dict[str, int] = defaultdict(int)
    for share in shares(config):
        for role, _ in share.processes:
            given[role] += share.gpus / len(share.processes)
            number[role] += 1
    return {role: given[role] / number[role] for role in given}


def sentence(found: Mapping[str, Cost], wall_seconds: float) -> str:
    """
    >>> sentence({"learner": Cost(2.0, 8.0, 2.0), "rollout": Cost(20.0, 20.0, 0.0)}, 7200)
    'In all 2.00 hours of wall clock, 28.00 CPU-hours, 2.00 GPU-hours.'
    """
    cpu, gpu = sum(c.cpu_h for c in found.values()), sum(c.gpu_h for c in found.values())
    return f"In all {wall_seconds / 3600:.2f} hours of wall clock, {cpu:.2f} CPU-hours, {gpu:.2f} GPU-hours."
