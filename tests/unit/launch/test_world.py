"""A supervisor that leads a world: one launcher for all ranks, and what the death of one does to the others."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest

from acceerl.launch import srun, world
from acceerl.launch.progress import Progress
from acceerl.launch.slurm_queue import Unanswered
from acceerl.launch.supervisor import Place, supervise
from acceerl.launch.world import World, of_this_machine
from acceerl.runtime.rundir import Run
from acceerl.runtime.stop import DONE, STOPPED, StopFlag
from tests.unit.launch.test_supervisor import nothing, stop_at

DOUBLE = str(Path(__file__).with_name("rank_double.py"))
ALL = [("learner", 0), ("inference", 0), ("rollout", 0), ("rollout", 1)]


def doubled(words: Sequence[str], log: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    """A real mpiexec, over ranks whose processes are doubles."""
    at = list(words).index("-m")
    return srun.popen([*words[:at], DOUBLE, *words[at + 2 :]], log, env)


@pytest.fixture
def made_world(make_run, monkeypatch) -> Callable[..., tuple[Run, Place, list[World]]]:
    """`made_world(rollout="crash_once")`: a run with `channels=world` on this machine."""
    monkeypatch.setattr(world, "AGAIN_S", 0.1)

    def make(start=doubled, lost_node=lambda: "", changes=None, **script):
        run, made = make_run({"channels": "world", **(changes or {})}, **script), []

        def hands(run, config, attempt, command):
            made.append(of_this_machine(run, config, attempt, command))
            made[0]._start_process, made[0].lost_node = start, lost_node
            return made[0]

        return run, Place("127.0.0.1", hands), made

    return make


def restarts(run: Run) -> dict[tuple[str, int], int]:
    return {(row["role"], row["index"]): row["restarts"] for row in run.status()["processes"]}


def pid_of_rank(run: Run, role: str, index: int) -> int:
    return int((run.path / f"rank.{role}.{index}").read_text())


def test_a_world_ends_in_good_order_and_leaves_nothing(made_world):
    run, place, made = made_world(learner="finish")
    assert supervise(run, run.config(), nothing, stop=StopFlag(), place=place) == DONE
    assert run.status()["state"] == "done" and made[0].life == 1
    assert "rollout leaves with 75" in run.log(1, "rollout", 1).read_text()
    assert not any(psutil.pid_exists(pid_of_rank(run, *key)) for key in ALL)


def test_a_crash_starts_all_again_and_is_blamed_on_one(made_world, capfd):
    run, place, made = made_world(**{"rollout.1": "die_late_once"})
    stop = StopFlag()

    def until_all_again(progress: Progress) -> None:
        if progress.restarts == len(ALL) and progress.counters["updates"] > 20:
            stop.set("test")

    assert supervise(run, run.config(), until_all_again, stop=stop, place=place) == STOPPED
    said = capfd.readouterr().err
    assert "rollout[1] ended: exit code 3; restart 1 follows" in said
    assert "learner[0] ended: cannot go on without rollout[1]; restart 1 follows" in said
    assert restarts(run) == dict.fromkeys(ALL, 1) and made[0].life == 2


def test_a_killed_rank_takes_the_world_along_and_all_come_back(made_world, capfd):
    run, place, made = made_world()
    stop, killed = StopFlag(), []

    def kill_one(progress: Progress) -> None:
        if not killed and progress.counters["updates"] > 3:
            killed.append(pid_of_rank(run, "inference", 0))
            os.kill(killed[0], signal.SIGKILL)
        if killed and progress.restarts == len(ALL) and progress.counters["updates"] > 5:
            stop.set("test")

    assert supervise(run, run.config(), kill_one, stop=stop, place=place) == STOPPED
    assert "the world ended: " in capfd.readouterr().err
    assert restarts(run) == dict.fromkeys(ALL, 1) and made[0].life == 2


def test_a_crash_loop_ends_the_run_with_the_words_of_the_guilty(made_world, capfd):
    run, place, _ = made_world(**{"rollout.0": "crash"})
    assert supervise(run, run.config(), nothing, stop=StopFlag(), place=place) == 1
    assert "rollout[0] crashed 4 times" in run.status()["error"]
    assert "the simulator broke" in capfd.readouterr().err


def test_a_process_that_cannot_be_helped_ends_the_run_at_once(made_world):
    run, place, made = made_world(inference="misfit")
    assert supervise(run, run.config(), nothing, stop=StopFlag(), place=place) == 1
    assert run.status()["error"] == "inference[0]: acceerl: error: the world is too small"
    assert made[0].life == 1


def test_a_launcher_that_fails_is_named_with_its_words(made_world):
    def broken(words, log, env):
        return srun.popen(["sh", "-c", "echo 'srun: error: invalid MPI plugin'; exit 1"], log, env)

    run, place, made = made_world(start=broken)
    assert supervise(run, run.config(), nothing, stop=StopFlag(), place=place) == 1
    error = run.status()["error"]
    assert error.startswith("the world did not start (its launcher left with 1): srun: error: invalid MPI plugin")
    assert made[0].life == world.TRIES


def test_a_world_that_does_not_come_up_has_a_deadline(made_world, monkeypatch):
    monkeypatch.setattr(world, "TRIES", 1)
    monkeypatch.setattr(world, "ENDING_S", 0.2)

    def slow(words, log, env):
        return srun.popen(["sh", "-c", "echo 'srun: waiting'; exec sleep 60"], log, env)

    run, place, _ = made_world(start=slow, changes={"slurm": {"start": 1.0}})
    assert supervise(run, run.config(), nothing, stop=StopFlag(), place=place) == 1
    assert "the world did not start" in run.status()["error"] and "srun: waiting" in run.status()["error"]


def test_a_lost_node_ends_the_attempt_as_interrupted(made_world):
    run, place, made = made_world(lost_node=lambda: "node cpu2 is lost")
    killed = []

    def kill_one(progress: Progress) -> None:
        if not killed and progress.counters["updates"] > 3:
            killed.append(True)
            os.kill(pid_of_rank(run, "rollout", 1), signal.SIGKILL)

    assert supervise(run, run.config(), kill_one, stop=StopFlag(), place=place) == 1
    assert made[0].interrupted == run.status()["error"] == "node cpu2 is lost"


def test_a_supervisor_that_nobody_hears_leaves_the_status_to_the_next_attempt(made_world):
    def nobody() -> str:
        raise Unanswered("scontrol did not answer within 5 s")

    run, place, made = made_world(lost_node=nobody)
    killed = []

    def kill_one(progress: Progress) -> None:
        if not killed and progress.counters["updates"] > 3:
            killed.append(True)
            os.kill(pid_of_rank(run, "rollout", 1), signal.SIGKILL)

    assert supervise(run, run.config(), kill_one, stop=StopFlag(), place=place) == 1
    assert made[0].cut_off().startswith("neither Slurm nor any rank answers")
    assert run.status()["state"] == "running", "not failed: the next attempt may run already"


def test_the_supervisors_request_stops_all(made_world):
    run, place, made = made_world()
    stop = StopFlag()
    assert supervise(run, run.config(), stop_at(5, stop), stop=stop, place=place) == STOPPED
    assert restarts(run) == dict.fromkeys(ALL, 0) and made[0].life == 1
