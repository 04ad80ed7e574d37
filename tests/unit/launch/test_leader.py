"""Who leads a run: the lock, and what a reader concludes from a status on this machine and on another one."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from acceerl.config import from_dict
from acceerl.launch import leader
from acceerl.launch.leader import SignsOfLife, age, is_led, refuse_led, sole_leader, state_of, whoami
from acceerl.runtime.rundir import Run


@pytest.fixture
def run(tmp_path):
    return Run.create(from_dict({"runs": str(tmp_path), "name": "blue"}))


@pytest.fixture
def ended_pid():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait(20)
    return child.pid


def status(state="running", **owner):
    return {"state": state, "supervisor": {**whoami(), **owner}}


@pytest.mark.parametrize("state", ["starting", "scoring", "running", "draining"])
def test_a_run_whose_leader_lives_is_led_however_old_its_status(state):
    written = status(state, time=time.time() + 1)
    assert is_led(written)
    assert state_of(written) == state


def test_a_run_whose_leader_is_gone_is_lost_at_once(ended_pid):
    assert state_of(status(pid=ended_pid)) == "lost"


def test_a_process_that_got_the_leaders_id_later_is_not_the_leader():
    assert state_of(status(time=1.0)) == "lost"  # this process began after 1970


def test_a_run_elsewhere_is_lost_when_its_status_is_stale():
    assert state_of(status(host="elsewhere")) == "running"
    assert state_of(status(host="elsewhere", time=time.time() - leader.STALE_S - 1)) == "lost"


@pytest.mark.parametrize("state", ["done", "stopped", "failed"])
def test_an_ended_run_is_never_lost(state, ended_pid):
    assert state_of(status(state, pid=ended_pid)) == state
    assert not is_led(status(state))


def test_a_status_without_a_leader_is_no_error():
    assert state_of({"state": "running"}) == "lost"
    assert state_of({}) == "unknown"


def test_a_run_on_another_machine_is_refused_with_its_name(run):
    run.write_status(status(host="elsewhere", pid=7, time=time.time() - 3))
    with pytest.raises(ValueError, match=r"is running \(process 7 on elsewhere, heard of 3 s ago\): stop it first"):
        refuse_led(run)


def test_only_one_process_leads(run):
    hold = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True)"
    other = subprocess.Popen([sys.executable, "-c", f"{hold}; input()", run.lock_file], stdin=-1, stdout=-1, text=True)
    assert other.stdout.readline() == "held\n"
    run.write_status(status(pid=other.pid))
    with pytest.raises(ValueError, match=rf"is running \(process {other.pid}\)"), sole_leader(run):
        raise AssertionError("two leaders")
    other.kill()
    other.communicate(timeout=20)
    with sole_leader(run):  # the kernel gave the lock back
        assert run.lock_file.exists()


def test_a_requeued_attempt_waits_for_the_lock_of_the_one_before(run):
    hold = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True)"
    words = [sys.executable, "-c", f"{hold}; import time; time.sleep(1)", run.lock_file]
    other = subprocess.Popen(words, stdout=-1, text=True)
    assert other.stdout.readline() == "held\n"
    with sole_leader(run, patience=20):
        assert other.wait(20) == 0


def test_signs_of_life_renew_the_status_and_keep_its_counters(run, monkeypatch):
    monkeypatch.setattr(leader, "RENEW_S", 0.02)
    run.write_status({"state": "stopped", "counters": {"updates": 7}, "error": "of the past"})
    with SignsOfLife(run, "scoring", "the policy", ends_as="done"):
        first = run.status()
        deadline = time.monotonic() + 10
        while run.status()["supervisor"]["time"] == first["supervisor"]["time"]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert (first["state"], first["error"], first["counters"]) == ("scoring", "", {"updates": 7})
    assert run.status()["state"] == "done"
    assert age(run.status()) < 10
