"""`acceerl stop`: through a real registry, by signal where there is none, and one line where nothing can be stopped."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from acceerl.config import from_dict
from acceerl.launch import leader
from acceerl.launch import stop as stopping
from acceerl.launch.cli import main
from acceerl.launch.leader import whoami
from acceerl.launch.stop import stop
from acceerl.launch.supervisor import supervise
from acceerl.runtime.registry import Registry
from acceerl.runtime.rundir import Run
from acceerl.runtime.stop import STOPPED, StopFlag


@pytest.fixture
def run(tmp_path):
    return Run.create(from_dict({"runs": str(tmp_path), "name": "blue"}))


def led(run, state="running", **changes):
    run.write_status({"state": state, "supervisor": whoami(), "last_checkpoint": "ckpt-7", **changes})


def supervisor_that_heeds(run, ends_as):
    """A real registry, and a thread that does what the supervisor does with it."""
    registry = Registry(run.path)

    def heed():
        deadline = time.monotonic() + 20
        while not registry.asked("stop") and time.monotonic() < deadline:
            time.sleep(0.01)
        led(run, ends_as, reason=registry.asked("stop"))

    thread = threading.Thread(target=heed, daemon=True)
    thread.start()
    return registry, thread


def test_a_running_run_is_asked_through_its_registry(run, capsys):
    led(run)
    registry, thread = supervisor_that_heeds(run, "stopped")
    assert stop(run.path) == 0
    thread.join(5)
    registry.wait_closed()
    assert f"stopped; last checkpoint: ckpt-7; to continue: acceerl train resume={run.path}" in capsys.readouterr().out
    assert run.status()["reason"].startswith("acceerl stop from ")


def test_a_run_that_was_done_first_is_no_failure(run, capsys):
    led(run)
    registry, _ = supervisor_that_heeds(run, "done")
    assert stop(run.path) == 0
    registry.wait_closed()
    assert "the training was done first" in capsys.readouterr().out


def test_a_run_that_failed_meanwhile_is_told(run, capsys):
    led(run)
    registry, _ = supervisor_that_heeds(run, "failed")
    assert stop(run.path) == 1
    registry.wait_closed()
    assert "ended otherwise (failed" in capsys.readouterr().err


def test_a_registry_that_does_not_answer_is_named_with_another_way(run, capsys, monkeypatch):
    monkeypatch.setattr(stopping, "ANSWER_S", 0.3)
    led(run)
    assert stop(run.path) == 1
    said = capsys.readouterr().err
    assert "does not answer" in said
    assert f"`kill -TERM {whoami()['pid']}` does the same" in said


def test_a_run_that_does_not_leave_is_not_waited_for_for_ever(run, capsys, monkeypatch):
    monkeypatch.setattr(stopping, "LATER_S", 0.1 - run.config().deadlines.drain)
    led(run, "draining")
    assert stop(run.path) == 1
    assert f"for {run.path} to leave" in capsys.readouterr().err


@pytest.mark.parametrize("state", ["done", "stopped", "failed"])
def test_what_does_not_run_cannot_be_stopped(run, state, capsys):
    led(run, state)
    assert main(["stop", str(run.path)]) == 2
    assert f"{run.path} is not running ({state}): there is nothing to stop" in capsys.readouterr().err


def test_neither_what_never_began_nor_what_is_lost(run, capsys):
    assert main(["stop", str(run.path)]) == 2
    assert "is not running (never started)" in capsys.readouterr().err
    led(run, supervisor={**whoami(), "time": 1.0})
    assert main(["stop", str(run.path)]) == 2
    assert "its supervisor is gone; to continue: acceerl train resume=" in capsys.readouterr().err


SCORER = """
import pathlib, signal, sys
from acceerl.runtime.rundir import Run
run = Run(pathlib.Path(sys.argv[1]))

def leave(*_):
    run.write_status({**run.status(), "state": "stopped"})
    sys.exit(75)

signal.signal(signal.SIGTERM, leave)
print("up", flush=True)
input()
"""


def test_while_scoring_the_process_itself_gets_sigterm(run, capsys):
    child = subprocess.Popen([sys.executable, "-c", SCORER, str(run.path)], stdin=-1, stdout=-1, text=True)
    assert child.stdout.readline() == "up\n"
    led(run, "scoring", reason="the policy before RL", supervisor={**whoami(), "pid": child.pid})
    assert stop(run.path) == 0
    assert child.wait(20) == 75
    said = capsys.readouterr().out
    assert f"is scoring the policy before RL: asking process {child.pid} to leave" in said
    child.communicate()


def test_a_leader_that_ends_between_two_looks_is_not_taken_for_lost(run, capsys, monkeypatch):
    """It writes its last status and ends after the status was read and before its process is looked for."""
    led(run, "draining")

    def ends_now(status):
        led(run, "stopped")

    monkeypatch.setattr(leader, "leader", ends_now)
    assert stopping._await_end(run) == 0
    assert "stopped; last checkpoint: ckpt-7" in capsys.readouterr().out


def test_scoring_elsewhere_names_the_machine(run, capsys):
    led(run, "scoring", supervisor={**whoami(), "host": "node9"})
    assert main(["stop", str(run.path)]) == 2
    assert f"has no supervisor to ask (scoring): run `acceerl stop {run.path}` on node9" in capsys.readouterr().err


def test_the_supervisor_drains_when_an_operator_asks(make_run, double):
    run, codes = make_run(), []

    def ask_once(progress):
        if progress.counters["updates"] >= 3 and not codes:
            codes.append(None)
            threading.Thread(target=lambda: codes.append(stop(run.path))).start()

    assert supervise(run, run.config(), ask_once, command=double(run), stop=StopFlag()) == STOPPED
    deadline = time.monotonic() + 20
    while len(codes) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert codes == [None, 0]
    status = run.status()
    assert (status["state"], status["last_checkpoint"][:7]) == ("stopped", "update_")
    assert status["reason"].startswith("acceerl stop from ")
