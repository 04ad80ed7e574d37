"""`hydra/launcher=acceerl_slurm`: every point of a sweep is a Slurm job of its own; its objective comes back.

Hydra imports this file at every start, so it loads nothing heavy. It is never an array: those of heterogeneous jobs do
not exist. `ArrayLauncher` is what configs/hydra/launcher/array.yaml names, for jobs of one process.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, run_job
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher
from omegaconf import DictConfig, open_dict

STOCK = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


class AcceerlSlurmLauncher(Launcher):
    """Composes the points here; acceerl/launch/sweep.py submits them and waits."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        del task_function  # runs a point here; ours run in jobs
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """One JobReturn a point: `train()`'s objective. A failed one raises when a sweeper reads its value.

        Hydra's own sweeper reads values only to find out whether to stop, and a failed point shall not stop the
        others: to it a failed one is NaN.
        """
        from acceerl.launch import sweep

        composed = [self._compose(list(words), initial_job_idx + i) for i, words in enumerate(job_overrides)]
        sent = [(tuple(words), made._return_value) for words, made in zip(job_overrides, composed, strict=True)]
        values = sweep.lead(list(self.config.hydra.overrides.task), sent)
        for made, value in zip(composed, values, strict=True):
            failed = isinstance(value, Exception)
            made.return_value = nan if failed and self.config.hydra.sweeper._target_ == STOCK else value
            made.status = JobStatus.FAILED if made._return_value is value and failed else JobStatus.COMPLETED
        return composed

    def _compose(self, words: list[str], number: int) -> JobReturn:
        """Its value: the point's Config, or the ValueError that says what is wrong with it."""
        composed = self.hydra_context.config_loader.load_sweep_config(self.config, words)
        with open_dict(composed):
            composed.hydra.job.id, composed.hydra.job.num = f"point {number}", number
        return run_job(
            task_function=_to_config, config=composed, job_dir_key="hydra.sweep.dir", job_subdir_key=None,
            hydra_context=self.hydra_context, configure_logging=False,
        )  # fmt: skip


def _to_config(composed: DictConfig) -> Any:
    from acceerl.launch.compose import to_config

    return to_config(composed)


class ArrayLauncher(SlurmLauncher):
    """The stock launcher, which says nothing of what it submitted, and needs sacct to notice that a job was ended."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Waits for all points; raises at the first that failed."""
        from acceerl.launch.submission import ask_scontrol

        ask_scontrol()
        name, logs = self.params.get("name"), self.params["submitit_folder"]
        print(f"one array of {len(job_overrides)} jobs; queue: squeue --me --array --name={name}; logs: {logs} "
              "(%j: the job's id)", flush=True)  # fmt: skip
        made: Sequence[JobReturn] = super().launch(job_overrides, initial_job_idx)
        for point in made:
            assert point.hydra_cfg is not None and point.overrides is not None, "its job has run"
            print(f"job {point.hydra_cfg.hydra.job.id}: {' '.join(point.overrides)}: {point.return_value}", flush=True)
        return made


ConfigStore.instance().store(
    group="hydra/launcher",
    name="acceerl_slurm",
    node={"_target_": f"{AcceerlSlurmLauncher.__module__}.{AcceerlSlurmLauncher.__name__}"},
    provider="acceerl",
)
