"""SegmentBatch: what stands in which row, and how segments are split into micro-batches."""

import numpy as np
import pytest
import torch

from acceerl.algo import SegmentBatch, micro_batches
from acceerl.algo.batch import split
from tests.unit.algo.worlds import CHUNK, DIM, mixed, segment


def test_rows_hold_decisions_then_the_bootstrap_observation():
    segments = mixed()
    batch = SegmentBatch.of(segments)
    row = 0
    for b, s in enumerate(segments):
        for t in range(len(s)):
            assert batch.rows[b, t] == row
            assert batch.mask[b, t]
            assert (batch.tokens[row].numpy() == s.tokens[t]).all()
            assert (batch.behaviour_logp[row].numpy() == s.logp[t]).all()
            assert (batch.observations.images["front"][row] == s.images["front"][t]).all()
            assert batch.observations.instructions[row] == s.instruction
            assert (batch.token_mask[row].numpy() == (np.arange(CHUNK) < s.executed[t])[:, None]).all()
            row += 1
        if not s.terminated:
            assert batch.bootstrap_rows[b] == row
            assert (batch.observations.proprio[row] == s.proprio[-1]).all()
            assert not batch.token_mask[row].any()
            row += 1
    assert row == len(batch.observations) == len(batch.tokens)
    assert batch.n_decisions == batch.mask.sum() == sum(map(len, segments))
    assert batch.n_tokens == sum(int(s.executed.sum()) for s in segments) * DIM


def test_padded_arrays_carry_flags_at_the_last_decision_only():
    segments = mixed()
    batch = SegmentBatch.of(segments)
    for b, s in enumerate(segments):
        n = len(s)
        assert batch.rewards[b, :n].tolist() == s.rewards.tolist()
        assert batch.versions[b, :n].tolist() == s.versions.tolist()
        assert batch.terminated[b].nonzero().flatten().tolist() == [n - 1] * s.terminated
        assert batch.truncated[b].nonzero().flatten().tolist() == [n - 1] * s.truncated
        assert not batch.mask[b, n:].any()


def test_flat_and_padded_are_inverse_on_decisions():
    batch = SegmentBatch.of(mixed())
    flat = torch.arange(len(batch.tokens)).double()
    back = batch.flat(batch.pad(flat))
    decisions = batch.rows[batch.mask]
    assert (back[decisions] == flat[decisions]).all()
    assert back.count_nonzero() <= batch.n_decisions


def test_bootstrap_is_the_last_observation_or_zero():
    segments = mixed()
    batch = SegmentBatch.of(segments)
    flat = torch.arange(len(batch.tokens)).double() + 1
    expected = [0 if s.terminated else batch.bootstrap_rows[b].item() + 1 for b, s in enumerate(segments)]
    assert batch.bootstrap(flat).tolist() == expected


def test_imagined_segments_are_marked():
    batch = SegmentBatch.of([segment(2), segment(3, imagined=True)])
    assert batch.imagined.tolist() == [False, True]


def test_moving_keeps_everything():
    batch = SegmentBatch.of(mixed())
    moved = batch.to("cpu")
    assert moved.n_tokens == batch.n_tokens
    assert (moved.rows == batch.rows).all()


@pytest.mark.parametrize("most", [1, 5, 9, 10, 14, 1000])
def test_parts_hold_each_segment_once_and_respect_the_bound(most):
    segments = mixed((3, 7, 1, 5, 9, 2, 2, 8))
    parts = split(segments, most)
    assert sorted(s.episode for part in parts for s in part) == sorted(s.episode for s in segments)
    assert all(len(part) == 1 or sum(map(len, part)) <= most for part in parts)
    assert split(segments, most) == parts


def test_parts_are_balanced():
    parts = split(mixed([4] * 16), 48)
    assert [sum(map(len, part)) for part in parts] == [32, 32]


def test_shares_sum_to_one():
    batches = micro_batches(mixed(), 10)
    assert len(batches) > 1
    assert sum(b.decision_share for b in batches) == pytest.approx(1)
    assert sum(b.token_share for b in batches) == pytest.approx(1)


def test_nothing_to_batch_is_refused():
    with pytest.raises(ValueError, match="at least one segment"):
        SegmentBatch.of([])
    with pytest.raises(ValueError, match="cannot split 0 segments"):
        micro_batches([], 4)
    with pytest.raises(ValueError, match="parts of 0"):
        micro_batches(mixed(), 0)
