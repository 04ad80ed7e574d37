"""Which processes a training has, how many, and what each may use. Roles are data here; nothing is started.

`rows` is the one table that keepers, the dry run and the supervisor read.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from acceerl.config import Config

MPI_ENV = {"MPIR_CVAR_CH4_NETMOD": "ofi", "FI_PROVIDER": "tcp"}  # other settings crash at Accept or Connect
GL_ENV = {"MUJOCO_GL": "osmesa", "PYOPENGL_PLATFORM": "osmesa"}
EGL_ENV = {"MUJOCO_GL": "egl", "PYOPENGL_PLATFORM": "egl"}


@dataclass(frozen=True)
class Row:
    """One role group: `count` processes with `threads` compute threads each.

    `defaults` are environment variables that the user's own environment overrides; OMP_NUM_THREADS is set always.
    """

    role: str
    count: int
    threads: int
    device: str = "cpu"
    defaults: dict[str, str] = field(default_factory=dict)
    bond: str = ""  # processes with the same one cannot go on without each other: when one dies, all start again

    def environment(self, inherited: dict[str, str]) -> dict[str, str]:
        """The environment variables of this row's processes.

        >>> Row("rollout", 2, 1, defaults={"A": "1"}).environment({"A": "2"})
        {'A': '2', 'OMP_NUM_THREADS': '1'}
        """
        return {**self.defaults, **inherited, "OMP_NUM_THREADS": str(self.threads)}


def rows(config: Config) -> tuple[Row, ...]:
    """The role groups of a training, on this machine or on a cluster.

    Raises ValueError, naming the row and the key, for one that cannot work.
    """
    ranks, imagines = config.learner.ranks, int(bool(config.world_model))
    ranks_bond = "learner" if ranks > 1 else ""
    world = "world" if config.channels == "world" else ""
    network = {} if world else MPI_ENV  # a world uses the site's own
    mpi = {**network, **({"FI_TCP_IFACE": config.site.interface} if config.site.interface else {})}
    sim = {**mpi, **GL_ENV, "LP_NUM_THREADS": "0"}  # Mesa's worker threads cost more than small images gain
    table = (
        Row("learner", ranks, config.learner.threads, config.learner.device, mpi, world or ranks_bond),
        Row("inference", _instances(config), config.inference.threads, config.inference.device, mpi, world),
        Row("rollout", config.rollout.processes, 1, defaults=sim, bond=world),
        Row("evaluator", config.evaluator.processes, 1, defaults=sim, bond=world),
        Row("world_model", imagines, config.world.threads, config.world.device, mpi, world),
        Row("dreamer", imagines * config.dreamer.processes, config.dreamer.threads, config.dreamer.device, mpi, world),
    )
    here = (_threads_fit, _gpu_is_here) if config.launch == "local" else ()
    for check in (_feeds_every_inference, _devices_are_known, *here):
        check(table)
    _limits_fit(table, config)
    return tuple(row for row in table if row.count)


def _instances(config: Config) -> int:
    """The evaluators, if there are any, talk to one more instance of their own."""
    return config.inference.instances + bool(config.evaluator.processes)


def processes(config: Config) -> dict[str, int]:
    """`{role: count}`."""
    return {row.role: row.count for row in rows(config)}


def limits(config: Config) -> dict[str, float]:
    """Shares of its GPU's memory that a process of each role may take; 0: no limit."""
    given = config.placement
    return {
        "learner": given.learner_gpu, "inference": given.inference_gpu, "world_model": given.world_model_gpu,
        "dreamer": given.dreamer_gpu,
    }  # fmt: skip


def table(config: Config) -> str:
    """The placement as text, for the dry run."""
    lines = [f"{'role':<10} {'count':>5} {'threads':>7}  device"]
    return "\n".join(lines + [f"{r.role:<10} {r.count:>5} {r.threads:>7}  {r.device}" for r in rows(config)])


def _feeds_every_inference(table: tuple[Row, ...]) -> None:
    """Where all rollouts are guests, nobody knows how many will come."""
    counts = {row.role: row.count for row in table}
    training = counts["inference"] - bool(counts["evaluator"])
    if training > counts["rollout"] > 0:
        raise ValueError(
            f"placement row inference: inference.instances={training} but only {counts['rollout']} rollout "
            "processes to serve; lower inference.instances or raise rollout.processes"
        )


def _threads_fit(table: tuple[Row, ...], cores: Callable[[], int] = lambda: len(os.sched_getaffinity(0))) -> None:
    """Sharing cores between processes is slow but works; one process with more threads than cores never helps."""
    for row in table:
        if row.count and row.threads > max(cores(), 2):
            raise ValueError(f"placement row {row.role}: {row.role}.threads={row.threads}, but this machine lends "
                             f"{cores()} cores; lower {row.role}.threads")  # fmt: skip


def _devices_are_known(table: tuple[Row, ...]) -> None:
    for row in table:
        if row.role == "learner" and row.count > 1 and ":" in row.device:
            raise ValueError(f"placement row {row.role}: {row.role}.device={row.device} is one GPU for "
                             f"{row.count} ranks; set {row.role}.device=cuda")  # fmt: skip
        if row.device.split(":")[0] not in ("cpu", "cuda"):
            raise ValueError(f"placement row {row.role}: {row.role}.device={row.device} is unknown: choose cpu or cuda")


def _gpu_is_here(table: tuple[Row, ...]) -> None:
    for row in table:
        if row.count and row.device.startswith("cuda") and not _has_gpu():
            raise ValueError(f"placement row {row.role}: {row.role}.device={row.device}, but this machine has no "
                             f"NVIDIA GPU; set {row.role}.device=cpu, or add launch=slurm")  # fmt: skip


def _limits_fit(table: tuple[Row, ...], config: Config) -> None:
    """Where all share one GPU their limits must leave room for all."""
    shares = limits(config)
    taken = sum(row.count * shares.get(row.role, 0.0) for row in table if row.device != "cpu")
    if config.placement.kind == "one_gpu" and taken > 1:
        raise ValueError(f"placement=one_gpu: its processes may take {taken:.2f} of the GPU's memory together; lower "
                         "placement.learner_gpu, inference_gpu, world_model_gpu or dreamer_gpu")  # fmt: skip


def _has_gpu() -> bool:
    """Asked of the device files, since loading torch for it takes seconds."""
    return Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists()
