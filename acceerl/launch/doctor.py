"""`acceerl doctor`: looks at this machine, check by check, and says what to do. Read `CHECKS` for what it looks at.

Every check runs in a process of its own with a deadline, several at a time, because what is broken on a machine
hangs (EGL, MPI, file servers) or crashes as often as it reports.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import psutil

from acceerl.runtime.jsonfile import json_file

Level = Literal["ok", "info", "warn", "FAIL"]
AT_A_TIME = 3


@dataclass(frozen=True)
class Finding:
    """`text` tells what was seen and, unless all is well, what to do."""

    level: Level
    text: str


@dataclass(frozen=True)
class Check:
    """`function` is `module:name` of a `(runs: Path) -> Finding`. Without `needed_for` a failure is only a warning."""

    name: str
    needed_for: str  # empty: nothing that everybody does
    function: str
    deadline_s: float = 15.0
    advice: str = ""  # when it crashes or hangs


_MACHINE, _STACK = "acceerl.launch.doctor_machine", "acceerl.launch.doctor_stack"
CHECKS = (
    Check("python", "everything", f"{_STACK}:python", advice="pip install acceerl into a fresh environment"),
    Check("torch", "policies", f"{_STACK}:torch", 50.0, "reinstall torch: README, Install, CPU torch"),
    Check("gl", "tabletop, libero", f"{_STACK}:gl", 30.0, "try the other of MUJOCO_GL=osmesa and MUJOCO_GL=egl"),
    Check("egl", "", f"{_STACK}:egl", 20.0, "use MUJOCO_GL=osmesa on this machine"),
    Check("mpi", "channels=mpi", f"{_STACK}:mpi", 30.0, "site.interface=, or README, Install, The site's MPI"),
    Check("mpi time-out", "channels=mpi", f"{_STACK}:mpi_timeout", 30.0, "README, Install, The site's MPI"),
    Check("registry", "channels=mpi", f"{_MACHINE}:registry", advice="a firewall stops TCP on 127.0.0.1"),
    Check("runs folder", "every run", f"{_MACHINE}:runs_folder", 20.0, "its file server does not answer: use runs=DIR"),
    Check("clock", "watch, ps", f"{_MACHINE}:clock", 20.0, "its file server does not answer: use runs=DIR"),
    Check("hdf5", "trajectories, replay", f"{_STACK}:hdf5", 25.0, "HDF5 hangs in the runs folder: use runs=DIR"),
    Check("libero", "", f"{_STACK}:libero", 20.0, "make libero"),
    Check("cpus", "", f"{_MACHINE}:cpus"),
    Check("memory", "", f"{_MACHINE}:memory"),
    Check("open files", "", f"{_MACHINE}:open_files"),
    Check("/dev/shm", "", f"{_MACHINE}:shared_memory"),
    Check("gpu", "", f"{_MACHINE}:gpu", 20.0, "the NVIDIA driver does not answer: restart the node"),
)


def command(words: Sequence[str], options: Mapping[str, str]) -> int:
    assert not words, "doctor takes none"
    return doctor(Path(options["runs"]), options["json"])


def doctor(runs: Path, json_path: str = "", checks: Sequence[Check] = CHECKS) -> int:
    """Prints one line a check, in the order of the table. Returns 1 when something needed fails, else 0.

    Raises ValueError, before the first check, when nothing can be written to `json_path`.
    """
    target, findings = json_file(json_path) if json_path else None, []
    for check, finding in examine(runs, checks):
        print(line(check, finding), flush=True)
        findings.append({"check": check.name, "needed_for": check.needed_for, **asdict(finding)})
    failed = [str(f["check"]) for f in findings if f["level"] == "FAIL"]
    warned = sum(f["level"] == "warn" for f in findings)
    print(f"\nfailed: {', '.join(failed)}" if failed else "\nnothing that is needed fails", end="")
    print(f"; warnings: {warned}" if warned else "", flush=True)
    if target is not None:
        record = {"healthy": not failed, "host": os.uname().nodename, "checks": findings}
        target.write_text(json.dumps(record, indent=1) + "\n")
    return 1 if failed else 0


def line(check: Check, finding: Finding) -> str:
    """
    >>> line(Check("gpu", "", ""), Finding("info", "none"))
    'info  gpu           none'
    """
    needs = f" (needed for {check.needed_for})" if finding.level == "FAIL" else ""
    return f"{finding.level:<5} {check.name:<13} {finding.text}{needs}"


def examine(runs: Path, checks: Sequence[Check] = CHECKS) -> Iterator[tuple[Check, Finding]]:
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        yield from zip(checks, pool.map(lambda check: _examine(check, runs), checks), strict=True)


def _examine(check: Check, runs: Path) -> Finding:
    """The check's own finding, or what its process's end says."""
    code, out, err = _run_alone(check, runs)
    try:
        found = Finding(**json.loads(out.splitlines()[-1]))
    except (IndexError, ValueError, TypeError):
        level: Level = "FAIL" if check.needed_for else "warn"
        last = (err.strip().splitlines() or ["no word"])[-1][:300]
        what = (
            f"no answer within {check.deadline_s:.0f} s{_busy()}"
            if code is None
            else f"ended with code {code} ({last})"
        )
        return Finding(level, f"{what}: {check.advice or 'please report this'}")
    return found if check.needed_for or found.level != "FAIL" else Finding("warn", found.text)


def _busy() -> str:
    """On a machine that others keep busy, a missed deadline says little."""
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    return f" (load {load:.0f} on {cores} cores: try again when it is quieter)" if load > 2 * cores else ""


def _run_alone(check: Check, runs: Path) -> tuple[int | None, str, str]:
    """Exit code (None: killed at its deadline), stdout and stderr of the check's process."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    child = subprocess.Popen(
        [sys.executable, "-m", "acceerl.launch.doctor", check.function, str(runs)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        errors="replace",
    )  # fmt: skip
    try:
        out, err = child.communicate(timeout=check.deadline_s)
        return child.returncode, out, err
    except subprocess.TimeoutExpired:
        _end(child)
        return None, "", ""


def _end(child: subprocess.Popen[str]) -> None:
    """Kills the check and everything below it, by id. What cannot be killed (in the kernel) is left behind."""
    for process in psutil.Process(child.pid).children(recursive=True):
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    child.kill()
    deadline = time.monotonic() + 2.0
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    for stream in (child.stdout, child.stderr):
        if stream is not None:
            stream.close()


def main(function: str, runs: str) -> None:
    """What a check's process does: one JSON line on stdout."""
    module, _, name = function.partition(":")
    finding: Finding = getattr(importlib.import_module(module), name)(Path(runs))
    print(json.dumps({"level": finding.level, "text": finding.text}), flush=True)
    os._exit(0)  # GL and MPI libraries may hang in their exit handlers


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
