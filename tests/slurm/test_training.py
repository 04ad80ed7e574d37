"""`acceerl train launch=slurm` on a real Slurm: where it runs, how it ends, and what it outlives."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.e2e.running import process, updates
from tests.slurm.clusters import wait
from tests.slurm.trainings import Training

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def test_a_het_job_runs_on_its_nodes_trains_and_carries_its_exit_code_through(training, record_property):
    waiting = training.start("learner.max_updates=40", "evaluator.after=true")
    first = wait(lambda: updates(training.run) >= 1, 60, lambda: f"the first update: {training.said()}")
    record_property("submit to first update", first)
    seen = training.steps()
    assert {(role, node[:3]) for role, node in seen} == {("learner", "gpu"), ("inference", "gpu"), ("rollout", "cpu")}
    assert len({node for _, node in seen}) == 4
    assert "CUDA_VISIBLE_DEVICES" in learner_environment(training)
    assert waiting.wait(120) == 0
    said = waiting.stdout.read()
    assert "ended: COMPLETED" in said and "success after RL" in said
    assert training.cluster.job(training.job)["JobState"] == "COMPLETED"
    assert training.status["state"] == "done" and updates(training.run) == 40


def learner_environment(training: Training) -> dict[str, str]:
    """Of the learner's process, which must not notice that it runs in a step."""
    pid = wait_for_pid(training, "learner")
    raw = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    env = dict(line.split("=", 1) for line in raw if "=" in line)
    assert not [name for name in env if name.startswith("SLURM_") and name != "SLURM_CONF"]
    return env


def wait_for_pid(training: Training, role: str) -> int:
    wait(lambda: process(training.run, role)["pid"], 60, lambda: f"{role}: {training.status}")
    return int(process(training.run, role)["pid"])


def test_scancel_writes_a_checkpoint_and_leaves_nothing(training, record_property):
    job = training.submit()
    training.trains()
    training.cluster.ask("scancel", str(job))
    record_property("scancel to clean", wait(lambda: not training.processes(), 30, lambda: str(training.processes())))
    training.cluster.wait_for_state(job, "CANCELLED", 10)
    assert training.status["state"] == "stopped"
    assert training.status["counters"]["updates"] == training.saved()[-1]
    again = training.acceerl("train", f"resume={training.run}", "--dry-run")
    assert again.returncode == 0, again.stderr


def test_killed_processes_and_steps_come_back_in_the_same_allocation(training, record_property):
    job = training.submit("rollout.processes=4")
    training.trains()
    for role in ("rollout", "inference", "learner"):
        before = process(training.run, role)["restarts"]
        training.kill(role)
        wait(lambda role=role, n=before: process(training.run, role)["restarts"] > n, 30, training.said)
        record_property(f"training again after SIGKILL of {role}", training.trains(seconds=60))
    keeper = next(line for line in training.cluster.processes("cpu1") if "acceerl.launch.step" in line)
    [pid] = [p for p in os.listdir("/proc") if p.isdigit() and is_keeper(p, keeper, training)]
    os.kill(int(pid), 9)
    wait(lambda: "the keeper step of rollout on cpu1 ended" in training.said(), 20, training.said)
    wait(lambda: ("rollout", "cpu1") in training.steps(), 30, lambda: str(training.steps()))
    training.trains(seconds=60)
    assert training.cluster.job(job)["Restarts"] == "0"


def test_scancel_of_one_rollout_step_costs_that_step_only_and_an_operator_stops_the_rest(training):
    job = training.submit("rollout.processes=4")
    training.trains()
    lines = training.cluster.ask("squeue", "--steps", "--noheader", "--format=%i %j %N").splitlines()
    [step] = [number for number, name, node in (line.split() for line in lines) if (name, node) == ("rollout", "cpu2")]
    training.cluster.ask("scancel", step)
    wait(lambda: ("rollout", "cpu2") not in training.steps(), 40, lambda: str(training.steps()))
    training.trains(more=10, seconds=60)
    assert training.cluster.job(job)["Restarts"] == "0"
    assert [process(training.run, "rollout", i)["state"] for i in range(4)] == ["running"] * 2 + ["ended"] * 2
    assert "rollout[2] was asked to leave" in training.said()
    assert ("rollout", "cpu2") not in training.steps(), "nobody wants it back"
    stopped_by_its_operator(training, job)


def stopped_by_its_operator(training: Training, job: int) -> None:
    """`ps`, `watch` and `stop` over a cluster."""
    seen = training.acceerl("watch", str(training.run), "once=true")
    assert seen.returncode == 0, seen.stderr
    assert "running" in seen.stdout and "cpu1" in seen.stdout and "rollout[1]" in seen.stdout
    assert "running" in training.acceerl("ps").stdout
    stopped = training.acceerl("stop", str(training.run))
    assert stopped.returncode == 0, stopped.stderr
    assert "stopped; last checkpoint: ckpt-" in stopped.stdout
    training.cluster.wait_for_state(job, "FAILED", 30)  # exit code 75: asked to stop, and not requeued
    assert training.cluster.job(job)["Restarts"] == "0" and training.status["state"] == "stopped"


def is_keeper(pid: str, command: str, training: Training) -> bool:
    try:
        ours = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip() == command
        return ours and os.stat(f"/proc/{pid}/ns/uts").st_ino == (training.cluster.folder / "ns/cpu1.uts").stat().st_ino
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("lost", ["cpu2", "gpu"], ids=["a CPU node", "the supervisor's node"])
def test_a_lost_node(training, lost, record_property):
    """A CPU node costs its rollouts only; the supervisor's own node a requeue."""
    job = training.submit("rollout.processes=4")
    training.trains()
    node = lost if lost == "cpu2" else training.cluster.job(job)["BatchHost"]
    training.cluster.command("crash", node)
    try:
        if lost == "cpu2":
            wait(lambda: process(training.run, "rollout", 3)["state"] == "lost", 90, training.said)
            training.trains(more=5)
            assert "going on without rollout[2-3]" in training.said()
            assert training.cluster.job(job)["Restarts"] == "0"
        else:
            wait(lambda: training.cluster.job(job)["Restarts"] == "1", 90, lambda: str(training.cluster.job(job)))
    finally:
        training.cluster.command("join", node)
    if lost != "cpu2":
        record_property("node back to training", training.trains(attempt=2))


def test_a_preempted_training_saves_and_goes_on_when_there_is_room(training, record_property):
    both = [
        "site.cpu.partition=preempt",
        "site.gpu.partition=preempt",
        "site.cpu.constraint=cpu",
        "site.gpu.constraint=gpu",
    ]
    job = training.submit(*both)
    training.trains()
    before = training.status["counters"]["updates"]
    training.cluster.ask("srun", "--partition=cpu", "--nodes=1", "--exclusive", "true")  # waits until it got its node
    record_property("preempted to training again", training.trains(attempt=2))
    assert training.cluster.job(job)["Restarts"] == "1"
    assert max(training.saved()) >= before


def test_where_requeue_is_refused_a_successor_follows(training):
    first = training.submit("site.requeue=false")
    training.trains()
    training.cluster.ask("scancel", "--batch", "--signal=USR2", str(first))
    training.trains(attempt=2)
    assert training.job > first
    assert f"job {training.job} follows" in training.said()
    training.cluster.wait_for_state(first, "FAILED", 10)  # exit code 75: asked to stop


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["site.gpu.partition=gpus"], "site.gpu.partition=gpus is no partition here: choose from all, cpu, gpu"),
        (["placement.gpu_nodes=2", "placement.cpu_nodes=3", "rollout.processes=3"], "placement row rollout: needs 3"),
        (["learner.threads=64"], "placement row learner+inference: needs"),
        (["placement.gpus=9"], "needs 1 nodes with"),
    ],
)
def test_what_this_cluster_cannot_place_is_one_line_and_no_run(training, overrides, says):
    words = ["launch=slurm", "site=devcluster", "start=", "name=a", "placement.gpu_nodes=1", *overrides]
    done = training.acceerl("train", *words)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert says in line
    assert not training.run.exists()
