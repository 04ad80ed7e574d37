"""Rollouts that join from outside: seen while they are here, missed by nobody when they go, gone with the run."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from acceerl.launch import guests, join
from acceerl.launch.guests import Guests
from acceerl.launch.leader import whoami
from acceerl.launch.progress import Progress
from acceerl.launch.supervisor import supervise
from acceerl.runtime.registry_client import REGISTRY
from acceerl.runtime.rundir import Run
from acceerl.runtime.stop import DONE, STOPPED, StopFlag

OPTIONS = {"processes": "2", "nodes": "1", "launch": "", "minutes": "", "partition": ""}


class Hosted:
    """A keeper of two guests in a thread, beside a supervisor in the main one; `code` is how it ended."""

    def __init__(self, run: Run, command: Any) -> None:
        self.run, self.stop, self.code = run, StopFlag(), None
        self.guests = Guests(run, 2, self.stop, patience=10.0, command=command)
        self.thread = threading.Thread(target=self._stay, daemon=True)
        self.thread.start()

    def _stay(self) -> None:
        self.code = self.guests.stay()

    @property
    def here(self) -> dict[int, int]:
        """{index: process id} of the guests in status.json."""
        return {p["index"]: p["pid"] for p in self.run.status().get("processes", []) if p.get("joined")}


@pytest.fixture
def host(monkeypatch) -> Callable[..., Hosted]:
    monkeypatch.setattr(guests, "SETTLED_S", 0.2)
    monkeypatch.setenv(REGISTRY, "{}")  # what a keeper leaves there is undone
    return Hosted


def acts(stop: StopFlag, *steps: Callable[[], object]) -> Callable[[Progress], None]:
    """At each look the next step, again and again until it is true; then the run is told to stop."""
    left = list(steps)

    def look(progress: Progress) -> None:
        if left and left[0]():
            del left[0]
        if not left or progress.counters["updates"] > 400:
            stop.set("test")

    return look


def led(run: Run, double: Any, *steps: Callable[[], object]) -> int:
    stop = StopFlag()
    return supervise(run, run.config(), acts(stop, *steps), command=double(run), stop=stop)


def test_guests_get_places_behind_the_rollouts_and_vanish_without_harm(make_run, double, host):
    run = make_run()
    hosted, seen = host(run, double(run)), []

    def came() -> bool:
        if hosted.here and set(hosted.here) == {2, 3}:
            seen.append(run.status())
            hosted.stop.set("test")
        return bool(seen)

    assert led(run, double, came, lambda: not hosted.here, lambda: hosted.code is not None) == STOPPED
    assert hosted.code == STOPPED
    assert seen[0]["state"] == "running" and run.status()["error"] == ""
    assert {(p["role"], p["index"]) for p in run.status()["processes"]} == {
        ("learner", 0), ("inference", 0), ("rollout", 0), ("rollout", 1)}  # fmt: skip
    assert not any(p["restarts"] for p in run.status()["processes"])
    assert run.log(1, "rollout", 3).is_file()


def test_guests_that_are_asked_to_stop_do_not_drain_the_training(make_run, double, host):
    run = make_run()
    hosted = host(run, double(run))

    def told() -> bool:
        if len(hosted.here) == 2 and all(hosted.here.values()):
            for pid in hosted.here.values():
                os.kill(pid, signal.SIGTERM)
            return True
        return False

    still_running: list[str] = []
    assert led(run, double, told, lambda: hosted.code is not None,
               lambda: still_running.append(run.status()["state"]) or True) == STOPPED  # fmt: skip
    assert hosted.code == STOPPED
    assert still_running == ["running"]
    assert run.status()["reason"] == "test"


def test_guests_leave_with_the_run(make_run, double, host):
    run = make_run()
    hosted = host(run, double(run))
    assert led(run, double, lambda: len(hosted.here) == 2) == STOPPED
    hosted.thread.join(40)
    assert hosted.code == DONE
    assert hosted.guests.over, "they were asked to leave"


def test_a_crash_loop_of_guests_is_theirs_alone(make_run, double, host, capfd):
    run = make_run(**{"rollout.2": "crash", "rollout.3": "crash_once"})
    hosted = host(run, double(run))
    assert led(run, double, lambda: hosted.code is not None) == STOPPED
    assert hosted.code == 1
    said = capfd.readouterr().err
    assert "rollout[2] crashed again and again" in said and "the simulator broke" in said
    assert run.status()["error"] == ""


def test_two_keepers_never_share_a_place(make_run, double, host):
    run = make_run()
    first, second = host(run, double(run)), host(run, double(run))
    assert led(run, double, lambda: len(first.here) == 4) == STOPPED
    assert all(run.log(1, "rollout", i).is_file() for i in range(6))
    for hosted in (first, second):
        hosted.thread.join(40)
        assert hosted.code == DONE


@pytest.fixture
def idle(make_run) -> Run:
    run = make_run()
    run.write_status({"state": "running", "supervisor": whoami()})
    return run


def refused(run: Run, **options: str) -> str:
    with pytest.raises(ValueError) as caught:
        join.command([str(run.path)], {**OPTIONS, **options})
    return str(caught.value)


@pytest.mark.parametrize("state", ["done", "stopped", "queued"])
def test_a_run_that_is_not_running_has_nothing_to_join(idle, state):
    idle.write_status({"state": state, "supervisor": whoami()})
    assert f"is not running ({state}): there is nothing to join" in refused(idle)


def test_wrong_options_are_named(idle):
    assert "processes=none: give a whole number, at least 1" in refused(idle, processes="none")
    assert "launch=cloud: choose local or slurm" in refused(idle, launch="cloud")
    assert "minutes= is for launch=slurm" in refused(idle, minutes="5")


def test_a_registry_out_of_reach_is_named_with_its_address(idle, monkeypatch):
    monkeypatch.setattr(guests, "ANSWER_S", 0.1)
    monkeypatch.setenv(REGISTRY, "{}")
    (idle.path / "registry.json").write_text(json.dumps({"host": "127.0.0.1", "port": 9, "token": "x"}))
    said = refused(idle)
    assert "cannot be joined: its registry at 127.0.0.1:9 is not reachable" in said
    assert "runs with launch=local, which other nodes cannot reach" in refused(idle, launch="slurm")


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"channels": "inline"}, "has channels=inline, which takes no guests"),
     ({"schedule": "sync"}, "has schedule=sync, which waits for all rollouts")],
)  # fmt: skip
def test_trainings_that_cannot_have_guests_say_so(make_run, changes, says):
    run = make_run(changes)
    run.write_status({"state": "running", "supervisor": whoami()})
    assert says in refused(run)


def test_without_slurm_a_job_is_refused_in_one_line(idle, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert "no Slurm on this machine" in refused(idle, launch="slurm")
