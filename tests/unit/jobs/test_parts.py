"""What a configuration means to several processes of a role."""

from __future__ import annotations

import pytest

from acceerl.channels.collective import Alone
from acceerl.config import Config, Replay
from acceerl.jobs.parts import make_replay, own_device
from acceerl.runtime.rundir import Run
from tests.unit.stores.examples import segment


def test_every_rank_gets_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert [own_device("cuda", rank, 2) for rank in range(2)] == ["cuda:0", "cuda:1"]
    assert own_device("cuda:3", 0, 1) == "cuda:3" and own_device("cpu", 1, 2) == "cpu"


@pytest.mark.parametrize("on_resume", ["keep", "drop"])
def test_what_no_resumed_run_reads_is_not_written(tmp_path, on_resume):
    replay = make_replay(Config(replay=Replay(on_resume=on_resume)), Run(tmp_path), Alone())
    replay.insert(segment(2, number=1))
    assert replay.decisions == 2 and len(replay.state_dict()["ids"]) == (on_resume == "keep")
    replay.close()
    assert any(tmp_path.rglob("log-*.bin")) == (on_resume == "keep")
