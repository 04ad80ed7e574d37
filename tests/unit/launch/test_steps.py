"""A supervisor that leads keeper steps: what their deaths, their silence and lost nodes do to a run."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from acceerl.launch import steps
from acceerl.launch.line import Line
from acceerl.launch.progress import Progress
from acceerl.launch.slurm_queue import Unanswered
from acceerl.launch.steps import Steps
from acceerl.launch.supervisor import Place, supervise
from acceerl.runtime.placement import rows
from acceerl.runtime.rundir import Run
from acceerl.runtime.stop import DONE, STOPPED, StopFlag
from acceerl.runtime.world import Allocation
from tests.unit.launch.test_supervisor import nothing, stop_at, wait_for

ALLOCATION = Allocation("7", 0, "gpu1", (("gpu1",), ("cpu1", "cpu2")))
CLUSTER: dict[str, Any] = {"launch": "slurm", "placement": {"cpu_nodes": 2, "gpus": 0}, "slurm": {"start": 10.0}}
DOUBLE = str(Path(__file__).with_name("step_double.py"))


def local(words: list[str], log: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    """The step without srun, on this machine."""
    arguments = words[words.index("acceerl.launch.step") + 1 :]
    with log.open("ab") as file:
        return subprocess.Popen([sys.executable, DOUBLE, *arguments], stdout=file, stderr=file, env=env)


@pytest.fixture
def cluster(make_run, monkeypatch) -> Callable[..., tuple[Run, Place, list[Steps]]]:
    """`cluster(start=..., rollout="crash")`: a run on three nodes that are all this machine."""
    monkeypatch.setattr(steps, "AGAIN_S", 0.1)

    def make(start=local, has=lambda job, node: True, changes=None, **script):
        run, made = make_run({**CLUSTER, **(changes or {})}, **script), []

        def hands(run, config, attempt, command):
            made.append(Steps(run, config, attempt, ALLOCATION, "127.0.0.1", start, has))
            return made[0]

        return run, Place("127.0.0.1", hands), made

    return make


def pid_of(run: Run, name: str) -> int:
    return int((run.path / f"step.{name}").read_text())


def states(run: Run) -> dict[tuple[str, int], tuple[str, str, int]]:
    return {(p["role"], p["index"]): (p["host"], p["state"], p["restarts"]) for p in run.status().get("processes", [])}


def all_up(run: Run) -> bool:
    rows = run.status().get("processes", [])
    return bool(rows) and all(row["pid"] for row in rows)


def test_processes_run_on_their_nodes_and_nothing_is_left(cluster):
    run, place, _ = cluster(learner="finish")
    assert supervise(run, run.config(), nothing, stop=StopFlag(), place=place) == DONE
    assert {key: host for key, (host, _, _) in states(run).items()} == {
        ("learner", 0): "gpu1", ("inference", 0): "gpu1", ("rollout", 0): "cpu1", ("rollout", 1): "cpu2",
    }  # fmt: skip
    names = ("learner.0.0", "inference.0.0", "rollout.1.0", "rollout.1.1")
    assert not any(psutil.pid_exists(pid_of(run, name)) for name in names)
    assert "rollout leaves with 75" in run.log(1, "rollout", 1).read_text()


def test_a_crash_is_restarted_by_the_supervisors_order(cluster, capfd):
    run, place, _ = cluster(rollout="crash_once")
    stop = StopFlag()
    assert supervise(run, run.config(), stop_at(5, stop, restarts=2), stop=stop, place=place) == STOPPED
    assert [states(run)["rollout", i][2] for i in range(2)] == [1, 1]
    assert "rollout[1] ended: exit code 3; restart 1 follows" in capfd.readouterr().err


def test_a_killed_step_takes_its_processes_along_and_both_come_back(cluster, capfd):
    run, place, _ = cluster()
    stop, killed = StopFlag(), []

    def kill_then_wait(progress: Progress) -> None:
        if not killed and progress.counters["updates"] > 3 and all_up(run):
            killed.append(pid_of(run, "rollout.1.0"))
            os.kill(killed[0], signal.SIGKILL)
        if progress.restarts and pid_of(run, "rollout.1.0") != killed[0] and states(run)["rollout", 0][1] == "running":
            stop.set("test")

    assert supervise(run, run.config(), kill_then_wait, stop=stop, place=place) == STOPPED
    said = capfd.readouterr().err
    assert "the keeper step of rollout on cpu1 ended" in said
    assert "rollout[0] ended: its keeper step on cpu1 ended; restart 1 follows" in said
    assert states(run)["learner", 0][2] == 0


def test_a_rollout_step_that_slurm_tells_to_leave_leaves_and_the_run_goes_on(cluster, capfd):
    run, place, made = cluster()
    stop, at = StopFlag(), []

    def tell(progress: Progress) -> None:
        if not at and progress.counters["updates"] > 3 and all_up(run):
            at.append(progress.counters["updates"])
            step = psutil.Process(pid_of(run, "rollout.1.1"))
            for process in [*step.children(recursive=True), step]:  # scancel signals all of a step
                process.terminate()
        if at and states(run)["rollout", 1][1] == "ended" and progress.counters["updates"] > at[0] + 5:
            stop.set("test")

    assert supervise(run, run.config(), tell, stop=stop, place=place) == STOPPED
    said = capfd.readouterr().err
    assert "rollout[1] was asked to leave" in said and "going on without it" in said
    assert states(run)["rollout", 0][2] == states(run)["rollout", 1][2] == 0
    assert run.status()["reason"] == "test"
    assert not made[0].interrupted, "nothing to requeue for"


def test_a_rollout_step_that_is_cancelled_leaves_and_the_run_goes_on(cluster, capfd):
    """scancel JOB+1.STEP: SIGKILL at once, and a line in srun's output."""
    run, place, made = cluster()
    stop, at = StopFlag(), []

    def cancel(progress: Progress) -> None:
        if not at and progress.counters["updates"] > 3 and all_up(run):
            at.append(progress.counters["updates"])
            with (run.logs(1) / "keeper.rollout.1.1.log").open("a") as log:
                log.write("slurmstepd-cpu2: error: *** STEP 8.2 ON cpu2 CANCELLED AT 2026-11-22T11:26:59 ***\n")
            os.kill(pid_of(run, "rollout.1.1"), signal.SIGKILL)
        if at and states(run)["rollout", 1][1] == "ended" and progress.counters["updates"] > at[0] + 60:
            stop.set("test")

    assert supervise(run, run.config(), cancel, stop=stop, place=place) == STOPPED
    assert "rollout[1] was asked to leave (its keeper step on cpu2 ended): going on" in capfd.readouterr().err
    assert states(run)["rollout", 1][2] == 0 and not made[0].interrupted
    assert made[0].of["rollout", 1].life == 1


def test_all_steps_told_is_a_preemption_and_ends_the_attempt_as_interrupted(cluster):
    run, place, made = cluster()
    told = []

    def tell(progress: Progress) -> None:
        if not told and progress.counters["updates"] > 3 and all_up(run):
            told.append(True)
            for name in ("rollout.1.0", "rollout.1.1", "inference.0.0", "learner.0.0"):
                step = psutil.Process(pid_of(run, name))
                for process in [*step.children(recursive=True), step]:
                    process.terminate()

    assert supervise(run, run.config(), tell, stop=StopFlag(), place=place) == STOPPED
    assert made[0].interrupted.startswith("Slurm sent signal SIGTERM to the step ")
    assert list(run.checkpoints.iterdir()), "the learner had the time to save"


def test_a_lost_node_costs_its_rollouts_only(cluster, capfd):
    has = {"cpu2": True}
    run, place, _ = cluster(has=lambda job, node: has.get(node, True))
    stop, at = StopFlag(), []

    def lose(progress: Progress) -> None:
        if not at and progress.counters["updates"] > 3 and all_up(run):
            at.append(progress.counters["updates"])
            has["cpu2"] = False
            os.kill(pid_of(run, "rollout.1.1"), signal.SIGKILL)
        if at and states(run)["rollout", 1][1] == "lost" and progress.counters["updates"] > at[0] + 5:
            stop.set("test")

    assert supervise(run, run.config(), lose, stop=stop, place=place) == STOPPED
    assert "node cpu2 is lost: going on without rollout[1]" in capfd.readouterr().err
    assert states(run)["rollout", 0][2] == 0


def test_a_supervisor_that_nobody_hears_leaves_the_status_to_the_next_attempt(cluster, capfd):
    """Neither the steps on other nodes nor Slurm answer: it is this node that was cut off."""

    def has(job: str, node: str) -> bool:
        raise Unanswered("scontrol did not answer within 5 s")

    run, place, made = cluster(has=has, start=once_elsewhere())
    cut = []

    def pull(progress: Progress) -> None:
        if not cut and progress.counters["updates"] > 3 and all_up(run):
            cut.append(True)
            for name in ("rollout.1.0", "rollout.1.1"):
                os.kill(pid_of(run, name), signal.SIGKILL)

    assert supervise(run, run.config(), pull, stop=StopFlag(), place=place) == 1
    assert made[0].cut_off().startswith("neither Slurm nor a step on another node answers gpu1")
    assert run.status()["state"] == "running", "not failed: the next attempt may run already"
    assert not psutil.pid_exists(pid_of(run, "learner.0.0"))


def once_elsewhere() -> Callable[..., subprocess.Popen[bytes]]:
    """Steps of other nodes come up once."""
    tried: set[str] = set()

    def start(given: list[str], log: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
        [node] = [word for word in given if word.startswith("--nodelist")]
        again = node in tried and "cpu" in node
        tried.add(node)
        return broken("cpu", ["sleep", "60"])([*given, "--nodelist=cpu"] if again else given, log, env)

    return start


def test_a_lost_learner_node_ends_the_attempt_as_interrupted(cluster, capfd):
    run, place, made = cluster(has=lambda job, node: node != "gpu1")
    killed = []

    def lose(progress: Progress) -> None:
        if not killed and progress.counters["updates"] > 3:
            killed.append(True)
            os.kill(pid_of(run, "learner.0.0"), signal.SIGKILL)

    assert supervise(run, run.config(), lose, stop=StopFlag(), place=place) == 1
    assert made[0].interrupted == run.status()["error"] == "node gpu1 is lost"


def broken(which: str, words: list[str]) -> Callable[..., subprocess.Popen[bytes]]:
    def start(given: list[str], log: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
        if f"--nodelist={which}" not in given:
            return local(given, log, env)
        with log.open("ab") as file:
            return subprocess.Popen(words, stdout=file, stderr=file)

    return start


def test_a_step_that_srun_refuses_is_named_with_sruns_words(cluster, capfd):
    run, place, made = cluster(start=broken("gpu1", ["sh", "-c", "echo 'srun: error: no such node'; exit 3"]))
    assert supervise(run, run.config(), nothing, stop=StopFlag(), place=place) == 1
    assert (
        "error: learner on gpu1 did not start (srun left with 3): srun: error: no such node" in capfd.readouterr().err
    )
    assert run.status()["state"] == "failed"
    assert not made[0].interrupted, "another attempt would end like this one"


def test_a_folder_that_a_node_does_not_see_is_named(tmp_path, capfd, monkeypatch):
    from acceerl.launch import step

    monkeypatch.setenv("SLURMD_NODENAME", "cpu7")
    assert step.main(str(tmp_path / "a"), "rollout.1.0", 1, 1) == 2
    assert "is not visible on cpu7: runs= must name a folder that all nodes share" in capfd.readouterr().out


def test_a_step_that_does_not_come_up_has_a_deadline(cluster, capfd):
    slow = broken(
        "cpu2", ["sh", "-c", "echo 'srun: Job 7 step creation temporarily disabled, retrying'; exec sleep 60"]
    )
    run, place, _ = cluster(start=slow, changes={"slurm": {"start": 3.0}})
    stop = StopFlag()

    def until_lost(progress: Progress) -> None:
        if states(run).get(("rollout", 1), ("", "", 0))[1] == "lost" and progress.counters["updates"]:
            stop.set("test")

    assert supervise(run, run.config(), until_lost, stop=stop, place=place) == STOPPED
    said = capfd.readouterr().err
    assert "rollout on cpu2 did not start (not within 3 s): srun: Job 7 step creation temporarily disabled" in said
    assert "going on without rollout[1]" in said


def test_a_step_without_its_supervisor_ends_its_processes(cluster):
    run, _, _ = cluster()
    alone = Steps(run, run.config(), 1, ALLOCATION, "127.0.0.1", local, lambda job, node: True)
    run.logs(1).mkdir(parents=True)
    (run.path / "registry.json").write_text('{"host": "127.0.0.1", "port": 9, "token": ""}')
    keys = list(alone.of)
    wait_for(lambda: not alone.ends() and all(alone.ready(key) for key in keys), 20, "the steps")
    [row] = [row for row in rows(run.config()) if row.role == "rollout"]
    alone.start(("rollout", 0), row, 1)
    wait_for(lambda: not alone.ends() and alone.pid(("rollout", 0)) > 0, 10, "the process")
    process = psutil.Process(alone.pid(("rollout", 0)))
    for step in alone.steps:
        assert step.line is not None
        step.line.close()
    wait_for(lambda: not process.is_running() or process.status() == "zombie", 15, "its end")
    alone.close([], 10.0)


def test_a_stranger_is_not_let_in(cluster):
    run, _, _ = cluster()
    alone = Steps(run, run.config(), 1, ALLOCATION, "127.0.0.1", broken("", []), lambda job, node: True)
    step = alone.steps[0]
    step.life = 1
    for hello in ({"hello": step.share.name, "life": 1, "token": "guessed"},
                  {"hello": step.share.name, "life": 0, "token": alone._where["token"]}):  # fmt: skip
        line = Line(socket.create_connection(("127.0.0.1", alone._where["port"])))
        line.send(**hello)
        wait_for(lambda line=line: not alone._let_in() and not line.receive() and line.lost, 5, "the refusal")
        assert step.line is None
    alone._reception.close()
