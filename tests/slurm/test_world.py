"""`channels=world` on a real Slurm: one step over all components of a het job, and what the PMI has to do with it."""

from __future__ import annotations

import pytest

from tests.e2e.running import events, updates
from tests.slurm.clusters import wait

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
WORLD = ("channels=world", "learner.checkpoint_every=2")


def test_one_step_over_all_components_trains_and_completes(training):
    waiting = training.start(*WORLD, "learner.max_updates=10")
    wait(lambda: updates(training.run) >= 1, 90, lambda: f"the first update: {training.said()}")
    seen = training.steps()
    assert {name for name, _ in seen} == {"world"}
    hosts = {(row["role"], row["index"]): row["host"] for row in training.status["processes"]}
    assert {(role, host[:3]) for (role, _), host in hosts.items()} == {
        ("learner", "gpu"), ("inference", "gpu"), ("rollout", "cpu"),
    }  # fmt: skip
    assert len(set(hosts.values())) == 4
    assert waiting.wait(120) == 0
    assert "ended: COMPLETED" in waiting.stdout.read()
    assert training.status["state"] == "done" and updates(training.run) == 10


def test_a_dead_rank_restarts_the_step_from_the_checkpoint(training, record_property):
    job = training.submit(*WORLD)
    training.trains()
    wait(lambda: any(training.saved()), 60, training.said)
    before = training.steps()
    training.kill("inference")
    wait(lambda: all(row["restarts"] == 1 for row in training.status["processes"]), 60, training.said)
    record_property("SIGKILL of a rank to training again", training.trains())
    assert len(events(training.run, "learner", "first_update")) == 1, "the learner began again"
    assert training.steps() == before, "one step, on the same nodes"
    assert training.cluster.job(job)["Restarts"] == "0"


def test_processes_that_cannot_find_each_other_end_the_training_at_once(training):
    done = training.start(*WORLD, "site.pmi=none")
    assert done.wait(120) == 1
    assert "srun offers no PMI, so no process finds the others: set site.pmi" in training.status["error"]
