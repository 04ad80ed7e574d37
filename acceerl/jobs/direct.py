"""Which way the policy's weights go from learner to readers (`weights=`), and the ends of the way between GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from acceerl.channels.links import Ends, WeightsReader
from acceerl.config import Config
from acceerl.jobs.build import locate
from acceerl.jobs.gpus import by_gpu
from acceerl.runtime.placement import rows

if TYPE_CHECKING:
    from acceerl.channels.collective import Directory
    from acceerl.channels.collective_pairs import DirectPublisher

LARGE = 500e6  # bytes above which the way through the host takes too long
READERS = ("inference", "dreamer")
COPIES = 2  # of the weights that each end keeps on its GPU: one on its way, one in use


def between_gpus(config: Config) -> bool:
    """Do weights go by NCCL? With weights=auto: those that are large, where they can.

    Raises ValueError, naming the row and the fix, when weights=nccl cannot be.
    """
    if config.weights == "host" or (config.weights == "auto" and config.learner.device == "cpu"):
        return False
    wrong = _hindrance(config)
    if config.weights == "nccl" and wrong:
        raise ValueError(f"weights=nccl: {wrong}, or set weights=host")
    return not wrong and (config.weights == "nccl" or state_bytes(config) > LARGE)


def _hindrance(config: Config) -> str:
    """Why NCCL cannot carry them; it needs a GPU for each of its two ends."""
    if config.channels != "mpi":
        return f"channels={config.channels} has no registry in which readers are found: use channels=mpi"
    ends = [row for row in rows(config) if row.role in ("learner", *READERS)]
    for row in ends:
        if row.device == "cpu":
            return f"placement row {row.role}: {row.role}.device=cpu: set it to cuda"
    for roles in by_gpu(config).values():
        if "learner" in roles and set(roles) & set(READERS):
            return f"placement row {'+'.join(roles)}: share a GPU: give them one each"
    return ""


def state_bytes(config: Config) -> float:
    """Of a message of weights, by the policy's own plan; 0 of one that has none: small."""
    tell = getattr(locate(config.policy["_target_"]), "state_bytes", None) if config.policy else None
    return float(tell(config.policy)) if tell else 0.0


def make_publisher(config: Config, registry: Directory, device: str) -> DirectPublisher | None:
    """The sending end of rank 0; None where weights go through the host."""
    if registry.index or not between_gpus(config):
        return None
    from acceerl.channels.collective_pairs import DirectPublisher

    readers = [(row.role, i) for row in rows(config) if row.role in READERS for i in range(row.count)]
    return DirectPublisher(registry, readers, "nccl", device, config.deadlines.collective)


def with_direct(config: Config, ends: Ends, registry: Directory, device: str) -> Ends:
    """A reader's ends; that of the policy's weights is the one between GPUs where they go that way."""
    return _Direct(ends, registry, device, config.deadlines.collective) if between_gpus(config) else ends


class _Direct:
    """Another process' ends, but for one."""

    def __init__(self, ends: Ends, registry: Directory, device: str, timeout_s: float) -> None:
        self._ends, self._own = ends, (registry, device, timeout_s)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ends, name)

    def reader(self, link: str, publisher: int = 0) -> WeightsReader:
        if link != "policy_weights":
            return self._ends.reader(link, publisher)
        from acceerl.channels.collective_pairs import DirectReader

        return DirectReader(*self._own)
