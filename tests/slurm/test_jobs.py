"""What the dev cluster is for: het jobs, signals, requeues and lost nodes behave as on a site."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.slurm.clusters import Cluster, wait

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

HET = """
#SBATCH --partition=gpu --ntasks=1 --cpus-per-task=2 --gres=gpu:1 --mem=500 --output=job.out --open-mode=append
#SBATCH --signal=B:USR2@10
#SBATCH hetjob
#SBATCH --partition=cpu --nodes=2 --ntasks-per-node=1 --cpus-per-task=4 --mem=500
"""
STEPS = """
srun --het-group=0 --exact --nodes=1 --ntasks=1 --mem=100 --gres=gpu:1 \\
  sh -c 'echo learn $CUDA_VISIBLE_DEVICES; sleep 300' &
for node in cpu1 cpu2; do
  srun --het-group=1 --exact --nodes=1 --ntasks=1 --mem=100 --nodelist=$node --no-kill \\
    sh -c 'hostname >> rollouts; exec sleep 300' &
done
"""


def steps(cluster: Cluster) -> dict[str, str]:
    """Step -> nodes, from Slurm itself; without batch steps."""
    lines = cluster.ask("squeue", "--steps", "--noheader", "--format=%i %N").splitlines()
    return {step: nodes for step, nodes in (line.split() for line in lines) if step.rsplit(".")[-1].isdigit()}


def running_het_job(cluster: Cluster, tmp_path: Path, header: str = HET) -> int:
    job = cluster.submit(tmp_path, f"{header}{STEPS}wait\n")
    wait(lambda: len(steps(cluster)) == 3, 60, lambda: f"three steps: {steps(cluster)}, {cluster.job(job)}")
    return job


def test_nodes_are_machines_of_their_own(cluster: Cluster) -> None:
    seen = cluster.ask("srun", "--nodes=4", "sh", "-c", "echo $(hostname) $(getent hosts gpu1 | cut -d' ' -f1)")
    names = dict(line.split() for line in seen.splitlines())
    assert sorted(names) == ["cpu1", "cpu2", "gpu1", "gpu2"]
    assert len(set(names.values())) == 1
    gpus = cluster.ask("srun", "--partition=gpu", "--gres=gpu:1", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES")
    assert gpus == "0"


def test_steps_of_a_het_job_run_on_its_nodes(cluster: Cluster, tmp_path: Path) -> None:
    running_het_job(cluster, tmp_path)
    nodes = sorted(steps(cluster).values())
    assert nodes[:2] == ["cpu1", "cpu2"]
    assert nodes[2] in ("gpu1", "gpu2")
    output = tmp_path / "job.out"
    wait(lambda: output.read_text().split() == ["learn", "0"], 30, output.read_text)


def test_scancel_leaves_no_process_on_any_node(cluster: Cluster, tmp_path: Path) -> None:
    job = running_het_job(cluster, tmp_path)
    everywhere = [f"{kind}{i}" for kind in ("cpu", "gpu") for i in (1, 2)]
    wait(lambda: all(cluster.processes(node) for node in ("cpu1", "cpu2")), 30, lambda: "the rollouts' processes")
    cluster.ask("scancel", str(job))
    wait(
        lambda: not any(cluster.processes(node) for node in everywhere),
        30,
        lambda: f"empty nodes: {[cluster.processes(node) for node in everywhere]}",
    )
    cluster.wait_for_state(job, "CANCELLED", 10)


@pytest.mark.parametrize("wanted", ["gpu", "cpu"], ids=["the batch script's component", "the other component"])
def test_preemption_sends_the_batch_script_its_signal(cluster: Cluster, tmp_path: Path, wanted: str) -> None:
    script = re.sub("--partition=[cg]pu", "--partition=preempt", HET) + "#SBATCH --constraint=cpu\n"
    script = script.replace("--ntasks=1", "--ntasks=1 --constraint=gpu --nodelist=gpu1")
    notice = "trap 'date +%s > signalled; exit 0' USR2\ntouch trapped\nwhile true; do sleep 0.1; done\n"
    cluster.submit(tmp_path, script + notice)
    wait((tmp_path / "trapped").exists, 60, lambda: "the batch script: before its trap the signal just ends it")
    node = {"gpu": "gpu1", "cpu": "cpu1"}[wanted]
    cluster.ask("srun", f"--partition={wanted}", f"--nodelist={node}", "--exclusive", "true")
    assert (tmp_path / "signalled").exists()


def test_a_het_job_requeues_itself(cluster: Cluster, tmp_path: Path, record_property: pytest.RecordProperty) -> None:
    again = """
echo attempt ${SLURM_RESTART_COUNT:-0} $(date +%s)
srun --het-group=1 --exact --mem=100 hostname
if [ -z "$SLURM_RESTART_COUNT" ]; then scontrol requeue $SLURM_JOB_ID; sleep 60; fi
"""
    job = cluster.submit(tmp_path, HET + again)
    cluster.wait_for_state(job, "COMPLETED", 90)
    lines = (tmp_path / "job.out").read_text()
    attempts = [line.split() for line in lines.splitlines() if line.startswith("attempt")]
    assert [attempt[1] for attempt in attempts] == ["0", "1"]
    assert lines.split().count("cpu2") == 2
    record_property("seconds from requeue to restart", int(attempts[1][2]) - int(attempts[0][2]))


def test_a_lost_cpu_node_costs_its_steps_only(cluster: Cluster, tmp_path: Path) -> None:
    """Slurm asks each component whether the job may go on: it needs --no-kill and more than one node in all of them."""
    header = HET.replace("--mem=500", "--mem=500 --no-kill").replace("--ntasks=1", "--nodes=2 --ntasks-per-node=1")
    job = running_het_job(cluster, tmp_path, header)
    cluster.ask("scontrol", "update", "NodeName=cpu2", "State=DOWN", "Reason=test")
    try:
        wait(lambda: "cpu2" not in steps(cluster).values(), 30, lambda: f"its step to end: {steps(cluster)}")
        assert cluster.job(job)["JobState"] == "RUNNING"
        assert "cpu1" in steps(cluster).values()
    finally:
        cluster.ask("scancel", str(job))
    cluster.wait_for_idle()  # the node is well, so ReturnToService=2 takes it back


def test_no_kill_is_in_vain_while_a_component_has_one_node(cluster: Cluster, tmp_path: Path) -> None:
    job = running_het_job(cluster, tmp_path, HET.replace("--mem=500", "--mem=500 --no-kill"))
    cluster.ask("scontrol", "update", "NodeName=cpu2", "State=DOWN", "Reason=test")
    try:
        wait(lambda: cluster.job(job)["Restarts"] == "1", 60, lambda: f"its requeue: {cluster.job(job)}")
    finally:
        cluster.ask("scancel", str(job))
    cluster.wait_for_idle()  # the node is well, so ReturnToService=2 takes it back


def test_a_lost_gpu_node_requeues_the_job(cluster: Cluster, tmp_path: Path) -> None:
    job = running_het_job(cluster, tmp_path)
    node = next(node for node in steps(cluster).values() if node.startswith("gpu"))
    cluster.command("crash", node)
    try:
        wait(lambda: cluster.job(job)["Restarts"] == "1", 60, lambda: f"its requeue: {cluster.job(job)}")
        # Not exactly three: a step of the first attempt may still be on its way out of a CPU node.
        other = {"gpu1": "gpu2", "gpu2": "gpu1"}[node]
        nodes = {"cpu1", "cpu2", other}
        wait(lambda: set(steps(cluster).values()) == nodes, 60, lambda: f"steps on {nodes}: {steps(cluster)}")
    finally:
        cluster.ask("scancel", str(job))
        cluster.command("join", node)
    cluster.wait_for_idle()
