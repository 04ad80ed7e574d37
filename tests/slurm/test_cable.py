"""The batch host's cable is pulled: Slurm starts the job elsewhere, and the supervisor that was cut off is silent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.clusters import Cluster, wait
from tests.slurm.conftest import started
from tests.slurm.trainings import Training

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(300)]
ONE_GPU_NODE = ["placement.gpu_nodes=1", "placement.learner_memory=2500", "placement.inference_memory=2000"]


@pytest.fixture
def training(tmp_path: Path) -> Iterator[Training]:
    quick = ("--netns", "--node-timeout=6", "--requeue-delay=8", "--set=MessageTimeout=5")
    for cluster in started(Cluster(Path(f"/tmp/dc-cut-{os.getpid()}"), *quick)):
        yield Training(cluster, tmp_path)


def test_a_supervisor_that_is_cut_off_leaves_the_run_to_the_next_attempt(training, record_property):
    job, states = training.submit(*ONE_GPU_NODE), set()
    training.trains()
    node = training.cluster.job(job)["BatchHost"]
    assert training.cluster.command("cut", node).returncode == 0

    def next_attempt_trains() -> bool:
        states.add(training.status["state"])
        return training.status["attempt"] == 2 and training.status["state"] == "running"

    record_property("cut to the next attempt", wait(next_attempt_trains, 150, training.said))
    training.trains(attempt=2)
    assert states <= {"running", "starting"}, "only the attempt that leads the run writes its status"
    assert training.cluster.job(job)["BatchHost"] != node
    wait(lambda: "without a word in status.json" in training.said(), 60, training.said)
    training.cluster.command("join", node)
    training.trains(attempt=2)  # the one that was cut off hears that it leads no more
    training.cluster.ask("scancel", str(job))
