"""The only door of submitit: het jobs, a Job that knows when such a job has ended, and the batch step's entry.

`python -m acceerl.launch.submission FOLDER` is what the batch script becomes (`exec`). Private hooks of submitit are
overridden, hence the pinned version and the golden files.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import submitit
from submitit.core.submission import process_job
from submitit.core.utils import FailedJobError
from submitit.slurm import slurm

from acceerl.launch.slurm_queue import ALIVE, Unanswered, job_state

LOOK_S = 3.0  # seconds between two questions to the controller


class Watcher(slurm.SlurmInfoWatcher):
    """States of whole het jobs. The stock one asks sacct for an id that het jobs do not have, for ever."""

    def update(self) -> None:
        self._num_calls += 1
        for job in self._registered - self._finished:
            try:
                self._info_dict[job] = {"JobID": job, "State": job_state(job)}
            except Unanswered:
                continue  # the last state stands
            if self.is_done(job, mode="cache"):
                self._finished.add(job)
        self._last_status_check = slurm.core._time.time()

    def is_done(self, job_id: str, mode: str = "standard") -> bool:
        return self.get_state(job_id, mode=mode).upper() not in ALIVE

    def update_if_long_enough(self, mode: str) -> None:
        recent = slurm.core._time.time() - self._last_status_check < LOOK_S
        if mode == "force" or (mode == "standard" and not recent):
            self.update()


def ask_scontrol() -> None:
    """Lets submitit's own jobs be watched like ours: without accounting, sacct complains at every look."""
    slurm.SlurmJob.watcher = Watcher()


class Job(slurm.SlurmJob):
    """A training on the cluster; `result()` is its exit code. Requeued jobs are not done."""

    watcher = Watcher()

    def done(self, force_check: bool = False) -> bool:
        """A requeued job leaves no result, and one that Slurm ended leaves none either: Slurm's word decides.

        The result alone says so only while the controller does not answer.
        """
        state = self.watcher.get_state(self.job_id, "force" if force_check else "standard")
        return self.paths.result_pickle.exists() if state == "UNKNOWN" else state not in ALIVE

    @property
    def state(self) -> str:
        return str(self.watcher.get_state(self.job_id, mode="force"))

    def exit_code(self) -> int | None:
        """What the training's supervisor ended with; None when it did not get to say."""
        if not self.paths.result_pickle.exists():
            return None
        outcome, value = pickle.loads(self.paths.result_pickle.read_bytes())
        return int(value) if outcome == "success" else 1


class Executor(slurm.SlurmExecutor):
    """Submits one batch script as it is given, het components and all."""

    job_class = Job

    def __init__(self, folder: Path, text: str) -> None:
        super().__init__(folder)
        self.text = text

    @classmethod
    def name(cls) -> str:
        return "slurm"

    def _make_submission_file_text(self, command: str, uid: str) -> str:
        del command, uid  # the text is rendered by sbatch.py
        return self.text

    def _num_tasks(self) -> int:
        return 1

    def _internal_process_submissions(self, delayed_submissions: list[Any]) -> list[Any]:
        """Arrays of het jobs do not exist: the stock executor would silently build plain ones."""
        assert len(delayed_submissions) == 1, "one submission at a time"
        return list(submitit.core.core.PicklingExecutor._internal_process_submissions(self, delayed_submissions))


def submit(folder: Path, text: str, function: Callable[[str], int], argument: str) -> Job:
    """Queues `function(argument)` under the batch script `text`.

    Raises ValueError with Slurm's words when it refuses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with redirect_stderr(StringIO()):  # submitit shows sbatch's words as well
            job = Executor(folder, text).submit(function, argument)
    except FailedJobError as error:
        words = [line for line in str(error).splitlines() if "error:" in line.lower()]
        said = (words or str(error).splitlines())[-1].removeprefix("sbatch: error: ").strip()
        raise ValueError(f"Slurm refused the job: {said} (site.* names accounts and partitions; --dry-run shows the "
                         "script)") from error  # fmt: skip
    assert isinstance(job, Job)
    return job


def submit_array(
    folder: Path,
    function: Callable[[list[str]], int],
    arguments: Sequence[list[str]],
    settings: dict[str, Any],
    setup: Sequence[str],
    name: str,
) -> list[Any]:
    """Queues `function(argument)` for each argument as one plain array of jobs of one process; empty settings are left
    to the site. Raises ValueError with Slurm's words when it refuses, or is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        executor = slurm.SlurmExecutor(folder)
        executor.update_parameters(
            **{key: value for key, value in settings.items() if value},
            setup=list(setup), job_name=name, array_parallelism=len(arguments), stderr_to_stdout=False,
        )  # fmt: skip
        with redirect_stderr(StringIO()):
            return list(executor.map_array(function, list(arguments)))
    except (FailedJobError, RuntimeError) as error:
        said = " ".join(str(error).split()).removeprefix("sbatch: error: ")
        raise ValueError(f"Slurm refused the jobs: {said} (site=NAME names accounts and partitions)") from error


def code_of(job: Any) -> int:
    """Exit code of a job of an array that has ended; 1 when it did not get to say."""
    if not job.paths.result_pickle.exists():
        return 1
    outcome, value = pickle.loads(job.paths.result_pickle.read_bytes())
    return int(value) if outcome == "success" else 1


def main(folder: str) -> int:
    """The batch step: submitit runs the function, whose value becomes the exit code."""
    os.environ["SUBMITIT_FOLDER"] = folder
    result = submitit.JobEnvironment().paths.result_pickle
    result.unlink(missing_ok=True)  # of an earlier attempt that Slurm requeued when it had already ended
    process_job(folder)
    with result.open("rb") as file:
        _, code = pickle.load(file)
    return int(code)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
