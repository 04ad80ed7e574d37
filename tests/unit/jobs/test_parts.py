"""What a configuration means to several processes of a role."""

from __future__ import annotations

import pytest

from acceerl.jobs.parts import own_device


def test_every_rank_gets_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert [own_device("cuda", rank, 2) for rank in range(2)] == ["cuda:0", "cuda:1"]
    assert own_device("cuda:3", 0, 1) == "cuda:3" and own_device("cpu", 1, 2) == "cpu"
