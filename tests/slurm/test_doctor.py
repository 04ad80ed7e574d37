"""`acceerl doctor launch=slurm` on real nodes: every component, and what goes between them."""

from __future__ import annotations

import pytest

from tests.slurm.trainings import Training

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
WORDS = ["doctor", "launch=slurm", "site=devcluster", "placement=cluster", "runs=."]


def test_a_healthy_cluster_meets_over_ports_between_components(training: Training) -> None:
    done = training.acceerl(*WORDS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok    registry line TCP from ") == 2
    assert "ok    mpi crossing  from cpu1 to gpu" in done.stdout


def test_a_wrong_interface_fails_before_a_training_does(training: Training) -> None:
    done = training.acceerl(*WORDS, "site.interface=nowhere9")
    assert done.returncode == 1, done.stderr
    assert "rollout on cpu1: mpi; " in done.stdout and "rollout on cpu1: mpi crossing" in done.stdout
    assert "site.interface=nowhere9 (FI_TCP_IFACE) is no network device here: choose from " in done.stdout
