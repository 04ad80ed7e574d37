"""openvla_oft against the original implementation, on a tiny random checkpoint (`openvla_recipe.py`).

tests/golden/openvla_oft.npz holds what moojink/openvla-oft answered: `predict_action` of its OpenVLAForActionPrediction
on its fork of transformers 4.40.1 with timm 0.9.16, in float32, one input at a time, with the recipe's checkpoint (all
keys matched, strictly) and two timm models of the recipe's sizes. `logits` are its rows 31744..31999 turned round, the
lowest action first; `projected` the logits of each of 1,000 inputs times a fixed random matrix; `actions_sha256` is of
all un-normalised actions, float64.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from acceerl.policies.openvla_oft import OpenVlaOftPolicy
from acceerl.protocols import PolicySpec
from acceerl.types import ObservationBatch
from tests.unit.policies import openvla_recipe as recipe

pytestmark = [pytest.mark.needs("transformers"), pytest.mark.needs("tokenizers"), pytest.mark.needs("safetensors")]
SPEC = PolicySpec(chunk=8, action_dim=7, bins=256, cameras=("agentview",), image_size=(224, 224), proprio=0)
ROOT = Path(__file__).parents[3]
BATCH = 10  # of inputs with prompts of nine lengths: padding is proved as well


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    torch.set_num_threads(1)
    folder = recipe.write(tmp_path_factory.mktemp("checkpoint"))
    return OpenVlaOftPolicy(SPEC, checkpoint=str(folder), precision="float32", crop=False)


@pytest.fixture(scope="module")
def golden():
    return np.load(Path(__file__).parents[2] / "golden" / "openvla_oft.npz")


def seen(first: int, count: int = BATCH) -> ObservationBatch:
    pictures = np.stack([recipe.picture(i) for i in range(first, first + count)])
    words = tuple(recipe.instruction(i) for i in range(first, first + count))
    return ObservationBatch({"agentview": pictures}, np.zeros((count, 0), np.float32), words)


def logits(policy, observations):
    zeros = np.zeros((len(observations), 8, 7), np.int64)
    with torch.inference_mode():
        return policy.evaluate(observations, zeros).logits.flatten(1, 2).numpy()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Logits of a process of its own, by kernels of 256 bits.

    Wider ones sum in another order, and a tiny random network makes that large: on an EPYC with AVX-512 1.3e-4.
    """
    file = tmp_path_factory.mktemp("logits") / "logits.npz"
    call = f"from {__name__} import write_logits; write_logits({str(file)!r})"
    narrow = os.environ | {"ATEN_CPU_CAPABILITY": "avx2"}
    subprocess.run([sys.executable, "-c", call], env=narrow, cwd=ROOT, check=True, timeout=300)
    return np.load(file)


def write_logits(file: str) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        made = recipe.write(Path(folder))
        policy = OpenVlaOftPolicy(SPEC, checkpoint=str(made), precision="float32", crop=False)
        np.savez(file, padded=logits(policy, seen(0))[:2], alone=logits(policy, seen(1, 1))[0])


def test_prompts_become_the_originals_ids(policy, golden):
    ends = np.cumsum(golden["lengths"])
    for i, ids in enumerate(np.split(golden["ids"], ends[:-1])):
        ours = policy.prompts.batch([recipe.instruction(i)], torch.device("cpu")).ids[0].tolist()
        assert ours[: len(ids)] == ids.tolist()
        assert ours[len(ids) :] == [recipe.SPACE] * int(ids[-1] != recipe.SPACE) + [0] * 56 + [2]


def test_logits_are_the_originals(found, golden):
    assert np.abs(found["padded"] - golden["logits"]).max() <= 1e-4


def test_an_unpadded_row_gives_the_same(found, golden):
    assert np.abs(found["alone"] - golden["logits"][1]).max() <= 1e-4


@pytest.mark.slow
def test_a_thousand_inputs_give_the_originals_tokens_and_actions(policy, golden):
    digest, project = hashlib.sha256(), recipe.numbers("projection", (56 * 256, 4), -1, 1)
    for first in range(0, 1000, BATCH):
        found = logits(policy, seen(first))
        tokens = found.argmax(axis=-1)
        assert np.array_equal(tokens, golden["tokens"][first : first + BATCH])
        shadows = found.reshape(BATCH, -1) @ project
        assert np.abs(shadows - golden["projected"][first : first + BATCH]).max() <= 5e-3  # sums of 14,336 logits
        digest.update(policy.scale.decode(tokens.reshape(BATCH, 8, 7)).tobytes())
    assert digest.hexdigest() == str(golden["actions_sha256"])


def test_unnormalised_actions_are_the_originals_bit_by_bit(policy, golden):
    tokens = golden["tokens"][: len(golden["actions"])].reshape(-1, 8, 7)
    assert np.array_equal(policy.scale.decode(tokens), golden["actions"])


def test_act_takes_the_originals_tokens(policy, golden):
    acted = policy.act(seen(20), greedy=True)
    assert np.array_equal(acted.tokens.reshape(BATCH, 56), golden["tokens"][20 : 20 + BATCH])
    assert np.array_equal(acted.actions[..., :6], golden["actions"][20:30, :, :6].clip(-1, 1).astype(np.float32))
    # the original: 1 is open in its data and -1 in LIBERO
    assert np.array_equal(acted.actions[..., 6], -np.sign(2 * golden["actions"][20:30, :, 6] - 1))
