"""Which node gets which process, and what the job asks for; impossible rows are named."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from acceerl.config import Config, from_dict
from acceerl.runtime.layout import Share, components, gpus_of, pins, shares
from acceerl.runtime.placement import rows


def config(placement: dict[str, Any] | None = None, **groups: dict[str, Any]) -> Config:
    return from_dict({"launch": "slurm", "placement": placement or {}, **groups})


def groups(given: Config) -> dict[str, tuple[int, int, int]]:
    """{step: (processes, cpus, gpus)}"""
    return {s.name: (len(s.processes), s.cpus, s.gpus) for s in shares(given)}


def test_a_cluster_has_learner_and_inference_on_gpu_nodes_and_rollouts_on_cpu_nodes():
    given = config({"gpu_nodes": 2, "cpu_nodes": 3}, rollout={"processes": 8})
    assert groups(given) == {"learner.0.0": (1, 1, 1), "inference.0.1": (1, 1, 1),
                             "rollout.1.0": (3, 3, 0), "rollout.1.1": (3, 3, 0), "rollout.1.2": (2, 2, 0)}  # fmt: skip
    gpu, cpu = components(given)
    assert (gpu.kind, gpu.nodes, gpu.gpus, gpu.cpus) == ("gpu", 2, 1, 2)  # one CPU for the supervisor
    assert (cpu.kind, cpu.nodes, cpu.gpus, cpu.cpus, cpu.memory) == ("cpu", 3, 0, 3, 6000)


@pytest.mark.parametrize("kind", ["one_node", "cluster", "cluster_homogeneous"])
@pytest.mark.parametrize("gpus", [0, 1, 4])
def test_every_process_is_placed_once_and_every_step_fits_its_node(kind, gpus):
    given = config({"kind": kind, "cpu_nodes": 2, "gpus": gpus}, rollout={"processes": 5}, evaluator={"processes": 2},
                   inference={"instances": 2}, learner={"threads": 3})  # fmt: skip
    steps = shares(given)
    placed = Counter(process for step in steps for process in step.processes)
    assert set(placed.values()) == {1}
    assert Counter(role for role, _ in placed) == {row.role: row.count for row in rows(given)}
    for number, part in enumerate(components(given)):
        for node in range(part.nodes):
            mine = [s for s in steps if (s.component, s.node) == (number, node)]
            assert mine, "a node without work"
            assert sum(s.cpus for s in mine) <= part.cpus and sum(s.memory for s in mine) <= part.memory
            assert sum(s.gpus for s in mine) <= part.gpus


def test_roles_that_share_a_gpu_share_a_step():
    given = config({"kind": "one_node", "gpus": 1}, learner={"device": "cuda"}, inference={"device": "cuda"})
    assert groups(given)["learner+inference.0.0"] == (2, 2, 1)
    alone = config({"kind": "one_node", "gpus": 1}, learner={"device": "cuda"})
    assert (groups(alone)["learner.0.0"][2], groups(alone)["inference.0.0"][2]) == (1, 0)


def test_rollouts_that_draw_on_gpus_join_their_step():
    given = config({"kind": "one_node", "gpus": 1}, site={"gl": "egl"}, rollout={"processes": 2})
    assert list(groups(given)) == ["learner+inference+rollout.0.0"]


def test_homogeneous_rollouts_may_use_the_gpu_nodes_spare_cpus():
    given = config({"kind": "cluster_homogeneous", "gpu_nodes": 2, "cpu_nodes": 0}, rollout={"processes": 4})
    assert groups(given)["rollout.0.0"] == groups(given)["rollout.0.1"] == (2, 2, 0)


@pytest.mark.parametrize(
    ("placement", "others", "says"),
    [
        ({"cpu_nodes": 3}, {}, "placement row rollout: placement.cpu_nodes=3 nodes for 2 processes"),
        ({"gpu_nodes": 3}, {}, "placement row learner: placement.gpu_nodes=3 nodes for 2 processes"),
        ({"gpus": 0}, {"learner": {"device": "cuda"}}, "learner.device=cuda, but placement.gpus=0"),
    ],
)
def test_an_impossible_row_is_named(placement, others, says):
    with pytest.raises(ValueError, match=says):
        components(config(placement, **others))


def test_cpus_are_dealt_without_overlap_or_not_at_all():
    table = rows(config(learner={"threads": 2}))
    share = Share("learner+inference", 0, 0, (("learner", 0), ("inference", 0)), 3, 0, 0)
    assert pins(share, table, [4, 5, 6, 7]) == {("learner", 0): [4, 5], ("inference", 0): [6]}
    assert pins(share, table, [4, 5]) == {("learner", 0): [], ("inference", 0): []}


def test_each_process_has_a_gpu_of_its_own_where_there_are_enough():
    share = Share("learner", 0, 0, (("learner", 0), ("learner", 1)), 2, 0, 2)
    assert gpus_of(share, ["2", "5"]) == {("learner", 0): ["2"], ("learner", 1): ["5"]}
    assert gpus_of(share, []) == {("learner", 0): [], ("learner", 1): []}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"placement": {"kind": "laptop"}}, "placement=laptop is this machine: choose one_node"),
        ({"channels": "inline"}, "use launch=local"),
        ({"site": {"het_steps": False}}, "use placement=cluster_homogeneous"),
        ({"placement": {"cpu_nodes": 0}}, "placement.cpu_nodes=0 leaves the rollouts"),
        ({"slurm": {"minutes": 4}}, r"slurm.minutes=4 is over before the first checkpoint: .* = 300 s"),
        ({"placement": {"kind": "cloud"}}, "placement.kind=cloud is not known: choose from auto, laptop"),
        ({"site": {"setup": "module load x"}}, "site.setup must be a list"),
        ({"site": {"setup": [1]}}, r"site.setup\[0\] must be text, got 1"),
    ],
)
def test_what_no_cluster_could_do_is_refused_by_key(data, says):
    with pytest.raises(ValueError, match=says):
        from_dict({"launch": "slurm", **data})


@pytest.mark.parametrize("kind", ["one_node", "cluster_homogeneous"])
def test_a_training_whose_rollouts_join_has_none_of_its_own(kind):
    given = config({"kind": kind, "cpu_nodes": 0}, rollout={"processes": 0}, inference={"instances": 2})
    [step] = shares(given)
    assert {role for role, _ in step.processes} == {"learner", "inference"}
    [part] = components(given)
    assert (part.kind, part.nodes) == ("gpu", 1)
