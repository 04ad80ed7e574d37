"""Stop flags, watchdogs and the ropes that tie a process to its keeper."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from acceerl.runtime.stop import KEEPER, STUCK, StopFlag, Watchdog


@pytest.fixture
def restored_signals():
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_a_signal_sets_the_flag_and_the_first_reason_stays(restored_signals, number):
    stop = StopFlag().install()
    os.kill(os.getpid(), number)
    os.kill(os.getpid(), number)
    assert stop.wait(5)
    stop.set("later")
    assert stop.reason == f"signal {signal.Signals(number).name}"


def test_waiting_ends_when_the_flag_is_set_or_the_time_is_over():
    stop = StopFlag()
    assert not stop.wait(0.01)
    threading.Timer(0.1, stop.set, ("test",)).start()
    began = time.monotonic()
    assert stop.wait(10)
    assert time.monotonic() - began < 5


def test_a_beating_watchdog_stays_quiet_and_a_closed_one_too():
    ended = []
    watchdog = Watchdog(0.4, "loop", ended.append).start()
    for _ in range(6):
        time.sleep(0.1)
        watchdog.beat()
    watchdog.close()
    time.sleep(0.6)
    assert not ended


def run_python(code: str, **environment: str) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **environment}, **pipes)


def test_a_stuck_process_ends_with_its_name_and_all_stacks():
    code = """
import time
from acceerl.runtime.stop import Watchdog
def stuck_in_accept(): time.sleep(30)
Watchdog(0.2, "inference[1] main loop").start()
stuck_in_accept()
"""
    process = run_python(code)
    _, said = process.communicate(timeout=15)
    assert process.returncode == STUCK
    assert "inference[1] main loop did not beat for" in said
    assert "stuck_in_accept" in said


FOLLOWER = """
import time
from acceerl.runtime.stop import die_with_keeper
die_with_keeper()
print("up", flush=True)
time.sleep(30)
"""


def test_a_process_ends_when_its_keeper_is_killed():
    keeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
    process = run_python(FOLLOWER, **{KEEPER: str(keeper.pid)})
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    keeper.kill()
    keeper.wait()
    assert process.wait(10) == STUCK


def test_a_process_whose_keeper_is_gone_already_ends_at_once():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    process = run_python(FOLLOWER, **{KEEPER: str(gone.pid)})
    assert process.wait(10) == STUCK
