"""How a process is started so that it can use MPI ports and never outlives the one who started it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

# Runs first in the child: the kernel ends it when its parent dies, then it becomes the command. In a process of its
# own, since a preexec function may deadlock in a parent that has threads.
_TETHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.Signals[sys.argv[2]])
os.getppid() == int(sys.argv[1]) or os._exit(70)
sys.argv[3] and os.sched_setaffinity(0, map(int, sys.argv[3].split(",")))
os.execvp(sys.argv[4], sys.argv[4:])
"""


def tethered(command: Sequence[str], signal_name: str = "SIGKILL", cpus: Sequence[int] = ()) -> list[str]:
    """`command` as a child of this process that gets a signal when this process dies, however it dies.

    `cpus` are the only ones that it may run on; none: those of this process.
    """
    pinned = ",".join(map(str, cpus))
    return [sys.executable, "-I", "-S", "-c", _TETHER, str(os.getpid()), signal_name, pinned, *command]


def under_mpiexec(command: Sequence[str], mpiexec: str = "") -> list[str]:
    """`command` as the only rank of an MPI world of its own, without a launcher's help."""
    return [find_mpiexec(mpiexec), "-bootstrap", "fork", "-n", "1", *command]


def find_mpiexec(given: str = "") -> str:
    """`given`, else the mpiexec of this Python's environment, else of PATH. Raises FileNotFoundError with the fix."""
    if given:
        if not os.access(given, os.X_OK):
            raise FileNotFoundError(f"site.mpiexec={given} is no program on this machine: correct it, or leave it out")
        return given
    beside = Path(sys.executable).with_name("mpiexec")
    found = str(beside) if beside.is_file() else shutil.which("mpiexec")
    if found is None:
        raise FileNotFoundError(
            "no mpiexec found beside python or in PATH: pip install mpich, or load your site's MPICH"
        )
    return found
