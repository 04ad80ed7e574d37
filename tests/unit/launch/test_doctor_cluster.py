"""`acceerl doctor launch=slurm` around a Slurm of pretence: its script, and what becomes of what the steps say."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from acceerl.launch import doctor_cluster, doctor_crossing, slurm
from acceerl.launch.cli import main
from acceerl.runtime.layout import components
from tests.unit.launch.fake_slurm import FakeSlurm, het

TALKED = [[0, "registry line", "ok", "TCP"], [1, "registry line", "ok", "TCP"], [1, "mpi crossing", "ok", "1 MB"]]
GOOD = [["shared folder", "ok", "seen"], ["gl", "ok", "osmesa"]]
BAD = [["shared folder", "FAIL", "/home is not visible here"], ["gpu", "info", "none"]]


def said(node: str, findings: list[list[str]]) -> str:
    return f"some library's banner\n{doctor_cluster.RESULT}{json.dumps({'node': node, 'findings': findings})}\n"


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`doctor(of_gpu, of_cpu)`: the exit code of the command when the steps have said so."""
    fake = FakeSlurm(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "check", lambda config: None)
    fake.says(sbatch="7", scontrol=het("COMPLETED", "COMPLETED"), scancel="")

    def run(*steps: str, words: tuple[str, ...] = ("launch=slurm",), crossing: str | list = TALKED) -> int:
        def wait(job: str) -> None:
            [folder] = (tmp_path / "runs").iterdir()
            for number, text in enumerate(steps):
                (folder / f"{number}.out").write_text(text)
            talk = crossing if isinstance(crossing, str) else doctor_crossing.FOUND + json.dumps(crossing)
            (folder / doctor_cluster.CROSSING).write_text(talk)

        (tmp_path / "runs").mkdir(exist_ok=True)
        monkeypatch.setattr(doctor_cluster, "_await", wait)
        code = main(["doctor", *words, f"runs={tmp_path / 'runs'}", f"json={tmp_path / 'found.json'}"])
        assert not list((tmp_path / "runs").iterdir()), "the doctor leaves nothing behind"
        return code

    return run


def test_a_healthy_cluster_is_told_component_by_component(doctor, capsys):
    assert doctor(said("gpu1", GOOD), said("cpu1", GOOD)) == 0
    out = capsys.readouterr().out
    assert "component 0: learner+inference on gpu1" in out
    assert "component 1: rollout on cpu1" in out
    assert "nothing that is needed fails in any component" in out


def test_the_component_that_fails_is_named_with_the_check(doctor, capsys, tmp_path):
    assert doctor(said("gpu1", GOOD), said("cpu1", BAD)) == 1
    assert "failed: rollout on cpu1: shared folder" in capsys.readouterr().out
    rows = json.loads((tmp_path / "found.json").read_text())["checks"]
    assert [(row["node"], row["check"]) for row in rows if row["level"] == "FAIL"] == [("cpu1", "shared folder")]


def test_a_step_that_says_nothing_fails_with_its_last_words(doctor, capsys):
    assert doctor(said("gpu1", GOOD), "srun: error: Unable to create step\n") == 1
    assert "the step did not run to its end: srun: error: Unable to create step" in capsys.readouterr().out


def test_the_job_is_small(tmp_path):
    config = doctor_cluster.compose("train", ["launch=slurm", "placement=cluster", "rollout.processes=64"])
    text = doctor_cluster.script(config, tmp_path, tmp_path)
    assert text.count("#SBATCH hetjob") == 1 and text.count("--nodes=1 ") == 2
    assert text.count("#SBATCH --nodes=1") == 2 and text.count("#SBATCH --cpus-per-task=2") == 2
    assert f"#SBATCH --time={doctor_cluster.MINUTES}" in text
    steps, talk = text.split("\nwait\n")
    assert steps.count("-m acceerl.launch.doctor_cluster ") == 2
    assert talk.startswith(f"{sys.executable} -m acceerl.launch.doctor_crossing lead {tmp_path}/crossing.json")


def test_a_job_of_one_component_crosses_to_a_second_node(tmp_path):
    words = ["launch=slurm", "placement=cluster_homogeneous", "placement.cpu_nodes=2", "site.interface=ib0"]
    config = doctor_cluster.compose("train", words)
    parts = doctor_cluster.small(components(config))
    assert [part.nodes for part in parts] == [2]
    first, second = doctor_cluster.spots(config, parts)
    assert ("--relative=0" in first.srun, "--relative=1" in second.srun) == (True, True)
    assert second.variables["FI_TCP_IFACE"] == "ib0"
    text = doctor_cluster.script(config, tmp_path, tmp_path)
    assert text.count("-m acceerl.launch.doctor_cluster ") == 1
    [one] = doctor_cluster.small(components(doctor_cluster.compose("train", ["launch=slurm", "placement=one_node"])))
    assert one.nodes == 1


def test_what_crosses_nodes_is_told_with_the_component(doctor, capsys):
    crossing = [[0, "registry line", "ok", "TCP"], [1, "registry line", "ok", "TCP"], [1, "mpi crossing", "FAIL", "no"]]
    assert doctor(said("gpu1", GOOD), said("cpu1", GOOD), crossing=crossing) == 1
    assert "failed: rollout on cpu1: mpi crossing" in capsys.readouterr().out


def test_steps_that_never_talk_fail_in_every_component(doctor, capsys):
    assert doctor(said("gpu1", GOOD), said("cpu1", GOOD), crossing="srun: error: Invalid het group\n") == 1
    out = capsys.readouterr().out
    assert "failed: learner+inference on gpu1: registry line; rollout on cpu1: registry line" in out
    assert "did not run to its end: srun: error: Invalid het group" in out


def test_a_folder_that_is_not_shared_is_a_finding(tmp_path):
    assert doctor_cluster.shared(tmp_path / "away").level == "FAIL"
    (tmp_path / "job.sh").touch()
    assert doctor_cluster.shared(tmp_path).level == "ok"
