"""MPI as this project loads it: settings that survive dying peers, and what of it a loop can wait for.

Only this file imports mpi4py, and only inside a function, because child processes that import it abort the job.
"""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from acceerl.channels.connection import INJECT

EAGAIN_TRIES = 2_000  # 1 ms while a living peer opens its side, 0.2 s at a dead one's closed port
PORTS = {"MPIR_CVAR_CH4_NETMOD": "ofi", "FI_PROVIDER": "tcp"}  # others crash at Accept or Connect
# PyPI's MPICH would take UCX, which now and then cannot read its own peers' addresses (pmodels/mpich#7417).
WORLD = {"MPIR_CVAR_CH4_NETMOD": "ofi"}
DEATHS = {"MPIR_CVAR_CH4_OFI_MAX_EAGAIN_RETRY": str(EAGAIN_TRIES), "FI_TCP_MAX_INJECT": str(INJECT)}


class Misfit(RuntimeError):
    """MPI was started in a way that cannot work, and starting again does not help."""


def load_mpi(ports: bool = True) -> Any:
    """Imports and initialises MPI. `ports=False` leaves the network to the site's own MPI and settings.

    Raises Misfit where no launcher offers a PMI.
    """
    if not any(name.startswith("PMI") for name in os.environ):
        bare = "start this process with `mpiexec -n 1`: MPI ports crash in a bare process"
        raise Misfit(
            bare if ports else "srun offers no PMI, so no process finds the others: set site.pmi (srun --mpi=list)"
        )
    for name, value in {**(PORTS if ports else _of_a_world()), **DEATHS}.items():
        os.environ.setdefault(name, value)
    import mpi4py

    mpi4py.rc.finalize = False
    mpi4py.rc.thread_level = "serialized"
    from mpi4py import MPI

    MPI.COMM_SELF.Set_errhandler(MPI.ERRORS_RETURN)
    MPI.COMM_WORLD.Set_errhandler(MPI.ERRORS_RETURN)
    _forget_shared_files()
    return MPI


def _of_a_world() -> dict[str, str]:
    try:
        distribution("mpich")
    except PackageNotFoundError:
        return {}
    return WORLD


def _forget_shared_files() -> None:
    """Takes the names from MPICH's shared memory, 1 MB a process, which whoever is killed would leave behind for ever.

    Its start ends in a barrier, so that all who share it have mapped it.
    """
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "/mpich_shm_" in line:
            Path(line.split(maxsplit=5)[5]).unlink(missing_ok=True)


def epolls() -> set[int]:
    """Descriptors of this process that watch others: libfabric's is among those that MPI's start adds."""
    found = {int(entry.name): entry for entry in Path("/proc/self/fd").iterdir()}
    return {number for number, entry in found.items() if _target(entry) == "anon_inode:[eventpoll]"}


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:  # closed meanwhile: the listing itself had one open
        return ""
