"""Which device each job computes on, and one clear line where there is none."""

from __future__ import annotations

import pytest
import torch

from acceerl.jobs import build, collect, evaluate, pretrain
from acceerl.launch.compose import compose
from acceerl.policies.openvla_oft import OpenVlaOftPolicy
from acceerl.protocols import PolicySpec
from acceerl.runtime.rundir import Run


class Made(Exception):
    """Ends a job where its policy would have been made."""


def device_of(monkeypatch, module, job) -> str:
    """Where `job` asks for its policy."""

    def make(config, spec, start=None, device="cpu"):
        raise Made(device)

    monkeypatch.setattr(module, "make_policy", make)
    with pytest.raises(Made) as made:
        job()
    return str(made.value)


def test_what_acts_does_so_where_inference_would(monkeypatch, tmp_path):
    """On a CPU seven billion parameters would take minutes for a decision."""
    for command in ("evaluate", "train"):
        config = compose(command, ["inference.device=cuda:1", "env.image_size=16", f"runs={tmp_path}"])
        run = Run.create(config)
        assert device_of(monkeypatch, evaluate, lambda c=config, r=run: evaluate.score(c, r, None, "x")) == "cuda:1"
    env = build.make_env(config)
    config = compose("collect", ["collect.by=policy", "inference.device=cuda"])
    assert device_of(monkeypatch, collect, lambda: collect._actor(config, env)) == "cuda"


def test_imitation_has_a_device(monkeypatch, tmp_path):
    words = ["pretrain.data=x", "pretrain.device=cuda", "env.image_size=16", f"runs={tmp_path}"]
    config = compose("pretrain", words)
    assert device_of(monkeypatch, pretrain, lambda: pretrain.run(config, Run.create(config))) == "cuda"
    assert compose("pretrain", []).pretrain.device == "cpu"


@pytest.mark.needs("transformers")
def test_blocks_are_compiled_one_by_one(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda forward: asked.append(forward.__self__) or forward)
    spec = PolicySpec(chunk=2, action_dim=2, bins=256, cameras=("front",), image_size=(224, 224), proprio=0)
    policy = OpenVlaOftPolicy(spec, random="tiny", rank=2, value_width=16)
    names = set(policy.state_dict())
    assert build.compiled(policy) is policy
    assert asked == list(policy.blocks()) and len(asked) == 3 + 2 + 2
    assert set(policy.state_dict()) == names, "checkpoints do not depend on it"
    build.check_compiled(compose("train", ["policy=openvla_oft", "learner.compile=true"]))
    with pytest.raises(ValueError, match=r"learner\.compile=true: .*TinyPolicy has no `blocks`: leave it out"):
        build.check_compiled(compose("train", ["learner.compile=true"]))


def test_a_device_that_is_not_there_is_one_line(monkeypatch):
    chosen: list[str] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for device in ("cpu", "cuda", "cuda:1"):
        build.use(device)
    assert chosen == ["cuda:1"], "streams and page-locked memory are of the current one"
    with pytest.raises(ValueError, match=r"device cuda:2, but torch .* sees 2 GPUs here: set it to cpu"):
        build.use("cuda:2")
    for device in ("gpu", "cuda:one"):
        with pytest.raises(ValueError, match="is unknown: choose cpu, cuda or cuda:NUMBER"):
            build.use(device)
    with pytest.raises(ValueError, match="sees 2 GPUs"):
        build.make_policy(compose("evaluate", []), None, device="cuda:7")
