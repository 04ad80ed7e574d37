"""What a batch step reads from its environment, and what it keeps from its processes."""

from __future__ import annotations

import pytest

from acceerl.runtime.world import allocation, expand, for_srun, here, without_slurm

HET = {
    "SLURM_JOB_ID": "12", "SLURM_JOB_ID_HET_GROUP_0": "12", "SLURM_JOB_ID_HET_GROUP_1": "13", "SLURM_HET_SIZE": "2",
    "SLURM_JOB_NODELIST_HET_GROUP_0": "gpu[1-2]", "SLURM_JOB_NODELIST_HET_GROUP_1": "cpu[07-08],fat1",
    "SLURM_JOB_NODELIST": "gpu[1-2]", "SLURM_RESTART_COUNT": "3", "SLURMD_NODENAME": "gpu1",
}  # fmt: skip


def test_a_het_job_has_the_nodes_of_each_component():
    found = allocation(HET)
    assert found is not None
    assert found.components == (("gpu1", "gpu2"), ("cpu07", "cpu08", "fat1"))
    assert (found.job, found.restarts, found.node) == ("12", 3, "gpu1")


def test_a_plain_job_is_one_component():
    found = allocation({"SLURM_JOB_ID": "5", "SLURM_JOB_NODELIST": "n[1,3-4]"})
    assert found is not None
    assert (found.components, found.restarts, found.node) == ((("n1", "n3", "n4"),), 0, "n1")


def test_outside_of_slurm_there_is_none():
    assert allocation({"PATH": "/bin"}) is None
    assert here({"SLURMD_NODENAME": "cpu3"}) == "cpu3"


@pytest.mark.parametrize(
    ("text", "names"),
    [("a", ["a"]), ("a,b", ["a", "b"]), ("n[098-101]", ["n098", "n099", "n100", "n101"]), ("", []),
     ("r[1-2]n[1,3]x,b", ["r1n1x", "r1n3x", "r2n1x", "r2n3x", "b"])],
)  # fmt: skip
def test_node_lists(text, names):
    assert expand(text) == names


def test_processes_do_not_notice_the_step_and_srun_not_the_batch_step():
    env = {"SLURM_JOB_ID": "1", "SLURM_MEM_PER_NODE": "5", "SLURM_CPUS_PER_TASK": "2", "PMI_RANK": "0", "HOME": "/h",
           "SLURM_CONF": "/c", "PMIX_RANK": "1", "SLURM_JOB_NODELIST": "n1", "SLURM_NTASKS": "1"}  # fmt: skip
    assert without_slurm(env) == {"HOME": "/h", "SLURM_CONF": "/c"}
    left = for_srun(env)
    assert {"SLURM_JOB_ID", "SLURM_JOB_NODELIST", "SLURM_CONF"} <= left.keys()
    assert not {"SLURM_MEM_PER_NODE", "SLURM_CPUS_PER_TASK", "SLURM_NTASKS"} & left.keys()
