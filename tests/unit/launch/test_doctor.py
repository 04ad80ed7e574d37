"""The doctor on patients that are ill on purpose: a hanging check, a crashing one, a folder that refuses, no meshes."""

from __future__ import annotations

import errno
import json
import os
import resource
from pathlib import Path

import psutil
import pytest

from acceerl.launch import doctor_machine, doctor_site, doctor_stack
from acceerl.launch.cli import main
from acceerl.launch.compose import compose
from acceerl.launch.doctor import CHECKS, Check, Finding, doctor, examine
from acceerl.runtime.placement import rows

PATIENTS = """
import os, subprocess, sys, time
from acceerl.launch.doctor import Finding

def well(runs): return Finding("ok", f"looked at {runs}")
def ill(runs): return Finding("FAIL", "broken: mend it")
def noisy(runs):
    print("a library says hello")
    return Finding("info", "all the same")
def crashes(runs): os.abort()
def raises(runs): raise RuntimeError("no such thing")
def hangs(runs):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    (runs / "pids").write_text(f"{os.getpid()} {child.pid}")
    time.sleep(60)
"""


@pytest.fixture
def check(tmp_path, monkeypatch):
    (tmp_path / "patients.py").write_text(PATIENTS)
    monkeypatch.syspath_prepend(tmp_path)
    return lambda name, needed_for="everybody", seconds=30.0: Check(
        name, needed_for, f"patients:{name}", seconds, "see a real one"
    )


def found(checks, folder):
    return [finding for _, finding in examine(folder, checks)]


def test_findings_come_in_the_order_of_the_table(check, tmp_path):
    assert found([check("well"), check("ill"), check("noisy")], tmp_path) == [
        Finding("ok", f"looked at {tmp_path}"), Finding("FAIL", "broken: mend it"), Finding("info", "all the same"),
    ]  # fmt: skip


def test_a_hanging_check_is_ended_with_its_children_and_named(check, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (0.5, 0.5, 0.5))
    (finding,) = found([check("hangs", seconds=3.0)], tmp_path)
    assert finding == Finding("FAIL", "no answer within 3 s: see a real one")
    for pid in map(int, (tmp_path / "pids").read_text().split()):
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_missed_deadline_on_a_busy_machine_says_so(check, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (900.0, 1.0, 1.0))
    (finding,) = found([check("hangs", seconds=1.0)], tmp_path)
    assert "no answer within 1 s (load 900 on " in finding.text


def test_a_crash_is_a_finding_with_its_last_words(check, tmp_path):
    aborted, raised = found([check("crashes"), check("raises")], tmp_path)
    assert aborted.text.startswith("ended with code -6")
    assert raised == Finding("FAIL", "ended with code 1 (RuntimeError: no such thing): see a real one")


def test_what_nobody_needs_is_a_warning(check, tmp_path):
    assert [f.level for f in found([check("ill", ""), check("raises", "")], tmp_path)] == ["warn", "warn"]


def test_the_exit_code_and_the_json_tell_what_fails(check, tmp_path, capsys):
    assert doctor(tmp_path, str(tmp_path / "out.json"), [check("well"), check("ill")]) == 1
    out = capsys.readouterr().out
    assert "FAIL  ill           broken: mend it (needed for everybody)" in out
    assert out.splitlines()[-1] == "failed: ill"
    record = json.loads((tmp_path / "out.json").read_text())
    assert not record["healthy"]
    assert record["checks"][1] == {
        "check": "ill", "needed_for": "everybody", "level": "FAIL", "text": "broken: mend it"}  # fmt: skip
    assert doctor(tmp_path, checks=[check("well"), check("ill", "")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "nothing that is needed fails; warnings: 1"


def test_every_check_of_the_table_can_be_called():
    for check in CHECKS:
        module, _, name = check.function.partition(":")
        assert callable(getattr({"acceerl.launch.doctor_machine": doctor_machine}.get(module, doctor_stack), name))
        assert check.deadline_s < 60


def test_a_good_folder_is_good_and_is_left_as_it_was(tmp_path):
    finding = doctor_machine.runs_folder(tmp_path / "runs")  # made by the first run only
    assert finding.level in ("ok", "warn"), finding.text
    assert "atomic rename" in finding.text
    assert doctor_machine.clock(tmp_path).level == "ok"
    assert not list(tmp_path.iterdir())


def test_a_folder_that_refuses_fails_with_the_reason(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(doctor_machine.tempfile, "TemporaryDirectory", refuse)  # root may write anywhere
    finding = doctor_machine.runs_folder(tmp_path)
    assert finding.level == "FAIL"
    assert f"{tmp_path} cannot be written (Permission denied): use runs=DIR" in finding.text


def test_a_folder_below_a_file_fails(tmp_path):
    (tmp_path / "file").touch()
    assert doctor_machine.runs_folder(tmp_path / "file" / "runs").level == "FAIL"


def test_a_full_disk_and_missing_locks_are_told(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1 << 20, "total": 1 << 40})
    monkeypatch.setattr(doctor_machine.fcntl, "flock", lambda *_: None)
    finding = doctor_machine.runs_folder(tmp_path)
    assert (finding.level, "no file locks" in finding.text) == ("warn", True)
    monkeypatch.setattr(doctor_machine.shutil, "disk_usage", lambda _: usage)
    assert "no room for a checkpoint" in doctor_machine.runs_folder(tmp_path).text


def test_a_skewed_clock_is_measured(tmp_path, monkeypatch):
    real = doctor_machine.time.time
    monkeypatch.setattr(doctor_machine.time, "time", lambda: real() + 100.0)
    assert doctor_machine.clock(tmp_path) == Finding(
        "warn", "the file server's clock and this machine's are 100.0 s apart: let both use NTP")  # fmt: skip


def test_a_cpu_quota_is_read(tmp_path, monkeypatch):
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert doctor_machine._quota(tmp_path / "cpu.max") == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert doctor_machine._quota(tmp_path / "cpu.max") is None
    assert doctor_machine._quota(tmp_path / "none") is None
    monkeypatch.setattr(doctor_machine, "_quota", lambda _: 1.0)
    assert doctor_machine.cpus(tmp_path).level == "warn"


def test_few_files_and_little_memory_are_warned_of(tmp_path, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    assert doctor_machine.open_files(tmp_path) == Finding(
        "warn", "256 open files a process (the system allows 4096): ulimit -n 4096")  # fmt: skip
    monkeypatch.setattr(doctor_machine, "LITTLE_MEMORY", 1 << 60)
    assert doctor_machine.memory(tmp_path).level == "warn"


def test_gpus_are_listed_or_absent(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor_machine.gpu(tmp_path).level == "info"
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\n")
    tool.chmod(0o755)
    assert doctor_machine.gpu(tmp_path) == Finding("ok", "GPU 0: NVIDIA H100")
    tool.write_text("#!/bin/sh\necho 'driver mismatch' >&2; exit 9\n")
    assert doctor_machine.gpu(tmp_path) == Finding("warn", "nvidia-smi finds none (driver mismatch)")


def test_the_registry_and_hdf5_are_really_used(tmp_path):
    assert doctor_machine.registry(tmp_path).level == "ok"
    finding = doctor_stack.hdf5(tmp_path)
    assert (finding.level, "written, read back and locked" in finding.text) == ("ok", True)
    assert not list(tmp_path.iterdir())


def test_missing_packages_and_meshes_are_named_with_the_fix(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor_stack, "PACKAGES", ("numpy", "no-such-package"))
    assert doctor_stack.python(tmp_path) == Finding(
        "FAIL", "missing: no-such-package: pip install acceerl (README, Install)")  # fmt: skip
    monkeypatch.setenv("ACCEERL_LIBERO_ASSETS", str(tmp_path / "nowhere"))
    finding = doctor_stack.libero(tmp_path)
    assert finding.level == "warn"
    assert "make libero" in finding.text or "set ACCEERL_LIBERO_ASSETS" in finding.text


def test_a_gl_library_that_is_not_there_fails_with_the_fix(tmp_path, monkeypatch):
    no_gl = Check("gl", "tabletop", "acceerl.launch.doctor_stack:gl", 60.0)
    monkeypatch.setenv("MUJOCO_GL", "glfw")  # needs a display
    monkeypatch.setenv("PYOPENGL_PLATFORM", "glx")
    monkeypatch.delenv("DISPLAY", raising=False)
    (finding,) = found([no_gl], tmp_path)
    assert finding.level == "FAIL"
    assert "glfw" in finding.text or "ended with code" in finding.text


@pytest.mark.mpi
def test_real_ports_and_a_real_time_out(tmp_path):
    ports, time_out = found([check for check in CHECKS if check.name.startswith("mpi")], tmp_path)
    assert ports.level == "ok" and "1 MB over a port and back" in ports.text, ports.text
    assert time_out.level == "ok", time_out.text


@pytest.mark.mpi
def test_an_mpi_that_cannot_start_is_a_finding(tmp_path, monkeypatch):
    (tmp_path / "mpiexec").write_text("#!/bin/sh\necho 'no such fabric' >&2; exit 3\n")
    (tmp_path / "mpiexec").chmod(0o755)
    monkeypatch.setattr(doctor_stack, "find_mpiexec", lambda _: str(tmp_path / "mpiexec"))
    finding = doctor_stack.mpi(tmp_path)
    assert (finding.level, "no such fabric" in finding.text) == ("FAIL", True)


def test_the_command_passes_its_options_on(monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr("acceerl.launch.doctor.doctor", lambda runs, path: given.append((runs, path)) or 1)
    assert main(["doctor", f"runs={tmp_path}", "json=out.json"]) == 1
    assert given == [(Path(tmp_path), "out.json")]


def test_a_sites_interface_and_mpiexec_reach_the_checks(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "environ", {**os.environ, "FI_PROVIDER": "the user's"})
    monkeypatch.setattr("acceerl.launch.doctor.doctor", lambda runs, path: 0)
    assert main(["doctor", f"runs={tmp_path}", "site.interface=eth9", "site.mpiexec=/opt/mpiexec"]) == 0
    seen = {name: os.environ[name] for name in ("FI_TCP_IFACE", doctor_site.MPIEXEC, "FI_PROVIDER")}
    assert list(seen.values()) == ["eth9", "/opt/mpiexec", "the user's"]


def test_an_interface_that_is_not_there_fails_before_mpi_starts(monkeypatch, tmp_path):
    monkeypatch.setenv("FI_TCP_IFACE", "nowhere9")
    monkeypatch.setattr(doctor_stack, "start", None)
    for check in (doctor_stack.mpi, doctor_stack.mpi_timeout):
        finding = check(tmp_path)
        assert finding.level == "FAIL"
        assert "site.interface=nowhere9 (FI_TCP_IFACE) is no network device here: choose from " in finding.text
    assert doctor_site.devices().split(", ")[-1] == "lo" and doctor_site.devices() in finding.text


def test_a_role_gets_the_same_variables_as_its_checks():
    config = compose("train", ["launch=slurm", "placement=cluster", "site.interface=ib0"])
    of_learner = doctor_site.variables(config, {"learner", "inference"})
    assert of_learner == rows(config)[0].defaults
    assert of_learner["FI_TCP_IFACE"] == "ib0"
    assert "LP_NUM_THREADS" in doctor_site.variables(config, {"rollout"})
