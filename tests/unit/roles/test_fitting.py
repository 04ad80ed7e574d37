"""`learner.micro_batch=auto`: the search, what a batch may need, and the bytes that a row keeps."""

from __future__ import annotations

import pytest
import torch

from acceerl.algo.batch import blank
from acceerl.config import Algo, Learner, from_dict, to_dict
from acceerl.policies.tiny import TinyPolicy
from acceerl.roles import fitting
from acceerl.roles.trainer import Trainer
from tests.unit.roles.ranks import policy


def trainer(**numbers) -> Trainer:
    return Trainer(policy(), Algo(), Learner(**{"batch": 64} | numbers), seed=0)


@pytest.mark.parametrize(("room", "most", "found"), [(11, 64, 8), (11, 6, 6), (64, 64, 64), (1, 64, 1), (100, 48, 48)])
def test_the_last_size_that_fits_is_kept(room, most, found):
    tried = []
    assert fitting.largest(lambda n: tried.append(n) or n <= room, most) == found
    assert sum(n > room for n in tried) <= 1, "it stops at the first that does not fit"


def test_not_even_one_says_what_to_do():
    with pytest.raises(ValueError, match=r"micro_batch=auto: not even one .* policy\.checkpointing=true"):
        fitting.largest(lambda n: False, 8)


def test_the_bytes_of_a_row_are_those_that_autograd_keeps():
    made = trainer()
    each = fitting.kept_bytes(made)
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.update({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()}) or t, lambda t: t
    ):
        found = made.policy.evaluate(*blank(made.policy.spec, 1))
    own = {p.data_ptr() for p in made.policy.parameters()}
    assert found.values.requires_grad
    assert each == pytest.approx(sum(size for place, size in kept.items() if place not in own), rel=0.1)
    assert all(p.grad is None for p in made.parameters), "nothing of a rehearsal stays"


def test_free_memory_decides_and_a_whole_segment_must_fit():
    made = trainer()
    each = fitting.kept_bytes(made)
    rows = fitting.rows(16, longest=4)
    assert fitting.micro_batch(made, 4, int(each * rows / fitting.SHARE) + 1) == 16
    assert fitting.micro_batch(made, 4, 10**15) == 64, "never more than a batch"
    with pytest.raises(ValueError, match="not even one"):
        fitting.micro_batch(made, 64, int(each * 10 / fitting.SHARE))


def test_running_out_of_a_gpus_memory_ends_the_search(monkeypatch):
    made, evaluate, tried = trainer(), TinyPolicy.evaluate, []

    def narrow(self, observations, tokens):
        tried.append(len(observations))
        if len(observations) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return evaluate(self, observations, tokens)

    monkeypatch.setattr(TinyPolicy, "evaluate", narrow)
    fits = fitting._fits_on_gpu(made)
    assert fitting.largest(lambda decisions: fits(fitting.rows(decisions, 4)), 64) == 16
    assert tried == [5, 5, 5, 10, 20, 40]
    assert all(p.grad is None for p in made.parameters)


def test_a_gpu_without_room_for_the_optimiser_is_too_small(monkeypatch):
    def full(*size, dtype=None, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    fits = fitting._fits_on_gpu(trainer())
    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(ValueError, match="not even one decision fits"):
        fitting.largest(fits, 64)


def test_auto_is_a_word_for_zero():
    config = from_dict({"learner": {"micro_batch": "auto"}})
    assert config.learner.micro_batch == 0 == to_dict(config)["learner"]["micro_batch"]
    with pytest.raises(ValueError, match=r"learner\.micro_batch must be a whole number, got 'many'"):
        from_dict({"learner": {"micro_batch": "many"}})


def test_one_rank_has_nothing_to_divide():
    with pytest.raises(
        ValueError, match=r"learner\.shard=zero2 divides a policy over learner\.ranks, of which there is 1"
    ):
        from_dict({"learner": {"shard": "zero2"}})
