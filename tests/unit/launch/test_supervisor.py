"""What ends a run and what does not: restarts, silence, crash loops, signals and the supervisor's own death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from acceerl.launch.lives import Child
from acceerl.launch.progress import Progress
from acceerl.launch.supervisor import Supervisor, supervise
from acceerl.runtime.placement import Row
from acceerl.runtime.rundir import Run
from acceerl.runtime.stop import DONE, STOPPED, StopFlag


def nothing(progress: Progress) -> None:
    return


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.05)


def stop_at(updates: int, stop: StopFlag, restarts: int = 0) -> Callable[[Progress], None]:
    return lambda p: stop.set("test") if p.counters["updates"] >= updates and p.restarts >= restarts else None


def test_a_learner_that_is_done_ends_the_run_with_0(make_run, double):
    run = make_run(learner="finish")
    assert supervise(run, run.config(), nothing, command=double(run), stop=StopFlag()) == DONE
    status = run.status()
    assert (status["state"], status["attempt"], status["last_checkpoint"]) == ("done", 1, "update_5")
    assert not any(p["running"] for p in status["processes"])
    assert status["counters"]["updates"] == 5
    assert status["counters"]["env_steps"] > 0
    assert "rollout leaves with 75" in run.log(1, "rollout", 1).read_text()
    assert list(run.tensorboard.iterdir())


def test_a_process_that_waits_for_its_first_hands_is_starting():
    hands = SimpleNamespace(lost=lambda key: False)
    lead = SimpleNamespace(keeper=SimpleNamespace(hands=hands, closing=False))
    child = Child(Row("rollout", 1, 1), 0)
    assert Supervisor._state_of(lead, child, False) == "starting"
    child.again(after=1.0)
    assert Supervisor._state_of(lead, child, False) == "restarting"


def test_a_crash_is_restarted_and_training_goes_on(make_run, double, capfd):
    run, stop = make_run(rollout="crash_once"), StopFlag()
    assert supervise(run, run.config(), stop_at(5, stop, restarts=2), command=double(run), stop=stop) == STOPPED
    restarts = {(p["role"], p["index"]): p["restarts"] for p in run.status()["processes"]}
    assert restarts == {("learner", 0): 0, ("inference", 0): 0, ("rollout", 0): 1, ("rollout", 1): 1}
    assert "rollout[1] ended: exit code 3; restart 1 follows" in capfd.readouterr().err


def test_a_rollout_that_is_asked_to_leave_is_spared_and_the_last_one_ends_the_run(make_run, double, capfd):
    run, asked = make_run(), []

    def ask_one_after_the_other(progress: Progress) -> None:
        rows = {p["index"]: p for p in run.status().get("processes", []) if p["role"] == "rollout" and p["pid"]}
        if progress.counters["updates"] >= 5 * (1 + len(asked)) and (left := rows.keys() - set(asked)):
            asked.append(min(left))
            os.kill(rows[asked[-1]]["pid"], signal.SIGTERM)

    assert supervise(run, run.config(), ask_one_after_the_other, command=double(run), stop=StopFlag()) == STOPPED
    said = capfd.readouterr().err
    assert "rollout[0] was asked to leave (exit code 75): going on without it" in said
    assert run.status()["reason"] == "rollout[1] was asked to stop"
    assert asked == [0, 1] and not any(p["restarts"] for p in run.status()["processes"])
    assert run.status()["counters"]["updates"] >= 10


def test_a_learner_that_is_asked_to_leave_ends_the_run(make_run, double):
    run, asked = make_run(), []

    def ask(progress: Progress) -> None:
        pids = [p["pid"] for p in run.status().get("processes", []) if p["role"] == "learner"]
        if progress.counters["updates"] >= 3 and any(pids) and not asked:
            asked.append(pids[0])
            os.kill(pids[0], signal.SIGTERM)

    assert supervise(run, run.config(), ask, command=double(run), stop=StopFlag()) == STOPPED
    assert run.status()["reason"] == "learner[0] was asked to stop"


def test_a_crash_loop_ends_the_run_with_the_role_its_code_and_its_last_words(make_run, double, capfd):
    run = make_run(inference="crash")
    assert supervise(run, run.config(), nothing, command=double(run), stop=StopFlag()) == 1
    said = capfd.readouterr().err
    assert "error: inference[0] crashed 4 times within 20 s, last with exit code 3" in said
    assert "  inference says: the simulator broke" in said
    assert run.status()["state"] == "failed"
    assert run.status()["error"].endswith("inference says: the simulator broke")
    assert (run.path / "lives.inference.0").read_text() == "xxxx"
    assert list(run.checkpoints.iterdir())  # the learner was asked to leave properly


TWO_RANKS = {"learner": {"ranks": 2}, "rollout": {"processes": 1}}


def lives(run: Run) -> list[int]:
    """How often each learner rank was started."""
    return [len((run.path / f"lives.learner.{rank}").read_text()) for rank in range(2)]


def until_restarted(run: Run, stop: StopFlag) -> Callable[[Progress], None]:
    return lambda p: stop.set("test") if p.restarts and lives(run) == [2, 2] and p.counters["updates"] else None


@pytest.mark.parametrize(
    "script",
    [
        {"learner.1": "crash_once"},
        {"learner.0": "lose_once", "learner.1": "die_late_once"},  # the survivor notices before the keeper does
        {"learner.0": "lose_once", "learner.1": "deaf"},  # it hangs: ended, and to blame
    ],
)
def test_a_learner_rank_that_dies_restarts_all_of_them_and_is_named(make_run, double, capfd, script):
    run, stop = make_run(TWO_RANKS, **script), StopFlag()
    assert supervise(run, run.config(), until_restarted(run, stop), command=double(run), stop=stop) == STOPPED
    restarts = {(p["role"], p["index"]): p["restarts"] for p in run.status()["processes"]}
    assert restarts == {("learner", 0): 1, ("learner", 1): 1, ("inference", 0): 0, ("rollout", 0): 0}
    said = capfd.readouterr().err
    assert "learner[1] ended: " in said
    assert "learner[0] ended: cannot go on without learner[1]; restart 1 follows" in said


def test_a_crash_loop_of_one_rank_is_its_own(make_run, double, capfd):
    run = make_run(TWO_RANKS, **{"learner.1": "crash"})
    assert supervise(run, run.config(), nothing, command=double(run), stop=StopFlag()) == 1
    said = capfd.readouterr().err
    assert "error: learner[1] crashed 4 times within 20 s, last with exit code 3" in said
    assert lives(run)[1] == 4


def test_ranks_that_are_done_are_not_started_again(make_run, double):
    run = make_run(TWO_RANKS, learner="finish")
    assert supervise(run, run.config(), nothing, command=double(run), stop=StopFlag()) == DONE
    assert lives(run) == [1, 1]


def test_a_rank_that_leaves_first_does_not_end_the_run(make_run, double):
    run, stop = make_run(TWO_RANKS, **{"learner.1": "finish"}), StopFlag()
    assert supervise(run, run.config(), stop_at(20, stop), command=double(run), stop=stop) == STOPPED
    assert lives(run) == [1, 1]


def test_a_silent_process_is_named_killed_and_replaced(make_run, double, capfd):
    deadlines = {"drain": 3.0, "heartbeat": 1.0, "connect": 5.0}
    run, stop = make_run({"deadlines": deadlines, "rollout": {"processes": 1}}, rollout="mute"), StopFlag()

    def stop_when_replaced(progress: Progress) -> None:
        if progress.restarts and (run.path / "lives.rollout.0").read_text() == "xx":
            stop.set("test")

    assert supervise(run, run.config(), stop_when_replaced, command=double(run), stop=stop) == STOPPED
    assert "for a life sign of rollout[0] (process " in capfd.readouterr().err


def test_whoever_does_not_leave_within_the_drain_deadline_is_killed_and_named(make_run, double, capfd):
    run = make_run({"deadlines": {"drain": 1.0}}, learner="finish", rollout="deaf")
    assert supervise(run, run.config(), nothing, command=double(run), stop=StopFlag()) == DONE
    assert "waited 1 s (deadlines.drain) for rollout[0], rollout[1] to leave: killing" in capfd.readouterr().err


def test_a_resumed_run_goes_on_counting(make_run, double):
    run = make_run()
    for _ in range(2):
        stop = StopFlag()
        assert supervise(run, run.config(), stop_at(3, stop), command=double(run), stop=stop) == STOPPED
        counted = run.status()["counters"]["env_steps"]
    assert run.status()["attempt"] == 2
    assert counted > 8 * 3 * 2


def test_the_status_tells_of_every_process_what_a_table_needs(make_run, double):
    run, stop, seen = make_run(), StopFlag(), []

    def look(progress: Progress) -> None:
        status = run.status()
        seen.extend([status] if status.get("state") == "running" else [])
        if seen and all(p["rate"] for p in seen[-1]["processes"]):
            stop.set("test")

    supervise(run, run.config(), look, command=double(run), stop=stop)
    last = seen[-1]
    assert last["began"] <= last["supervisor"]["time"]
    rows = {(p["role"], p["index"]): p for p in last["processes"]}
    rollout, learner = rows["rollout", 1], rows["learner", 0]
    assert (learner["of"], rollout["of"], rollout["state"]) == ("updates", "env_steps", "running")
    assert rollout["host"]
    assert rollout["age"] >= 0
    assert {p["state"] for p in seen[0]["processes"]} == {"starting"}
    assert {p["state"] for p in run.status()["processes"]} == {"ended"}


def test_every_part_is_closed_even_when_others_cannot(make_run, double, monkeypatch):
    run = make_run()
    supervisor = Supervisor(run, run.config(), nothing, double(run), StopFlag())
    supervisor.keeper.poll()
    children = list(supervisor.keeper.hands.popen.values())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Run, "write_status", full)
    monkeypatch.setattr(supervisor.tensorboard, "close", full)
    with pytest.raises(OSError, match="No space left"):
        supervisor.close()
    assert children and all(child.poll() is not None for child in children)
    assert not supervisor.registry._thread.is_alive()
    assert not (run.path / "registry.json").exists()


def start_lead(run: Run) -> subprocess.Popen[bytes]:
    lead = subprocess.Popen([sys.executable, str(Path(__file__).with_name("lead.py")), str(run.path)])
    ready = lambda: all(p["pid"] for p in run.status().get("processes", [])) and run.status()["counters"]["updates"] > 0  # noqa: E731
    wait_for(lambda: bool(run.status()) and ready(), 20, "every process to announce itself")
    return lead


@pytest.mark.mpi
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_signals_checkpoint_and_leave_with_75_however_often_they_come(make_run, number):
    run = make_run()
    lead = start_lead(run)
    for _ in range(3):
        os.kill(lead.pid, number)
        time.sleep(0.05)
    assert lead.wait(10) == STOPPED
    assert run.status()["state"] == "stopped"
    assert run.status()["last_checkpoint"].startswith("update_")


@pytest.mark.mpi
def test_nothing_survives_a_sigkilled_supervisor(make_run):
    run = make_run()
    lead = start_lead(run)
    family = psutil.Process(lead.pid).children(recursive=True)
    assert len(family) >= 4 * 3  # mpiexec, its proxy and the process, for each of four
    lead.kill()
    lead.wait()
    wait_for(lambda: not any(p.is_running() and p.status() != "zombie" for p in family), 10, "the family to end")


@pytest.mark.mpi
def test_a_sigkill_of_any_process_is_survived(make_run):
    run = make_run()
    lead = start_lead(run)
    pids = {(p["role"], p["index"]): p["pid"] for p in run.status()["processes"]}
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: all(p["restarts"] == 1 and p["running"] for p in run.status()["processes"]), 15, "restarts")
    os.kill(lead.pid, signal.SIGTERM)
    assert lead.wait(15) == STOPPED
    assert "Killed (signal 9)" in run.log(1, "rollout", 0).read_text()


def around(run: Run, role: str) -> list[psutil.Process]:
    """mpiexec's proxy and mpiexec around a role's process 0."""
    [pid] = [p["pid"] for p in run.status()["processes"] if (p["role"], p["index"]) == (role, 0)]
    return psutil.Process(pid).parents()[:2]


@pytest.mark.mpi
@pytest.mark.parametrize("which", [0, 1])
def test_a_stopped_mpiexec_or_proxy_is_named_and_replaced_with_its_process(make_run, capfd, which):
    run = make_run({"deadlines": {"drain": 3.0, "heartbeat": 2.0, "connect": 5.0}})
    lead = start_lead(run)
    family = around(run, "rollout")
    family[which].suspend()
    wait_for(lambda: any(p["restarts"] and p["pid"] for p in run.status()["processes"]), 20, "the replacement")
    assert not any(p.is_running() and p.status() != "zombie" for p in family)
    os.kill(lead.pid, signal.SIGTERM)
    assert lead.wait(15) == STOPPED
    said = capfd.readouterr().err
    assert f"(process {family[which].pid}) around rollout[0] has been stopped for 2 s: killing both" in said


@pytest.mark.mpi
def test_a_supervisor_that_was_stopped_itself_kills_nobody_for_it(make_run, capfd):
    run = make_run({"deadlines": {"drain": 3.0, "heartbeat": 2.0, "connect": 5.0}})
    lead = start_lead(run)
    os.kill(lead.pid, signal.SIGSTOP)
    time.sleep(4)  # twice as long as anyone may be silent
    os.kill(lead.pid, signal.SIGCONT)
    before = run.status()["supervisor"]["time"]
    wait_for(lambda: run.status()["supervisor"]["time"] > before + 3, 20, "the supervisor to look again for a while")
    os.kill(lead.pid, signal.SIGTERM)
    assert lead.wait(15) == STOPPED
    assert not any(p["restarts"] for p in run.status()["processes"])
    assert "life sign" not in capfd.readouterr().err
