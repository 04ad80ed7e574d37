"""What a configuration means to several instances of a role."""

from __future__ import annotations

import pytest

from acceerl.config import from_dict
from acceerl.jobs.parts import own_device, pace


@pytest.mark.parametrize(("processes", "expected"), [(4, [8, 8]), (3, [8, 4]), (2, [4, 4])])
def test_each_inference_instance_waits_for_its_own_rollouts(processes: int, expected: list[int]):
    changes = {"rollout": {"processes": processes, "envs": 4}, "inference": {"instances": 2}, "schedule": "sync"}
    config = from_dict(changes | {"learner": {"batch": 33}})
    paces = [pace(config, index) for index in range(2)]
    assert [p.expected for p in paces] == expected
    assert sum(p.turn for p in paces) >= 33, "a turn of all instances fills the batch"


def test_every_rank_gets_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert [own_device("cuda", rank, 2) for rank in range(2)] == ["cuda:0", "cuda:1"]
    assert own_device("cuda:3", 0, 1) == "cuda:3" and own_device("cpu", 1, 2) == "cpu"
