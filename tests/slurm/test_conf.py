"""The dev cluster's configuration as text; no Slurm needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from slurm.devclusterlib import cli
from slurm.devclusterlib.conf import gres_conf, hosts, slurm_conf
from slurm.devclusterlib.plan import Cluster, Options, load


def cluster(folder: Path = Path("/tmp/dc"), **options: object) -> Cluster:
    return Cluster(folder, Options(**options), prefix="10.0.0", port=17000)  # type: ignore[arg-type]


def lines(text: str, key: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(f"{key}=")]


def test_nodes_have_names_addresses_and_ports_of_their_own() -> None:
    nodes = cluster(cpu_nodes=2, gpu_nodes=1, gpus=2).nodes()
    assert [node.name for node in nodes] == ["cpu1", "cpu2", "gpu1"]
    assert len({node.address for node in nodes}) == len({node.port for node in nodes}) == 3
    assert [node.gpus for node in nodes] == [0, 0, 2]


def test_gpus_are_declared_where_they_are() -> None:
    some = cluster(cpu_nodes=1, gpu_nodes=1, gpus=2)
    cpu, gpu = lines(slurm_conf(some), "NodeName")
    assert "Gres" not in cpu
    assert gpu.endswith("Gres=gpu:2")
    assert gres_conf(some).count("NodeName=gpu1 Name=gpu File=") == 2


def test_a_partition_without_nodes_is_left_out() -> None:
    names = [line.split()[0] for line in lines(slurm_conf(cluster(gpu_nodes=0)), "PartitionName")]
    assert names == ["PartitionName=cpu", "PartitionName=all", "PartitionName=preempt"]


def test_set_replaces_a_line() -> None:
    text = slurm_conf(cluster(settings=("MpiDefault=pmi2", "Prolog=/bin/true")))
    assert lines(text, "MpiDefault") == ["MpiDefault=pmi2"]
    assert lines(text, "Prolog") == ["Prolog=/bin/true"]


def test_every_node_finds_every_other_by_name() -> None:
    names = [line.split()[1] for line in hosts(cluster()).splitlines()]
    assert names == ["localhost", "head", "cpu1", "cpu2", "gpu1", "gpu2"]


def test_a_cluster_is_remembered(tmp_path: Path) -> None:
    some = cluster(tmp_path, netns=True, settings=("KillWait=3",))
    some.save()
    assert load(tmp_path) == some


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"cpu_nodes": 0, "gpu_nodes": 0}, "1 to 250 nodes"),
        ({"gpus": -1}, "no count is negative"),
        ({"cpus_per_node": 0}, "--cpus-per-node is 0"),
        ({"settings": ("KillWait",)}, "Key=Value"),
    ],
)
def test_options_that_make_no_cluster_are_refused(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        cluster(**options)


def test_missing_programs_name_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "need_root", lambda: None)
    monkeypatch.setattr(cli.shutil, "which", lambda program, path: program not in ("munged", "slurmd") or None)
    with pytest.raises(ValueError, match="apt-get install munge slurm-wlm"):
        cli.check_machine(Options())
