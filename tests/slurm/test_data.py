"""`acceerl data ... launch=slurm`: an array of jobs makes one data set, and a job that fails is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from acceerl.stores.reader import open_trajectories
from acceerl.stores.validate import verify
from tests.slurm.clusters import Cluster
from tests.unit.stores.examples import libero_file

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
ROOT = Path(__file__).parents[2]


def imported(cluster: Cluster, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "acceerl", "data", "import", str(folder / "a_demo.hdf5"), f"to={folder / 'out'}",
               "episodes_per_shard=1", "launch=slurm", "jobs=2", "site=devcluster", "minutes=5", *words]  # fmt: skip
    environment = {**cluster.env, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=240)


def test_an_array_of_jobs_makes_one_data_set(cluster: Cluster, tmp_path: Path) -> None:
    libero_file(tmp_path / "a_demo.hdf5", demos=5)
    done = imported(cluster, tmp_path, "limit=0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(open_trajectories(tmp_path / "out")) == 5
    assert verify(tmp_path / "out") == []


def test_a_job_that_fails_is_named_with_its_reason(cluster: Cluster, tmp_path: Path) -> None:
    libero_file(tmp_path / "a_demo.hdf5", demos=2)
    done = imported(cluster, tmp_path)  # its actions are beyond the limit
    assert done.returncode == 1
    assert "actions: reach 4, beyond 1 (on_error=skip" in done.stderr
    assert not (tmp_path / "out").exists()
