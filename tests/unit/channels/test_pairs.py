"""Weights over communicators of two: what arrives, that a dead reader holds nobody up, and how tensors are packed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from acceerl.channels import device_buckets
from acceerl.channels.collective_pairs import DirectPublisher, DirectReader, Pair
from acceerl.channels.device_buckets import Layout, Snapshot, Turns
from tests.unit.channels.pairs import Folder

ROOT = Path(__file__).parents[3]


def tensors(version: int) -> list[tuple[str, torch.Tensor]]:
    return [
        ("a", torch.full((3, 5), float(version))),
        ("half", torch.full((7,), version, dtype=torch.bfloat16)),
        ("count", torch.tensor(version)),
    ]


def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(5e-3)


@pytest.fixture
def publisher(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    made = DirectPublisher(Folder(tmp_path), [("inference", 0), ("inference", 1)], "gloo", "cpu", timeout_s=20)
    yield made
    made.close()


def publish(publisher: DirectPublisher, version: int) -> None:
    publisher.publish(version, tensors(version), iter(tensors(version)))


@pytest.fixture
def reader(publisher, tmp_path):
    made = DirectReader(Folder(tmp_path, "inference"), "cpu", timeout_s=20)
    yield made
    made.close()


def test_a_reader_gets_the_newest_version_whole(publisher, reader):
    got = []
    for version in (1, 2, 3):
        publish(publisher, version)
        until(lambda: got.append(reader.poll()) or got[-1] is not None)
        assert got[-1].version == version
        for name, tensor in tensors(version):
            assert torch.equal(got[-1].arrays[name], tensor) and got[-1].arrays[name].dtype == tensor.dtype
    assert publisher.turns.skipped == 0 and reader.corrupt == 0


def test_a_version_that_was_damaged_on_its_way_comes_again(publisher, reader, monkeypatch):
    sums, wrong = Snapshot.sums, iter([[-1]])
    monkeypatch.setattr(Snapshot, "sums", lambda self: next(wrong, None) or sums(self))
    publish(publisher, 1)
    got = []
    until(lambda: got.append(reader.poll()) or got[-1] is not None)
    assert reader.corrupt == 1 and torch.equal(got[-1].arrays["a"], tensors(1)[0][1])


def test_a_dead_reader_is_nothing_that_nccl_may_end_the_learner_for(monkeypatch):
    """Its watchdog takes the process down unless waiting is done in calls: so it is said before the communicator."""
    monkeypatch.delenv("TORCH_NCCL_BLOCKING_WAIT", raising=False)
    said = []

    class Nccl:
        Options = SimpleNamespace

        def __init__(self, store, me, size, options):
            said.append((os.environ.get("TORCH_NCCL_BLOCKING_WAIT"), options._timeout.total_seconds()))

    monkeypatch.setattr(dist, "ProcessGroupNCCL", Nccl, raising=False)
    Pair(None, 0, "nccl", 20)
    assert said == [("1", 20)]


@pytest.mark.slow
def test_a_killed_reader_holds_neither_the_publisher_nor_the_other_reader_up(publisher, tmp_path):
    """And one that takes its place is served."""

    def start(index: int, last: int) -> subprocess.Popen:
        command = [sys.executable, "-m", "tests.unit.channels.pairs", str(tmp_path), str(index), str(last)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, env=environment, cwd=ROOT)

    def seen(index: int) -> int:
        return (Folder(tmp_path).fact("inference", index, "seen") or [-1])[0]

    lasting, doomed = start(0, 40), start(1, 40)
    publish(publisher, 1)
    until(lambda: seen(0) == seen(1) == 1, 120)
    doomed.send_signal(signal.SIGKILL)
    for version in range(2, 30):
        began = time.monotonic()
        publish(publisher, version)
        assert time.monotonic() - began < 5, "publishing waits for nobody"
        until(lambda version=version: seen(0) == version)
    assert publisher.turns.skipped == 0
    doomed.wait(20)
    follower = start(1, 40)
    until(lambda: publish(publisher, 40) or seen(0) == seen(1) == 40, 120)
    assert [process.wait(60) for process in (lasting, follower)] == [0, 0]


def test_tensors_lie_aligned_in_few_buckets(monkeypatch):
    monkeypatch.setattr(device_buckets, "BUCKET", 256)
    named = [(f"t{i}", torch.full((size,), float(i))) for i, size in enumerate([10, 40, 1, 100, 3])]
    layout = Layout.of(named)
    assert layout.places == [(0, 0, 40), (0, 64, 160), (1, 0, 4), (2, 0, 400), (3, 0, 12)]
    assert layout.sizes == [256, 64, 448, 64] and Layout.read([list(row) for row in layout.rows]) == layout
    turns = Turns(torch.device("cpu"))
    turns.write(5, layout, named)
    snapshot = turns.newest(but=-1, wait_s=0)
    assert snapshot.version == 5
    assert all(torch.equal(snapshot.tensors()[name], tensor) for name, tensor in named)


def test_a_version_without_a_free_place_is_left_out_and_the_next_one_is_not():
    turns = Turns(torch.device("cpu"))
    layout = Layout.of(tensors(0))
    turns.write(1, layout, tensors(1))
    first = turns.newest(but=-1, wait_s=0)
    turns.write(2, layout, tensors(2))
    second = turns.newest(but=1, wait_s=0)
    turns.write(3, layout, tensors(3))
    assert (first.version, second.version, turns.skipped) == (1, 2, 1), "both are being read"
    turns.leave(first)
    for version in (4, 5):
        turns.write(version, layout, tensors(version))
        turns.leave(turns.newest(but=2, wait_s=0))
    assert turns.newest(but=2, wait_s=0).version == 5, "one place is enough while a dead reader holds the other"
    assert torch.equal(second.tensors()["a"], tensors(2)[0][1])
