"""The drill that only looks: does the memory of any process grow? Works on any run, also a finished one."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.drills.curves import memory as growths
from tests.e2e.drills.outcome import Outcome
from tests.e2e.drills.training import Training

BAR = 0.02  # of the memory after warm-up, over 20 minutes


def memory(folder: Path, run: str = "", minutes: float = 24.0, warm_up: float = 240.0) -> Outcome:
    """Host memory of every process after `warm_up` seconds; `run=RUN` looks at that run instead of starting one."""
    outcome = Outcome("memory")
    found = growths(Path(run) if run else _train(folder, minutes), warm_up)
    for each in found:
        outcome.figures |= {
            f"{each.name}.after_warm_up_mb": each.first_mb,
            f"{each.name}.last_mb": each.last_mb,
            f"{each.name}.growth_percent": 100 * each.share,
            f"{each.name}.fitted_growth_percent": 100 * each.fitted_share,
            f"{each.name}.minutes": each.seconds / 60,
        }
        outcome.check(f"{each.name} grows by less than {BAR:.0%}", each.share < BAR, timed=True)
    outcome.check("some process lived long enough to tell", found)
    return outcome


def _train(folder: Path, minutes: float) -> Path:
    """A training whose replay fills within the warm-up, so that what grows later is a leak."""
    limits = ["replay.capacity=400", f"learner.max_minutes={minutes}", "rollout.processes=2", "rollout.envs=12"]
    with Training(folder, "tabletop", *limits, "learner.batch=256", "learner.micro_batch=128") as training:
        code = training.job.wait(60 * minutes + 300)
        assert code == 0, training.said()
        return training.run
