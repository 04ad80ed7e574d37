"""The composed loss: equal to a loop over tokens, and equal however the batch is cut into micro-batches."""

from dataclasses import replace

import pytest
import torch

from acceerl.algo import LaggedNormaliser, SegmentBatch, micro_batches, total_loss
from acceerl.algo.loss import _shuffled, advantages_and_returns, entropy
from acceerl.config import Algo
from tests.unit.algo import slow
from tests.unit.algo.worlds import Linear, mixed, segment

CONFIGS = [
    Algo(entropy_coef=0.01),
    Algo(loss="ppo", clip=0.2, kl_coef=0.0),
    Algo(sigma=0.5, value_coef=2.0),
]


def seasoned(seed: int = 0) -> LaggedNormaliser:
    """A normaliser that has a step behind it, as in every update but the first."""
    normaliser = LaggedNormaliser()
    normaliser.add(torch.randn(40, generator=torch.Generator().manual_seed(seed)) * 2 + 0.5)
    normaliser.step()
    return normaliser


def update(batches, cfg, **options):
    """Gradient and summed stats of one update over `batches`."""
    policy, normaliser = Linear(), seasoned()
    sums: dict[str, float] = {}
    for batch in batches:
        loss, stats = total_loss(policy.evaluate(batch.observations, batch.tokens), batch, cfg, normaliser, **options)
        loss.backward()
        for name, value in stats.items():
            sums[name] = sums.get(name, 0.0) + value.item()
    return policy.weight.grad, sums, normaliser.sums


@pytest.mark.parametrize("cfg", CONFIGS)
@pytest.mark.parametrize("most", [1, 6, 10, 16])
def test_micro_batches_sum_to_the_whole_batch(cfg, most):
    """The public AcceRL code divides by the accumulation twice, and unequal parts would be weighed wrongly."""
    segments = mixed((3, 7, 1, 5, 9, 2))
    whole, whole_stats, whole_sums = update([SegmentBatch.of(segments)], cfg, version=12)
    parts, part_stats, part_sums = update(micro_batches(segments, most), cfg, version=12)
    torch.testing.assert_close(parts, whole, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(part_sums, whole_sums)
    for name in whole_stats.keys() - {"effective_sample_size"}:  # the one that is no mean
        assert part_stats[name] == pytest.approx(whole_stats[name], rel=1e-5, abs=1e-7), name


def by_hand(policy, segments, cfg, mean, deviation):
    """The objective of a GIPO update, one segment and one token at a time."""
    batch = SegmentBatch.of(segments)
    evaluation = policy.evaluate(batch.observations, batch.tokens)
    logp, values = evaluation.logp.detach(), evaluation.values.detach().float()
    row, squares, tokens = 0, [], {"logp": [], "behaviour": [], "advantages": []}
    for s in segments:
        n = len(s)
        flags = [[False] * (n - 1) + [f] for f in (s.terminated, s.truncated)]
        bootstrap = 0.0 if s.terminated else values[row + n].item()
        advantages, returns = slow.gae(
            s.rewards.tolist(), values[row : row + n].tolist(), *flags, bootstrap, cfg.gamma, cfg.lam
        )
        for t in range(n):
            squares.append((values[row + t].item() - returns[t]) ** 2)
            for c in range(s.executed[t]):
                for d in range(s.tokens.shape[2]):
                    tokens["logp"].append(logp[row + t, c, d].item())
                    tokens["behaviour"].append(float(s.logp[t, c, d]))
                    tokens["advantages"].append((advantages[t] - mean) / (deviation + 1e-5))
        row += n + (not s.terminated)
    nested = [[[x]] for x in tokens["logp"]], [[[x]] for x in tokens["behaviour"]]
    everything = [[[True]]] * len(tokens["logp"])
    policy_loss = slow.gipo(*nested, tokens["advantages"], cfg.sigma, everything)
    kl = slow.kl_k3(tokens["logp"], tokens["behaviour"])
    return policy_loss + cfg.value_coef * sum(squares) / len(squares) + cfg.kl_coef * kl


def test_the_whole_objective_equals_the_loop():
    segments, cfg, normaliser = mixed((3, 7, 1, 5)), Algo(), seasoned()
    mean, deviation = (x.item() for x in normaliser.moments())
    policy, batch = Linear(), SegmentBatch.of(segments)
    loss, _ = total_loss(policy.evaluate(batch.observations, batch.tokens), batch, cfg, normaliser)
    assert loss.item() == pytest.approx(by_hand(policy, segments, cfg, mean, deviation), rel=1e-6)


def test_values_are_recomputed_not_taken_from_the_segment():
    """The public AcceRL code accepts `recompute_value` and ignores it."""
    segments = mixed()
    stale = [replace(s, values=s.values + 100) for s in segments]
    assert (update([SegmentBatch.of(segments)], Algo())[0] == update([SegmentBatch.of(stale)], Algo())[0]).all()


def test_ppo_is_not_gipo():
    """The public AcceRL code accepts `clip_mode` and ignores it."""
    batch = SegmentBatch.of(mixed())
    configs = [Algo(sigma=1.0), Algo(sigma=0.3), Algo(loss="ppo", clip=0.2), Algo(loss="ppo", clip=0.05)]
    gradients = [update([batch], cfg)[0] for cfg in configs]
    for i, one in enumerate(gradients):
        assert all(not torch.allclose(one, other) for other in gradients[i + 1 :])


def test_a_truncated_segment_learns_from_what_would_have_come():
    """The public AcceRL code bootstraps truncated segments with 0."""
    cut, ended = segment(4, end="truncated"), segment(4, end="terminated")
    results = {}
    for s in (cut, ended):
        batch = SegmentBatch.of([s])
        values = torch.full((len(batch.tokens),), 5.0)
        results[s.truncated] = advantages_and_returns(values, batch, Algo(gamma=0.9))[1][0, -1].item()
    assert results[True] - results[False] == pytest.approx(0.9 * 5)


def test_where_success_must_come_in_time_nothing_comes_after_the_step_limit():
    """A segment that is merely cut goes on, whatever a step limit means."""
    in_time = Algo(gamma=0.9, truncation="failure")
    returns = {}
    for end in ("terminated", "truncated", ""):
        batch = SegmentBatch.of([segment(4, end=end)])
        values = torch.full((len(batch.tokens),), 2.0)
        returns[end] = [advantages_and_returns(values, batch, algo)[1][0] for algo in (Algo(gamma=0.9), in_time)]
    torch.testing.assert_close(returns["truncated"][1], returns["terminated"][0])
    assert (returns["truncated"][0] - returns["truncated"][1])[-1].item() == pytest.approx(0.9 * 2)
    for end in ("terminated", ""):
        assert torch.equal(*returns[end])


def test_tokens_that_were_not_executed_do_not_matter():
    s = segment(3, end="terminated", executed=torch.tensor([4, 4, 1]).short().numpy())
    changed = replace(s, logp=s.logp.copy(), tokens=s.tokens.copy())
    changed.logp[-1, 1:], changed.tokens[-1, 1:] = -9.0, 0
    for one, other in zip(*(update([SegmentBatch.of([x])], Algo())[:2] for x in (s, changed)), strict=True):
        if isinstance(one, dict):
            assert one == pytest.approx(other)
        else:
            torch.testing.assert_close(one, other)


def test_shuffled_advantages_are_a_permutation_over_decisions():
    """With the value and KL terms off, a batch of one decision cannot be shuffled; a longer one must be."""
    cfg = Algo(value_coef=0.0, kl_coef=0.0)
    control = replace(cfg, shuffle_advantages=True)
    seed = torch.Generator().manual_seed(0)
    one, many = SegmentBatch.of([segment(1)]), SegmentBatch.of(mixed())
    torch.testing.assert_close(update([one], cfg)[0], update([one], control, generator=seed)[0])
    assert not torch.allclose(update([many], cfg)[0], update([many], control, generator=seed)[0])
    again = [update([many], control, generator=torch.Generator().manual_seed(7))[0] for _ in range(2)]
    assert (again[0] == again[1]).all()


def test_shuffling_keeps_the_multiset_of_advantages():
    batch = SegmentBatch.of(mixed())
    flat = batch.flat(torch.where(batch.mask, torch.rand(batch.mask.shape) + 1, 0.0))
    shuffled = _shuffled(flat, batch, torch.Generator().manual_seed(0))
    torch.testing.assert_close(shuffled.sort().values, flat.sort().values)
    assert ((shuffled == 0) == (flat == 0)).all()


def test_value_warm_up_trains_nothing_else():
    gradient, stats, _ = update([SegmentBatch.of(mixed())], Algo(), value_only=True)
    assert not gradient[:, 1:].any()
    assert gradient[:, 0].any()
    assert stats["loss"] == pytest.approx(0.5 * stats["value_loss"])


def test_stats_are_detached_and_named_after_the_loss():
    batch = SegmentBatch.of(mixed())
    evaluation = Linear().evaluate(batch.observations, batch.tokens)
    for name, wanted in (("gipo", "damped_share"), ("ppo", "clipped_share")):
        _, stats = total_loss(evaluation, batch, Algo(loss=name), seasoned(), version=12)
        assert wanted in stats
        assert all(not x.requires_grad and x.ndim == 0 for x in stats.values())


def test_entropy_of_known_distributions():
    assert entropy(torch.zeros(2, 1, 1, 8)).item() == pytest.approx(torch.tensor(8.0).log().item())
    ruled_out = torch.tensor([[[[0.0, 0.0, -torch.inf]]]], requires_grad=True)
    value = entropy(ruled_out)
    value.backward()
    assert value.item() == pytest.approx(torch.tensor(2.0).log().item())
    assert ruled_out.grad.isfinite().all()
