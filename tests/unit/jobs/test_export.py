"""openvla_oft through imitation and out again: cloning, the policy file, `acceerl export`."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from acceerl.jobs.build import load_weights
from acceerl.jobs.export import run
from acceerl.policies import MlpPolicy, save_policy
from acceerl.policies.openvla_oft import OpenVlaOftPolicy
from acceerl.protocols import PolicySpec
from acceerl.roles.cloning import Demonstrations, clone
from tests.unit.policies import openvla_recipe as recipe

pytestmark = [pytest.mark.needs("transformers"), pytest.mark.needs("tokenizers"), pytest.mark.needs("safetensors")]
SPEC = PolicySpec(chunk=2, action_dim=7, bins=256, cameras=("agentview",), image_size=(224, 224), proprio=0)
ACTIONS = np.array([[0.3, -0.2, 0.5, 0.02, -0.1, 0.05, 1.0]] * 3, np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return recipe.write(tmp_path_factory.mktemp("openvla") / "checkpoint")


def make(folder):
    return OpenVlaOftPolicy(SPEC, checkpoint=str(folder), precision="float32", rank=4, crop=False)


def demonstrations():
    images = {"agentview": np.stack([recipe.picture(0)] * 3)}
    episode = SimpleNamespace(images=images, proprio=np.zeros((3, 0), np.float32), actions=ACTIONS,
                              expert_actions=None, instruction="pick up the bowl")  # fmt: skip
    return Demonstrations([episode], SPEC)


@pytest.fixture(scope="module")
def cloned(folder):
    torch.set_num_threads(1)
    policy = make(folder)
    clone(policy, demonstrations(), steps=60, batch=1, lr=5e-3, warmup=0, label_sigma=0.1, shift=0, ema=0.0)
    return policy


def test_a_cloned_policy_does_as_it_was_shown(cloned):
    """By its own tokens: with those of evenly spaced centres every action would be off by half a bin or more."""
    acted = cloned.act(demonstrations().sample(np.array([0])).observations, greedy=True)
    assert np.array_equal(acted.tokens[0, 0], cloned.scale.encode(ACTIONS[0]))
    assert np.abs(acted.actions[0, 0] - ACTIONS[0]).max() <= 1 / 255
    assert acted.actions[0, 0, 6] == 1.0


def test_the_run_is_exported_and_acts_the_same(cloned, folder, tmp_path):
    save_policy(tmp_path / "policy.pt", cloned)
    run(str(tmp_path), str(tmp_path / "out"), str(tmp_path / "adapter"), "")
    seen = demonstrations().sample(np.array([0, 1])).observations
    expected = cloned.act(seen, greedy=True).tokens
    assert np.array_equal(make(tmp_path / "out").act(seen, greedy=True).tokens, expected)
    assert {p.name for p in (tmp_path / "adapter").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    again = make(folder)
    load_weights(again, tmp_path / "policy.pt")
    assert np.array_equal(again.act(seen, greedy=True).tokens, expected)


def test_export_after_the_checkpoint_has_moved(cloned, folder, tmp_path):
    save_policy(tmp_path / "policy.pt", cloned)
    (tmp_path / "moved").symlink_to(folder)
    run(str(tmp_path / "policy.pt"), "", str(tmp_path / "adapter"), str(tmp_path / "moved"))
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        run(str(tmp_path / "policy.pt"), "", str(tmp_path / "adapter"), "/nowhere")


def test_what_cannot_be_exported_is_said_in_one_line(tmp_path, folder, cloned):
    with pytest.raises(ValueError, match="give to=FOLDER"):
        run(str(tmp_path), "", "", "")
    with pytest.raises(ValueError, match=r"policy\.pt: no such policy file"):
        run(str(tmp_path), "out", "", "")
    save_policy(tmp_path / "policy.pt", MlpPolicy(SPEC))
    with pytest.raises(ValueError, match="a 'mlp' policy came from no checkpoint"):
        run(str(tmp_path), "out", "", "")
    with pytest.raises(ValueError, match="is the checkpoint that the policy was made from"):
        cloned.export(folder)
    with pytest.raises(ValueError, match="holds a 'mlp' policy, the configuration says 'openvla_oft'"):
        load_weights(cloned, tmp_path / "policy.pt")
