"""The doctor's checks between nodes, with steps that are processes of this machine (a `srun` of no words)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from acceerl.launch import doctor_crossing
from acceerl.launch.doctor_crossing import LINE, PORTS, Report, Spot, met
from acceerl.runtime.registry import Registry
from acceerl.runtime.registry_client import REGISTRY
from acceerl.runtime.world import Allocation

ABSENT = {"FI_TCP_IFACE": "nowhere9"}


@pytest.fixture
def registry(tmp_path, monkeypatch) -> Iterator[Registry]:
    server = Registry(tmp_path)
    where = {**json.loads(server.path.read_text()), "run": str(tmp_path)}
    monkeypatch.setenv(REGISTRY, json.dumps(where))
    yield server
    server.wait_closed()


@pytest.fixture
def lead(monkeypatch):
    """`lead(*spots)`: the findings, from a batch node that is this machine."""
    own = Allocation("7", 0, "gpu1", (("gpu1",), ("cpu1",)))
    monkeypatch.setattr(doctor_crossing, "allocation", lambda: own)
    monkeypatch.setattr(doctor_crossing.slurm_queue, "node_address", lambda node: "127.0.0.1")
    return lambda *spots, ports=True: doctor_crossing.lead(spots, ports)


def test_a_line_to_the_batch_node_is_told_with_both_ends(registry, monkeypatch):
    monkeypatch.setenv("SLURMD_NODENAME", "cpu1")
    report = doctor_crossing.side("call", 0)
    assert (report.node, report.line[0], report.mpi) == ("cpu1", "ok", [])
    assert "TCP from cpu1 to the batch node's 127.0.0.1:" in report.line[1]


def test_a_line_that_nobody_answers_fails_with_the_remedy(registry, monkeypatch):
    monkeypatch.setattr(doctor_crossing, "LINE_S", 0.3)
    where = json.loads(os.environ[REGISTRY])
    monkeypatch.setenv(REGISTRY, json.dumps({**where, "port": 9}))
    report = doctor_crossing.side("connect", 0)
    assert (report.line[0], report.mpi) == ("FAIL", [])
    assert "to the batch node's 127.0.0.1:9 (" in report.line[1]
    assert "let the nodes open TCP connections" in report.line[1]


def test_every_spot_has_a_line_and_a_world_needs_no_ports(lead):
    found = lead(Spot(0, [], {}), Spot(1, [], ABSENT), ports=False)
    assert [(component, check, finding.level) for component, check, finding in found] == [
        (0, LINE, "ok"), (1, LINE, "ok"),
    ]  # fmt: skip


def test_a_step_that_srun_refuses_is_told_with_its_words(lead):
    [(component, check, finding)] = lead(Spot(0, ["sh", "-c", "echo srun: error: no room; exit 1"], {}))
    assert (component, check, finding.level) == (0, LINE, "FAIL")
    assert finding.text == "the step did not run to its end: srun: error: no room"


def test_a_wrong_interface_is_told_once_with_the_nodes(lead):
    found = lead(Spot(0, [], ABSENT), Spot(1, [], ABSENT))
    assert [(component, check, finding.level) for component, check, finding in found] == [
        (0, LINE, "ok"), (1, LINE, "ok"), (1, PORTS, "FAIL"),
    ]  # fmt: skip
    assert found[-1][2].text.count("site.interface=nowhere9 (FI_TCP_IFACE) is no network device here") == 1


@pytest.mark.mpi
def test_real_ports_between_two_steps(lead):
    found = lead(Spot(0, [], {}), Spot(1, [], {}))
    assert [check for _, check, _ in found] == [LINE, LINE, PORTS]
    assert found[-1][2].level == "ok", found[-1][2].text
    assert "1 MB over a port and back" in found[-1][2].text


def test_one_side_that_fails_is_the_one_that_is_named():
    good = Report("gpu1", ["ok", ""], ["ok", "1 MB in 3 ms"])
    bad = Report("cpu1", ["ok", ""], ["FAIL", "Connect timed out"])
    waits = Report("gpu1", ["ok", ""], ["FAIL", doctor_crossing.NO_PORT])
    assert met(good, Report("cpu1", ["ok", ""], ["ok", ""])).text == "from cpu1 to gpu1: 1 MB in 3 ms"
    assert "from cpu1 to gpu1 (cpu1: Connect timed out); set site.interface" in met(good, bad).text
    assert "(cpu1: Connect timed out);" in met(bad, waits).text
    assert met(good, Report("cpu1", ["FAIL", "no TCP"])).text.startswith("not tried from cpu1 to gpu1")
