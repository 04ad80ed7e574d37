"""What Slurm reads, letter by letter: slurm/examples holds one script a placement, for site=example.

`python -m tests.unit.launch.test_sbatch` writes them anew after a wanted change.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from acceerl.launch import sbatch
from acceerl.launch.compose import compose
from acceerl.runtime.layout import Component

FOLDER = Path(__file__).parents[3] / "slurm" / "examples"
RUN, PYTHON = Path("/shared/runs/example"), "/shared/venv/bin/python"
EXAMPLES = {
    "one_node": ["placement=one_node", "learner.device=cuda", "inference.device=cuda", "rollout.processes=8"],
    "cluster": ["placement=cluster", "placement.gpu_nodes=2", "placement.cpu_nodes=4", "placement.gpus=4",
                "learner.ranks=4", "inference.instances=4", "learner.device=cuda", "inference.device=cuda",
                "rollout.processes=64"],
    "world": ["placement=cluster", "channels=world", "placement.cpu_nodes=2", "rollout.processes=6"],
    "cluster_homogeneous": ["placement=cluster_homogeneous", "placement.cpu_nodes=2", "rollout.processes=16",
                            "site.requeue=false"],
}  # fmt: skip


def rendered(name: str) -> str:
    config = compose("train", ["launch=slurm", "site=example", "name=example", *EXAMPLES[name]])
    steps = "".join(f"# {line}".rstrip() + "\n" for line in sbatch.steps(config, RUN, PYTHON).splitlines())
    return (
        sbatch.script(config, "example", RUN / "slurm", PYTHON) + f"\n# The steps that the supervisor starts:\n{steps}"
    )


def rendered_guests() -> str:
    config = compose("train", ["launch=slurm", "site=example", "name=example"])
    return sbatch.guest_script(config, "example", RUN / "slurm" / "join", PYTHON, Component("cpu", 1, 8, 16_000, 0))


def test_the_text_of_a_guest_job_is_the_example():
    assert rendered_guests() == (FOLDER / "join.sbatch").read_text()


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_text_of_a_placement_is_the_example(name):
    assert rendered(name) == (FOLDER / f"{name}.sbatch").read_text()


def test_a_successor_waits_for_its_predecessor():
    config = compose("train", ["launch=slurm"])
    assert "#SBATCH --dependency=afterany:17\n" in sbatch.script(config, "a", Path("/r/slurm"), "python", after="17")


def test_a_homogeneous_step_names_no_het_group():
    assert "--het-group" not in rendered("cluster_homogeneous")
    assert rendered("cluster").count("srun --het-group=0") == 2


if __name__ == "__main__":
    for example in EXAMPLES:
        (FOLDER / f"{example}.sbatch").write_text(rendered(example))
    (FOLDER / "join.sbatch").write_text(rendered_guests())
