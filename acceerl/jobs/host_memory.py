"""What a process on a cluster node needs of the node's own memory, before Slurm kills one that was promised less.

Computed from the configuration: the learner's replay, and the policy while it is built. Slurm's limit would be met
hours later, when the replay is full.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from acceerl.config import Config
from acceerl.jobs.build import locate
from acceerl.jobs.gpu_memory import longest_segment
from acceerl.runtime.placement import rows

MB = 1e6
BASE = 1e9  # bytes of Python, torch and its libraries
FIXES = {"learner": ", or lower replay.capacity", "inference": ""}


def check(config: Config) -> None:
    """Raises ValueError naming a process of a cluster that was promised less memory than it will take."""
    if config.launch != "slurm":
        return
    given = {"learner": config.placement.learner_memory, "inference": config.placement.inference_memory}
    for role, parts in needed(config).items():
        total = sum(parts.values())
        if total > given[role] * MB:
            text = " + ".join(f"{size / MB:,.0f} {name}" for name, size in parts.items() if size)
            raise ValueError(f"placement row {role}: needs {total / MB:,.0f} MB of its node ({text}), "
                             f"placement.{role}_memory={given[role]} allows less: raise it{FIXES[role]}")  # fmt: skip


def needed(config: Config) -> dict[str, dict[str, float]]:
    """Bytes of each role that is there, by what takes them."""
    policy = _policy(config)
    found = {"learner": {"replay": _replay(config), "policy": policy, "libraries": BASE},
             "inference": {"policy": policy, "libraries": BASE}}  # fmt: skip
    return {row.role: found[row.role] for row in rows(config) if row.role in found}


def _policy(config: Config) -> float:
    """By the policy's own plan; 0 of one that has none: small."""
    tell = getattr(locate(config.policy["_target_"]), "host_bytes", None) if config.policy else None
    return float(tell(config.policy)) if tell else 0.0


def _replay(config: Config) -> float:
    """A rank's whole segments with their pictures; 0 of an environment that does not say how long or large it is."""
    if not config.env or not hasattr(locate(config.env["_target_"]), "longest_episode"):
        return 0.0
    cameras, size = config.env.get("cameras", ()), config.env.get("image_size", 0)
    picture = 3 * int(np.prod(np.broadcast_to(size, 2))) * len(cameras)
    segments = -(-config.replay.capacity // config.learner.ranks)
    return float(segments * (longest_segment(config) + 1) * picture)


def lines(config: Config) -> list[str]:
    """What `--dry-run` prints of a cluster's nodes."""
    if config.launch != "slurm":
        return []
    found: dict[str, Any] = needed(config)
    return [f"memory of {role} on its node: {sum(parts.values()) / MB:,.0f} MB" for role, parts in found.items()]
