"""`acceerl data ... launch=slurm`: the same command as an array of Slurm jobs, each with a share of the pieces."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from acceerl.jobs.data.options import Making
from acceerl.jobs.data.shown import shown
from acceerl.launch import submission
from acceerl.launch.compose import compose

LOOK_S = 2.0
HERE = ("launch", "share", "jobs", "minutes", "site", "sites")  # what the jobs do not get


def submit(verb: str, paths: Sequence[Path], chosen: Making, given: Sequence[str]) -> int:
    """Queues `chosen.jobs` jobs and waits for them; they go on when this process is interrupted.

    Returns 0 when all succeeded, else 1. Raises ValueError when Slurm refuses.
    """
    search = [f"hydra.searchpath=[file://{Path(chosen.sites).resolve()}]"] if chosen.sites else []
    site = compose("data", [*search, f"site={chosen.site}"]).site
    words = [word for word in given if word.partition("=")[0] not in HERE and not word.startswith("to=")]
    same = [verb, *(str(path.resolve()) for path in paths), *words, f"to={Path(chosen.to).resolve()}"]
    shares = [[*same, f"share={k + 1}/{chosen.jobs}"] for k in range(chosen.jobs)]
    folder = Path(chosen.to).resolve().with_name(f"{Path(chosen.to).name}.slurm")
    settings = {
        "partition": site.cpu.partition, "account": site.account, "qos": site.cpu.qos,
        "constraint": site.cpu.constraint, "time": chosen.minutes, "cpus_per_task": chosen.workers, "mem": "4GB",
    }  # fmt: skip
    jobs = submission.submit_array(folder, share, shares, settings, site.setup, f"acceerl-data-{verb}")
    print(f"job {jobs[0].job_id.split('_')[0]}: an array of {len(jobs)}; logs in {folder}", flush=True)
    return _wait(verb, jobs)


def share(words: list[str]) -> int:
    """What a job of the array runs."""
    from acceerl.launch.cli import main

    return main(["data", *words])


def _wait(verb: str, jobs: list[Any]) -> int:
    ended: dict[str, int] = {}
    with shown(f"data {verb}", len(jobs), "jobs") as advance:
        while len(ended) < len(jobs):
            for job in jobs:
                if job.job_id not in ended and job.done():
                    ended[job.job_id] = submission.code_of(job)
                    advance(1)
            time.sleep(LOOK_S if len(ended) < len(jobs) else 0)
    failed = sorted(name for name, code in ended.items() if code)
    for job in jobs:
        if job.job_id in failed:
            print(f"job {job.job_id} failed: {_last_line(job)}", file=sys.stderr)
    return 1 if failed else 0


def _last_line(job: Any) -> str:
    text = job.stderr() or job.stdout() or ""
    lines = [line for line in text.splitlines() if line.startswith("acceerl: error")] or text.splitlines()
    return lines[-1] if lines else f"no log; state {job.state}"
