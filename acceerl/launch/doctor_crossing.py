"""The doctor's checks that cross nodes: a line from every component to the batch node, and MPI ports between them.

`lead` runs in the job's batch script, where a training has its supervisor: it holds a registry there, as a supervisor
does, and starts two steps for every other component, `serve` on the first one's node and `connect` on the other's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from acceerl.launch import slurm_queue
from acceerl.launch.doctor import Check, Finding
from acceerl.launch.doctor_site import network, put_on, wrong_interface
from acceerl.launch.doctor_stack import start
from acceerl.runtime.mpiexec import tethered
from acceerl.runtime.registry import Registry, RegistryClient, RegistryRefused, RegistryTimeout
from acceerl.runtime.registry_client import REGISTRY
from acceerl.runtime.world import allocation, for_srun, here

LINE = Check("registry line", "every run", "")
PORTS = Check("mpi crossing", "channels=mpi", "")
LINE_S, STEP_S, MPI_S = 15.0, 60.0, 45.0  # a connection; until the other step is up; two processes of MPI
SAID, FOUND = "acceerl step: ", "acceerl crossing: "  # before the JSON in a step's output, and in lead's
NONE, NO_PORT = "none", "the other side has no port"
FIREWALL = "let the nodes open TCP connections to any port of each other"
Found = list[tuple[int, Check, Finding]]  # by component


@dataclass(frozen=True)
class Spot:
    """A node of a component, and the words of the srun that starts a step there."""

    component: int
    srun: list[str]
    variables: dict[str, str]  # of the roles there
    again: bool = False  # a further node of the same component


@dataclass
class Report:
    """What one step says: its node, how its line went, and how MPI did."""

    node: str = "?"
    line: list[str] = field(default_factory=list)  # level, text
    mpi: list[str] = field(default_factory=list)  # none: not tried


def lead(spots: Sequence[Spot], ports: bool) -> Found:
    """In the batch script. `ports`: also between the first spot and each other one."""
    own = allocation()
    assert own is not None, "the doctor's job runs in Slurm"
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry(folder, host=slurm_queue.node_address(own.node))
        where = {**json.loads((Path(folder) / "registry.json").read_text()), "run": folder}
        environment = for_srun(os.environ) | {REGISTRY: json.dumps(where)}
        try:
            return _cross(spots, ports, environment)
        finally:
            registry.wait_closed()


def _cross(spots: Sequence[Spot], ports: bool, environment: Mapping[str, str]) -> Found:
    first, found = spots[0], list[tuple[int, Check, Finding]]()
    if len(spots) == 1 or not ports:
        return [_line(spot, _ended(_step(spot, "call", k, environment))) for k, spot in enumerate(spots)]
    for number, other in enumerate(spots[1:]):
        sides = [_step(first, "serve", number, environment), _step(other, "connect", number, environment)]
        server, client = [_ended(side) for side in sides]
        found += [_line(first, server)] if number == 0 else []
        found += [_line(other, client), (other.component, PORTS, met(server, client))]
    return found


def _line(spot: Spot, report: Report) -> tuple[int, Check, Finding]:
    level, text = report.line
    return spot.component, LINE, Finding("ok" if level == "ok" else "FAIL", text)


def met(server: Report, client: Report) -> Finding:
    """What the two sides say, as one finding."""
    way = f"from {client.node} to {server.node}"
    if not (server.mpi and client.mpi):
        return Finding("FAIL", f"not tried {way}: it takes the line of both to the batch node")
    if server.mpi[0] == client.mpi[0] == "ok":
        return Finding("ok", f"{way}: {server.mpi[1]}")
    ill = [side for side in (client, server) if side.mpi[0] != "ok" and not side.mpi[1].startswith(NO_PORT)]
    nodes = {side.mpi[1]: ", ".join(s.node for s in ill if s.mpi[1] == side.mpi[1]) for side in ill}
    said = "; ".join(f"{where}: {text}" for text, where in nodes.items())
    return Finding("FAIL", f"MPI does not connect {way} ({said}); set site.interface to the network that the nodes "
                           f"share, and {FIREWALL}")  # fmt: skip


def _step(spot: Spot, part: str, number: int, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    words = [*spot.srun, sys.executable, "-m", "acceerl.launch.doctor_crossing", part, str(number),
             json.dumps(spot.variables)]  # fmt: skip
    return subprocess.Popen(
        tethered(words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", env=dict(environment),
    )  # fmt: skip


def _ended(step: subprocess.Popen[str]) -> Report:
    """Its report, or its last words."""
    try:
        out, _ = step.communicate(timeout=STEP_S + MPI_S + 2 * LINE_S)
    except subprocess.TimeoutExpired:
        step.terminate()
        out = "no answer"
    said = parse(out, SAID)
    return Report(line=["FAIL", _no_end(out)]) if said is None else Report(**said)


def parse(text: str, mark: str) -> Any:
    """The JSON behind `mark` in an output; None: it is not there."""
    said = next((line for line in text.splitlines() if line.startswith(mark)), None)
    return None if said is None else json.loads(said.removeprefix(mark))


def _no_end(text: str) -> str:
    return f"the step did not run to its end: {(text.strip().splitlines() or ['no word'])[-1]}"


def side(part: str, number: int) -> Report:
    """One step's part: the line to the registry, and then MPI with the other side."""
    report, where = Report(here()), json.loads(os.environ[REGISTRY])
    address, began = f"{where['host']}:{where['port']}", time.perf_counter()
    try:
        registry = RegistryClient(where["run"], part, number, timeout_s=LINE_S)
        registry.announce(timeout_s=LINE_S)
    except (RegistryTimeout, RegistryRefused) as error:
        report.line = ["FAIL", f"no TCP from {report.node} to the batch node's {address} ({error}): {FIREWALL}"]
        return report
    took = 1e3 * (time.perf_counter() - began)
    report.line = ["ok", f"TCP from {report.node} to the batch node's {address}, an answer in {took:.1f} ms"]
    if part != "call":
        report.mpi = _mpi(registry, part, number)
    return report


def _mpi(registry: RegistryClient, part: str, number: int) -> list[str]:
    """A process of MPI under an mpiexec of its own, as a role has; its port travels as those of roles do."""
    if wrong := wrong_interface():
        _tell_there_is_none(registry, part, number)
        return ["FAIL", wrong.text]
    with tempfile.TemporaryDirectory() as folder:
        try:
            process = _serve(registry, number, folder) if part == "serve" else _connect(registry, number, folder)
            out, err = process.communicate(timeout=MPI_S)
        except (RegistryTimeout, subprocess.TimeoutExpired) as error:
            return ["FAIL", f"{error}; {network()}"]
    if process.returncode == 0:
        return ["ok", out.strip()]
    last = (err.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
    return ["FAIL", f"{last[:200]}; {network()}"]


def _serve(registry: RegistryClient, number: int, folder: str) -> subprocess.Popen[str]:
    """Opens its port when the client is up, since it accepts for seconds only."""
    registry.peer("connect", number, timeout_s=STEP_S)
    process, port, until = start("serve", folder), Path(folder) / "port", time.monotonic() + LINE_S
    while not port.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    registry.publish("port", port.read_text() if port.exists() else NONE)
    return process


def _tell_there_is_none(registry: RegistryClient, part: str, number: int) -> None:
    if part == "serve":
        registry.peer("connect", number, timeout_s=STEP_S)
        registry.publish("port", NONE)


def _connect(registry: RegistryClient, number: int, folder: str) -> subprocess.Popen[str]:
    until = time.monotonic() + STEP_S
    while not (port := registry.fact("serve", number, "port")):
        if time.monotonic() > until:
            raise RegistryTimeout(f"waited {STEP_S:g} s for the other side's port")
        time.sleep(0.05)
    if port == NONE:
        raise RegistryTimeout(NO_PORT)
    (Path(folder) / "port").write_text(port)
    return start("connect", folder)


def plan(file: Path, spots: Sequence[Spot], ports: bool) -> None:
    """Writes what `lead` shall do in the job."""
    file.write_text(json.dumps({"spots": [vars(spot) for spot in spots], "ports": ports}))


def read(text: str, spots: int) -> Found:
    """What `lead` printed; when it came to no end, every one of the `spots` components lacks its line."""
    report = parse(text, FOUND)
    if report is None:
        return [(k, LINE, Finding("FAIL", _no_end(text))) for k in range(spots)]
    checks = {check.name: check for check in (LINE, PORTS)}
    return [(component, checks[name], Finding(level, words)) for component, name, level, words in report]


def main(part: str, rest: Sequence[str]) -> None:
    """`lead FILE` in the batch script; in a step `serve|connect|call NUMBER VARIABLES`."""
    if part == "lead":
        order = json.loads(Path(rest[0]).read_text())
        found = lead([Spot(**spot) for spot in order["spots"]], order["ports"])
        rows = [(component, check.name, finding.level, finding.text) for component, check, finding in found]
        print(FOUND + json.dumps(rows), flush=True)
        return
    put_on(json.loads(rest[1]))
    print(SAID + json.dumps(vars(side(part, int(rest[0])))), flush=True)
    os._exit(0)  # the registry's thread may wait for a line that is not there


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
