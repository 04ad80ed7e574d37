"""What LIBERO publishes of its suites: tasks, instructions, files, step limits, fixed initial states."""

from __future__ import annotations

import types
from functools import lru_cache
from pathlib import Path

import numpy as np

from acceerl.envs.libero.install import import_any

# control steps per episode of the published evaluations: the longest demonstration and some (OpenVLA, AcceRL)
STEP_LIMITS = {
    "libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400,
}  # fmt: skip
EVAL_STATES = range(50)  # LIBERO's fixed ones
TRAIN_STATES = range(50, 100_000)  # placements drawn anew: LIBERO has no second fixed set


class Suite:
    """The tasks of one suite, in LIBERO's default order. package: the loaded module `libero.libero`."""

    def __init__(self, name: str, package: types.ModuleType) -> None:
        self.name = name
        self._folder = Path(package.__file__ or "").parent
        tasks = import_any("libero.libero.benchmark").task_maps[name].values()
        self._stems = tuple(str(task.name) for task in tasks)
        self.instructions = tuple(str(task.language) for task in tasks)

    def bddl(self, task: int) -> str:
        """The file that defines a task."""
        return str(self._folder / "bddl_files" / self.name / f"{self._stems[task]}.bddl")

    def initial_states(self, task: int) -> np.ndarray:
        """float64 [50, 1 + nq + nv]: time, positions and velocities."""
        return _load(str(self._folder / "init_files" / self.name / f"{self._stems[task]}.pruned_init"))


@lru_cache(maxsize=128)
def _load(file: str) -> np.ndarray:
    # LIBERO pickles numpy arrays with torch, which refuses those by default since 2.6; the files are the package's
    return np.asarray(import_any("torch").load(file, weights_only=False), np.float64)
