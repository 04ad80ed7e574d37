"""What a training has taken of a cluster, role by role: CPU-hours and GPU-hours, from the lives of its processes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from acceerl.config import Config, Dreamer, Inference, Learner, World
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
    numbers = _computing(config).get(role)
    return numbers.threads if numbers else 1


def _computing(config: Config) -> dict[str, Learner | Inference | World | Dreamer]:
    """The roles that have threads and a device of their own."""
    return {"learner": config.learner, "inference": config.inference, "world_model": config.world,
            "dreamer": config.dreamer}  # fmt: skip


def _gpus(config: Config) -> dict[str, float]:
    """GPUs for one process of each role; roles that share a step's GPUs share them evenly."""
    if config.launch == "local":
        return {role: 1.0 for role, numbers in _computing(config).items() if numbers.device.startswith("cuda")}
    given: dict[str, float] = defaultdict(float)
    number: dict[str, int] = defaultdict(int)
    for share in shares(config):
        for role, _ in share.processes:
            given[role] += share.gpus / len(share.processes)
            number[role] += 1
    return {role: given[role] / number[role] for role in given}


def guests_h(config: Config, lived: Mapping[tuple[str, int], float]) -> float:
    """CPU-hours of rollouts that joined from outside, `lived` in seconds by process (Records.lived)."""
    own = config.rollout.processes
    return sum(seconds for (role, index), seconds in lived.items() if role == "rollout" and index >= own) / 3600


def sentence(found: Mapping[str, Cost], wall_seconds: float, guests: float = 0.0) -> str:
    """
    >>> sentence({"learner": Cost(2.0, 8.0, 2.0), "rollout": Cost(20.0, 20.0, 0.0)}, 7200, guests=5.0)
    'In all 2.00 hours of wall clock, 28.00 CPU-hours (5.00 of them by rollouts that joined), 2.00 GPU-hours.'
    """
    cpu, gpu = sum(c.cpu_h for c in found.values()), sum(c.gpu_h for c in found.values())
    joined = f" ({guests:.2f} of them by rollouts that joined)" if guests else ""
    return f"In all {wall_seconds / 3600:.2f} hours of wall clock, {cpu:.2f} CPU-hours{joined}, {gpu:.2f} GPU-hours."
