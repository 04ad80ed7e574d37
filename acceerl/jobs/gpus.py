"""Which processes compute on which GPU, here or on a cluster: arithmetic over the configuration."""

from __future__ import annotations

from acceerl.config import Config
from acceerl.runtime import layout
from acceerl.runtime.placement import rows


def by_gpu(config: Config) -> dict[str, list[str]]:
    """The roles on each GPU, one entry a process."""
    found: dict[str, list[str]] = {}
    devices = {row.role: row.device for row in rows(config)}
    for (role, _), gpu in sorted((_on_cluster if config.launch == "slurm" else _here)(config).items()):
        if devices[role] != "cpu":
            found.setdefault(gpu, []).append(role)
    return found


def _here(config: Config) -> dict[layout.Process, str]:
    """Learner ranks have a GPU each, everybody else the first one unless its device has a number."""
    spread = {"learner"} if config.learner.ranks > 1 else set()
    return {
        (row.role, i): str(i) if row.role in spread else row.device.partition(":")[2] or "0"
        for row in rows(config)
        for i in range(row.count)
    }


def _on_cluster(config: Config) -> dict[layout.Process, str]:
    found: dict[layout.Process, str] = {}
    for share in layout.shares(config):
        before = layout.ahead(share, config)[1]
        gpus = [f"{share.component}.{share.node}.{before + k}" for k in range(share.gpus)]
        found |= {process: own[0] for process, own in layout.gpus_of(share, gpus).items() if own}
    return found
