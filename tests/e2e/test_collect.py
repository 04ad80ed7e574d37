"""`acceerl collect` under SIGKILL: whatever dies, the same command ends with the exact counts, each episode once."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import psutil
import pytest

from acceerl.stores.reader import Entry, open_trajectories
from tests.e2e.running import acceerl, start, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.beside, pytest.mark.slow, pytest.mark.timeout(280)]
TARGETS = [
    "name=", "env=tabletop", "env.image_size=16", "collect.to=shards", "collect.workers=2", "collect.tasks=[0,3,7]",
    "collect.successes=8", "collect.failures=5", "collect.noise=1.2", "collect.noise_share=0.3", "+env.step_limit=30",
]  # fmt: skip


def published(folder: Path) -> list[Entry]:
    return open_trajectories(folder).entries if any(folder.glob("*.hdf5")) else []


def on_disk(folder: Path) -> int:
    """Whole episodes, published or not."""
    return len(published(folder)) + len(list(folder.glob("*.partial/episode-*.hdf5")))


def counts(entries: list[Entry]) -> Counter[tuple[int, bool]]:
    return Counter((entry.task, entry.success) for entry in entries)


WANTED = Counter({(task, success): 8 if success else 5 for task in (0, 3, 7) for success in (True, False)})


def test_a_collection_outlives_its_own_death(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    for goal in (4, 15):
        job = start("collect", *TARGETS, cwd=tmp_path)
        workers = wait_for("workers", lambda job=job: _children(job.pid))
        wait_for(f"{goal} episodes", lambda goal=goal: on_disk(folder) >= goal)
        job.send_signal(signal.SIGKILL)
        job.wait(30)
        wait_for("the workers to follow", lambda workers=workers: not any(w.is_running() for w in workers), 30)
    done = acceerl("collect", *TARGETS, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    entries = published(folder)
    assert counts(entries) == WANTED
    assert len({(entry.task, entry.seed) for entry in entries}) == len(entries), "an episode was collected twice"
    assert not list(folder.glob("*.partial"))
    again = acceerl("collect", *TARGETS, cwd=tmp_path)
    assert again.returncode == 0 and counts(published(folder)) == WANTED, "a finished collection stays as it is"


def test_a_killed_worker_costs_nothing_but_its_episode(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    job = start("collect", *TARGETS, cwd=tmp_path)
    wait_for("five episodes", lambda: on_disk(folder) >= 5)
    os.kill(_children(job.pid)[0].pid, signal.SIGKILL)
    assert job.wait(200) == 0, (tmp_path / "stdout.txt").read_text()
    assert counts(published(folder)) == WANTED


def _children(pid: int) -> list[psutil.Process]:
    """The workers: children of a collection that are no helper of Python's multiprocessing."""
    children = psutil.Process(pid).children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def test_what_a_worker_complains_about_is_one_line(tmp_path: Path) -> None:
    wrong = acceerl("collect", *TARGETS, "collect.by=policy", "start=nowhere.pt", cwd=tmp_path)
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1 and "nowhere.pt" in wrong.stderr
