"""The cluster of the Slurm tests: started once a session, and every node is idle when a test begins."""

from __future__ import annotations

import getpass
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.clusters import Cluster, wait
from tests.slurm.trainings import Training


@pytest.fixture(scope="session")
def session_cluster() -> Iterator[Cluster]:
    # Short delays, and a short path: a Unix socket's has 108 characters at most.
    quick = ("--node-timeout=6", "--requeue-delay=8", "--grace=4", "--set=MessageTimeout=5")
    yield from started(Cluster(Path(f"/tmp/dc-test-{os.getpid()}"), *quick))


@pytest.fixture
def cluster(session_cluster: Cluster) -> Iterator[Cluster]:
    """Two CPU and two GPU nodes, nothing running on them."""
    session_cluster.wait_for_idle()
    session_cluster.sweep()
    yield session_cluster
    session_cluster.ask("scancel", "--user=root")


@pytest.fixture
def training(cluster: Cluster, tmp_path: Path) -> Iterator[Training]:
    yield Training(cluster, tmp_path)
    cluster.ask("scancel", f"--user={getpass.getuser()}")
    wait(lambda: not cluster.ask("squeue", "--noheader"), 60, lambda: cluster.ask("squeue"))


def started(cluster: Cluster) -> Iterator[Cluster]:
    cluster.up()
    yield cluster
    done = cluster.command("down")
    assert done.returncode == 0, done.stderr
    shutil.rmtree(cluster.folder)
