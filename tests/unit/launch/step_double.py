"""A keeper step with test doubles for processes: `python step_double.py RUN NAME ATTEMPT LIFE`, without srun."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from acceerl.launch.machine import Machine
from acceerl.launch.step import Step, connect
from acceerl.runtime.rundir import Run
from acceerl.runtime.stop import StopFlag

if __name__ == "__main__":
    run, name, attempt, life = Run(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    (run.path / f"step.{name}").write_text(str(os.getpid()))
    double = [sys.executable, str(Path(__file__).with_name("double.py")), str(run.path)]
    machine = Machine(run, attempt, lambda role, index: [*double, role, str(index)])
    raise SystemExit(Step(machine, connect(name, life), run.config(), StopFlag().install()).hold())
