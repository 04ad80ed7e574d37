"""Stands in for `acceerl.jobs.process`: `python double.py RUN ROLE INDEX` acts as RUN/script.json says of its role.

Acts: `work` until asked to stop; `finish` after a few updates; `crash` always, `crash_once` in its first life;
`mute` stops itself (as if frozen) in its first life; `deaf` does not heed requests; `lose_once` says in its first life
that it lost another of its row, `die_late_once` dies a while after that; `misfit` says that starting it again would not
help. `ROLE.INDEX` goes before `ROLE` in the script, and a learner's waits for the other rank of two to have started.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from acceerl.runtime.registry import RegistryClient
from acceerl.runtime.stop import DONE, HOPELESS, LOST, STOPPED, StopFlag, die_with_keeper

run, role, index = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])


def life() -> int:
    """How many times this process has been started, from 1."""
    marks = run / f"lives.{role}.{index}"
    with marks.open("a") as file:
        file.write("x")
    return len(marks.read_text())


def other_has_started() -> None:
    """Or it may be ended, with this one, before its life counts."""
    mark, end = run / f"lives.{role}.{1 - index}", time.monotonic() + 10
    while not mark.exists() and time.monotonic() < end:
        time.sleep(0.01)


def leave(code: int) -> None:
    if role == "learner":
        (run / "checkpoints").mkdir(exist_ok=True)
        (run / "checkpoints" / f"update_{updates}").touch()
    print(f"{role} leaves with {code}", flush=True)
    os._exit(code)


die_with_keeper()
script = json.loads((run / "script.json").read_text())
act, lives, updates = script.get(f"{role}.{index}", script.get(role, "work")), life(), 0
stop = StopFlag().install()
if role == "learner" and f"{role}.{index}" in script:
    other_has_started()
if act == "crash" or (act == "crash_once" and lives == 1):
    print(f"{role} says: the simulator broke", flush=True)
    os._exit(3)
if act == "misfit":
    print("acceerl: error: the world is too small", flush=True)
    os._exit(HOPELESS)
client = RegistryClient(run, role, index, timeout_s=10)
client.announce()
end = time.monotonic() + 30
while time.monotonic() < end:
    updates += 1
    client.heartbeat({"counters": {"updates": updates, "env_steps": 8 * updates, "decisions": updates}, "gauges": {}})
    if act == "mute" and lives == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    if act == "lose_once" and lives == 1 and updates >= 5:
        os._exit(LOST)
    if act == "die_late_once" and lives == 1 and updates >= 15:
        os._exit(3)
    if act == "finish" and updates >= 5:
        leave(DONE)
    if (stop.is_set() or "stop" in client.requested) and act != "deaf":
        leave(STOPPED)
    time.sleep(0.05)
os._exit(9)
