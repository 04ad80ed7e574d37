"""TinyPolicy: what acts is what trains, flags are per row, the value leaves the trunk alone, gradients are right."""

import numpy as np
import pytest
import torch

from acceerl.policies import TinyPolicy
from acceerl.policies.tiny_parts import Read
from acceerl.protocols import PolicySpec
from acceerl.types import ObservationBatch

SPEC = PolicySpec(chunk=8, action_dim=7, bins=256, cameras=("front", "wrist"), image_size=(32, 32), proprio=8)


def small(seed=0, **kwargs):
    return TinyPolicy(SPEC, **{"width": 32, "layers": 2, "channels": 16, "seed": seed, **kwargs})


def observations(n=4, seed=0):
    rng = np.random.default_rng(seed)
    images = {name: rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8) for name in SPEC.cameras}
    texts = ("pick up the bowl", "open the drawer")
    return ObservationBatch(images, rng.normal(size=(n, 8)).astype(np.float32), tuple(texts[i % 2] for i in range(n)))


def row(batch, i):
    images = {name: frames[i : i + 1] for name, frames in batch.images.items()}
    return ObservationBatch(images, batch.proprio[i : i + 1], batch.instructions[i : i + 1])


def test_default_size_is_between_one_and_three_million():
    count = sum(p.numel() for p in TinyPolicy(SPEC).parameters())
    assert 1e6 < count < 3e6


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_acting_and_evaluating_agree_on_log_probabilities(temperature):
    policy = small(temperature=temperature)
    seen = observations(16)
    acted = policy.act(seen, greedy=False)
    evaluated = policy.evaluate(seen, acted.tokens)
    assert np.allclose(acted.logp, evaluated.logp.detach().numpy(), atol=1e-3)
    assert np.allclose(acted.values, evaluated.values.detach().numpy(), atol=1e-3)


def test_an_observation_does_not_depend_on_its_batch():
    policy, seen = small(), observations(6)
    together = policy.act(seen, greedy=True)
    for i in range(6):
        assert np.allclose(policy.act(row(seen, i), greedy=True).logp[0], together.logp[i], atol=1e-3)


def test_greedy_flags_are_per_row():
    policy, seen = small(), observations(4)
    best = policy.evaluate(seen, np.zeros((4, 8, 7), np.int64)).logits.argmax(-1).numpy()
    tokens = policy.act(seen, [True, False, True, False]).tokens
    assert np.array_equal(tokens[[0, 2]], best[[0, 2]])
    assert not np.array_equal(tokens[1], best[1])
    assert not np.array_equal(tokens[3], best[3])


def test_sampling_is_seeded_and_follows_the_probabilities():
    policy, seen = small(), observations(1)
    policy.seed(5)
    first = policy.act(seen, False).tokens
    policy.seed(5)
    assert np.array_equal(first, policy.act(seen, False).tokens)
    logp = torch.log(torch.tensor([0.0, 0.2, 0.0, 0.8])).expand(4000, 4)
    counts = torch.bincount(policy._sample(logp), minlength=4)
    assert counts[0] == counts[2] == 0
    assert abs(int(counts[3]) - 3200) < 150


def test_value_gradients_stop_at_the_trunk_and_policy_gradients_at_the_value_head():
    policy = small()
    evaluation = policy.evaluate(observations(), np.zeros((4, 8, 7), np.int64))
    evaluation.values.sum().backward(retain_graph=True)
    assert {n.split("_")[0] for n, p in policy.trainable_parameters() if p.grad is not None} == {"value"}
    policy.zero_grad()
    evaluation.logp.sum().backward()
    assert all((p.grad is None) == name.startswith("value") for name, p in policy.trainable_parameters())


def test_image_instruction_and_proprioception_all_matter():
    policy, seen = small(), observations(1)
    base = policy.act(seen, True).logp
    black = {name: np.zeros_like(frames) for name, frames in seen.images.items()}
    changed = [
        ObservationBatch(black, seen.proprio, seen.instructions),
        ObservationBatch(seen.images, seen.proprio + 1, seen.instructions),
        ObservationBatch(seen.images, seen.proprio, ("close the drawer",)),
    ]
    assert all(not np.allclose(policy.act(other, True).logp, base) for other in changed)


def test_word_codes_are_the_same_on_every_machine():
    codes = small(vocabulary=1024).instructions.encode("Pick up")
    assert codes == [127, 998] + [0] * 22


def test_reading_equals_attention_with_projected_keys_and_values():
    """The absorbed projections against the slow, obvious form: one head at a time."""
    torch.manual_seed(0)
    read, latents, memory = Read(8, 2, 4), torch.randn(1, 3, 8), torch.randn(1, 5, 4)
    queries = read.query(read.norm(latents)).view(1, 3, 2, 4)
    heads = []
    for h in range(2):
        weights = torch.softmax(queries[:, :, h] @ memory.transpose(1, 2) / 4**0.5, dim=-1)
        heads.append(weights @ memory)
    assert torch.allclose(read(latents, memory), read.out(torch.cat(heads, dim=-1)), atol=1e-6)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="16 divides"):
        TinyPolicy(PolicySpec(8, 7, 256, ("front",), (60, 64), 8))
    with pytest.raises(ValueError, match="unknown precision 'half'"):
        TinyPolicy(SPEC, precision="half")
