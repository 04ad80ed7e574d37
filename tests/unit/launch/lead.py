"""A supervisor as a process of its own, with real mpiexec around test doubles: `python lead.py RUN`."""

from __future__ import annotations

import sys
from pathlib import Path

from acceerl.launch.supervisor import supervise
from acceerl.runtime.mpiexec import find_mpiexec
from acceerl.runtime.rundir import Run


def command(role: str, index: int) -> list[str]:
    double = [sys.executable, str(Path(__file__).with_name("double.py")), sys.argv[1], role, str(index)]
    return [find_mpiexec(), "-bootstrap", "fork", "-n", "1", *double]


if __name__ == "__main__":
    run = Run(Path(sys.argv[1]))
    raise SystemExit(supervise(run, run.config(), lambda progress: None, command=command))
