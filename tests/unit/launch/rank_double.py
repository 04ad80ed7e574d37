"""A rank of a world with a test double for its process: `python rank_double.py RUN ATTEMPT LIFE` under mpiexec."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from acceerl.launch.machine import Machine
from acceerl.launch.step import Step, connect
from acceerl.runtime.layout import ranks
from acceerl.runtime.rundir import Run
from acceerl.runtime.stop import StopFlag
from acceerl.runtime.world import rank

if __name__ == "__main__":
    run, attempt, life = Run(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
    role, index = ranks(run.config())[rank()]
    (run.path / f"rank.{role}.{index}").write_text(str(os.getpid()))
    double = [sys.executable, str(Path(__file__).with_name("double.py")), str(run.path)]
    machine = Machine(run, attempt, lambda role, index: [*double, role, str(index)])
    step = Step(machine, connect(f"{role}.{index}", life), run.config(), StopFlag().install())
    raise SystemExit(step.hold())
