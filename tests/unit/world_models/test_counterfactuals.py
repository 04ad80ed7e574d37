"""What did not happen: other words, and gestures that end elsewhere."""

from __future__ import annotations

import torch

from acceerl.world_models.counterfactuals import FAR, Questions, elsewhere, with_counterfactuals

N, CONTEXT, STEPS, SIZE = 400, 2, 4, 3


def happened(n: int = N, size: int = SIZE) -> Questions:
    """The first half succeed with the last step but one, which is the last that happened, at two places."""
    felt = torch.randn(n, CONTEXT + STEPS, size, generator=torch.Generator().manual_seed(1))
    lasts = STEPS - 1
    felt[: n // 2, CONTEXT + lasts - 1 :] = torch.tensor([-2.0, 2.0])[torch.arange(n // 2) % 2][:, None, None]
    counted = torch.zeros(n, STEPS, dtype=torch.bool)
    counted[:, :lasts] = True
    labels = torch.zeros_like(counted)
    labels[: n // 2, lasts - 1] = True
    return Questions(felt, ["go left", "go right", "go right"] * (n // 3) + ["go right"] * (n % 3), labels, counted)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_what_happened_comes_first_and_then_twice_what_did_not():
    true = happened()
    asked = with_counterfactuals(true, generator())
    assert asked.felt.shape == (3 * N, CONTEXT + STEPS, SIZE) and len(asked.words) == len(asked.labels) == 3 * N
    assert torch.equal(asked.felt[:N], true.felt) and torch.equal(asked.felt[N : 2 * N], true.felt)
    assert torch.equal(asked.labels[:N], true.labels) and torch.equal(asked.counted[: 2 * N], true.counted.repeat(2, 1))
    assert asked.words == true.words + true.words[1:] + true.words[:1] + true.words


def test_other_words_are_not_fulfilled_unless_they_are_the_same():
    true = happened()
    asked = with_counterfactuals(true, generator())
    others, labels = asked.words[N : 2 * N], asked.labels[N : 2 * N]
    same = torch.tensor([a == b for a, b in zip(true.words, others, strict=True)])
    assert 0.2 < same.float().mean() < 0.5
    assert torch.equal(labels[same], true.labels[same]) and not labels[~same].any()


def test_gestures_elsewhere_fulfil_nothing():
    true = happened()
    asked = with_counterfactuals(true, generator())
    _, counts = elsewhere(true, generator())
    assert not asked.labels[2 * N :].any()
    assert torch.equal(asked.counted[2 * N :], true.counted & counts[:, None])


def test_they_are_the_same_gestures():
    true = happened()
    away = elsewhere(true, generator())[0] - true.felt
    torch.testing.assert_close(away, away[:, -1:].expand_as(away))


def test_some_end_where_another_deed_was_done_if_that_is_far_and_the_others_where_none_was():
    true = happened()
    felt, counts = elsewhere(true, generator())
    deviation = true.felt.flatten(0, 1).std(dim=0, correction=0)
    ends, deeds = felt[:, -1] / deviation, true.felt[: N // 2, -1] / deviation
    at_a_deed = torch.cdist(ends, deeds).amin(dim=1) < 1e-3
    assert 0.3 < at_a_deed.float().mean() < 0.5
    away = (felt - true.felt)[:, -1] / deviation
    assert torch.equal(counts[at_a_deed], (away.norm(dim=1) >= FAR[0])[at_a_deed])
    assert 0.6 < counts[at_a_deed].float().mean() < 1, "those that end where they did anyway are left out"
    alone = torch.cdist(ends, deeds).amin(dim=1) >= FAR[0]
    assert torch.equal(counts[~at_a_deed], alone[~at_a_deed])
    assert set((away[~at_a_deed].abs() > 1e-6).sum(dim=1).tolist()) == {1, 2}


def test_equal_seeds_ask_alike_and_others_do_not():
    first, again, other = (with_counterfactuals(happened(), generator(seed)).felt for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_without_a_body_there_are_other_words_only():
    asked = with_counterfactuals(happened(size=0), generator())
    assert asked.felt.shape == (2 * N, CONTEXT + STEPS, 0) and len(asked.words) == 2 * N


def test_a_single_row_without_a_deed_is_asked_about_too():
    true = happened(1)
    asked = with_counterfactuals(Questions(true.felt, ["go"], true.labels & False, true.counted), generator())
    assert asked.words == ["go"] * 3 and torch.isfinite(asked.felt).all()
