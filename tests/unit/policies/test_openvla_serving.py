"""Serving in padded batches: the same numbers as without, few shapes, and prompts that are tokenised once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from acceerl.policies.openvla_oft import OpenVlaOftPolicy
from acceerl.policies.openvla_oft.serving import WIDTHS, Buckets, Staging, filled
from acceerl.protocols import PolicySpec
from acceerl.types import ObservationBatch

pytestmark = pytest.mark.needs("transformers")
SPEC = PolicySpec(chunk=2, action_dim=2, bins=256, cameras=("front",), image_size=(224, 224), proprio=0)
WORDS = ("go", "pick up the red bowl", "put it on the plate beside the stove", "go", "open it")


@pytest.fixture(scope="module")
def policy() -> OpenVlaOftPolicy:
    return OpenVlaOftPolicy(SPEC, random="tiny", precision="float32", rank=2, value_width=16)


def seen(rows: int) -> ObservationBatch:
    pictures = np.random.default_rng(0).integers(0, 256, (rows, 224, 224, 3), np.uint8)
    return ObservationBatch({"front": pictures}, np.zeros((rows, 0), np.float32), WORDS[:rows])


@pytest.mark.parametrize("rows", [1, 3, 5])
@torch.inference_mode()
def test_padding_changes_no_number(policy, rows):
    pixels, prompts = policy._inputs(seen(rows))
    logits, values = policy._compute(pixels, prompts)
    padded_logits, padded_values = Buckets(policy._compute)(pixels, prompts)
    assert padded_logits.shape == logits.shape and padded_values.shape == values.shape
    torch.testing.assert_close(padded_logits, logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(padded_values, values, atol=1e-5, rtol=1e-4)
    assert torch.equal(padded_logits.argmax(-1), logits.argmax(-1))


def test_few_shapes_occur(policy):
    shapes = set()
    for rows in range(1, 6):
        pixels, prompts = filled(*policy._inputs(seen(rows)))
        shapes.add((len(pixels), prompts.ids.shape[1]))
        assert prompts.ids.shape == prompts.actions.shape and prompts.ids.shape[1] % WIDTHS == 0
        assert len(prompts.lengths) == len(pixels) and int(prompts.actions.sum(1).min()) == policy.places
        assert prompts.valid is not None and prompts.valid.shape == prompts.ids.shape
    assert {rows for rows, _ in shapes} == {1, 2, 4, 8} and len(shapes) <= 5


def test_what_acts_in_buckets_draws_the_same_actions(policy):
    plain = OpenVlaOftPolicy(SPEC, random="tiny", precision="float32", rank=2, value_width=16, buckets=False)
    for acting in (policy, plain):
        acting.seed(3)
    ours, theirs = (acting.act(seen(3), greedy=[True, False, False]) for acting in (policy, plain))
    assert np.array_equal(ours.tokens, theirs.tokens)
    np.testing.assert_allclose(ours.logp, theirs.logp, atol=1e-5)


def test_a_prompt_is_tokenised_once(policy, monkeypatch):
    asked = []
    monkeypatch.setattr(policy.prompts, "_known", {})
    encode = policy.prompts.encode
    monkeypatch.setattr(policy.prompts, "encode", lambda text: asked.append(text) or encode(text))
    for _ in range(3):
        policy.act(seen(5), greedy=True)
    assert len(asked) == len(set(WORDS))


def test_pictures_that_stay_on_the_host_are_not_staged():
    staging, frames = Staging(), seen(2).images["front"]
    assert np.array_equal(staging("front", frames[:, ::-1], torch.device("cpu")).numpy(), frames[:, ::-1])
    assert not staging.rooms
