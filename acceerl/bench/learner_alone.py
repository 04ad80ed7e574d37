"""The learner's loop with nothing beside it, on the checkpoint and the replay that a training left behind.

`updates_alone` starts it as a process of its own, on the core that the learner of the training had.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from acceerl.channels.inline import Hub
from acceerl.jobs.build import read_spec
from acceerl.runtime.metrics import NullMeter
from acceerl.runtime.mpiexec import tethered
from acceerl.runtime.rundir import Run

START_S = 120.0


def updates_alone(run: Path, warmup: float, seconds: float) -> float:
    """Updates a second. Raises RuntimeError with its last words when the process fails."""
    words = [sys.executable, "-m", "acceerl.bench.learner_alone", str(run), str(warmup), str(seconds)]
    done = subprocess.run(
        tethered(words), capture_output=True, text=True, timeout=START_S + warmup + seconds, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"the learner alone ended with {done.returncode}:\n{done.stderr.strip()}")
    return float(json.loads(done.stdout.splitlines()[-1])["updates_per_s"])


def measure(run: Run, warmup: float, seconds: float) -> float:
    from acceerl.jobs.parts import make_learner  # loads torch, which the bench itself does not need

    config, spec = run.config(), read_spec(run)
    with ThreadPoolExecutor(1, "prefetch") as prefetch:
        learner = make_learner(config, run, spec, Hub().ends("learner"), NullMeter(), prefetch)
        loop, counters = learner.run(), learner.counters
        until = time.monotonic() + warmup
        while time.monotonic() < until or not next(loop):  # from one update's end ...
            next(loop)
        before, began = counters.updates, time.monotonic()
        while time.monotonic() < began + seconds or not next(loop):  # ... to another's
            next(loop)
        rate = (counters.updates - before) / (time.monotonic() - began)
        learner.replay.close()
    return rate


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(json.dumps({"updates_per_s": measure(Run.open(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))}))
