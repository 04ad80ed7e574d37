"""What Slurm tells a process about its place in the cluster: the only reader of SLURM_* variables.

Nothing tells a task of a heterogeneous job which component it runs in: SLURM_JOB_PARTITION, SLURM_CPUS_PER_TASK and
others hold the last component's values everywhere. So only the batch step asks here, and tells its steps in words.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

_NODES = re.compile(r"(?:[^,\[]|\[[^\]]*\])+")  # a name of a node list, brackets included
_STRANGERS = ("SLURM_", "SLURMD_", "SBATCH_", "SRUN_", "PMI_", "PMIX_", "PMI2_")


@dataclass(frozen=True)
class Allocation:
    """The job that this process leads, as its batch step sees it."""

    job: str  # the leader's id, which all commands take
    restarts: int  # how often Slurm has started it again
    node: str  # Slurm's name of this node
    components: tuple[tuple[str, ...], ...]  # names of the nodes of each het component


def allocation(environment: Mapping[str, str] | None = None) -> Allocation | None:
    """The allocation of this batch step; None outside of Slurm."""
    env = os.environ if environment is None else environment
    if "SLURM_JOB_ID" not in env:
        return None
    size = int(env.get("SLURM_HET_SIZE", "0"))
    names = [f"SLURM_JOB_NODELIST_HET_GROUP_{k}" for k in range(size)] or ["SLURM_JOB_NODELIST"]
    components = tuple(tuple(expand(env[name])) for name in names)
    job = env.get("SLURM_JOB_ID_HET_GROUP_0", env["SLURM_JOB_ID"])
    node = env.get("SLURMD_NODENAME", components[0][0])
    return Allocation(job, int(env.get("SLURM_RESTART_COUNT", "0")), node, components)


def here(environment: Mapping[str, str] | None = None) -> str:
    """This node by Slurm's name, which need not be the host's; outside of Slurm the host's."""
    env = os.environ if environment is None else environment
    return env.get("SLURMD_NODENAME", socket.gethostname())


def rank(environment: Mapping[str, str] | None = None) -> int:
    """This process' number in the world that its launcher makes. Raises ValueError outside of one.

    >>> rank({"SLURM_PROCID": "3"})
    3
    """
    env = os.environ if environment is None else environment
    found = next((env[name] for name in ("PMI_RANK", "PMIX_RANK", "SLURM_PROCID") if name in env), None)
    if found is None:
        raise ValueError("neither srun nor mpiexec has started this process, so it has no rank")
    return int(found)


def without_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which a program does not notice that it runs in a step.

    MPICH's mpiexec would otherwise take the step's nodes for its own, srun the limits of the batch step for its
    defaults, and other libraries believe in one world of many ranks.

    >>> without_slurm({"SLURM_NTASKS": "4", "PMI_RANK": "0", "PATH": "/bin", "SLURM_CONF": "/etc/slurm.conf"})
    {'PATH': '/bin', 'SLURM_CONF': '/etc/slurm.conf'}
    """
    return {k: v for k, v in environment.items() if k == "SLURM_CONF" or not k.startswith(_STRANGERS)}


def for_srun(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for srun in a batch step: the allocation stays, what the batch step itself was given goes.

    srun takes its own limits from such variables, and refuses two that exclude each other (memory per CPU and node).
    """
    own = re.compile(r"SLURM_(CPUS_PER_|MEM_PER_|NTASKS|NPROCS|TRES_PER_|GPUS|GRES|CPU_BIND|DISTRIBUTION|EXACT)")
    return {k: v for k, v in environment.items() if not own.match(k)}


def expand(nodes: str) -> list[str]:
    """The names in a node list of Slurm's, in order.

    >>> expand("gpu7,cpu[01-03,10],r[1-2]n[1-2]")
    ['gpu7', 'cpu01', 'cpu02', 'cpu03', 'cpu10', 'r1n1', 'r1n2', 'r2n1', 'r2n2']
    """
    return [name for match in _NODES.finditer(nodes) for name in _expand(match.group())]


def _expand(text: str) -> list[str]:
    before, bracket, rest = text.partition("[")
    if not bracket:
        return [before]
    inside, _, after = rest.partition("]")
    return [before + number + tail for number in _numbers(inside) for tail in _expand(after)]


def _numbers(ranges: str) -> list[str]:
    found = []
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        found += [f"{n:0{len(first)}}" for n in range(int(first), int(last or first) + 1)]
    return found
