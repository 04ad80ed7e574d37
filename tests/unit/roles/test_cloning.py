"""Behaviour cloning: samples and masks, softened labels, resuming, and that it learns at all."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from acceerl.policies import TinyPolicy
from acceerl.protocols import PolicySpec
from acceerl.roles import cloning
from acceerl.roles.cloning import (
    CloningBatch,
    Demonstrations,
    augment,
    clone,
    cloning_loss,
    label_table,
    schedule,
)
from acceerl.types import ObservationBatch

SPEC = PolicySpec(chunk=4, action_dim=2, bins=16, cameras=("front",), image_size=(16, 16), proprio=3)


def trajectory(steps, seed=0, **changes):
    rng = np.random.default_rng(seed)
    record = {
        "images": {"front": rng.integers(0, 256, (steps, 16, 16, 3), dtype=np.uint8)},
        "proprio": rng.normal(size=(steps, 3)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        "expert_actions": None,
        "instruction": f"task {seed}",
    }
    return SimpleNamespace(**{**record, **changes})


def tiny(seed=0):
    return TinyPolicy(SPEC, width=16, layers=1, heads=2, channels=8, waves=8, words=4, vocabulary=32, seed=seed)


def test_a_sample_never_crosses_the_end_of_its_trajectory():
    first, second = trajectory(6, 0), trajectory(5, 1)
    data = Demonstrations([first, second], SPEC)
    batch = data.sample(np.array([0, 4, 6, 10]))
    assert batch.mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]
    assert np.array_equal(batch.actions[0], first.actions[:4])
    assert np.array_equal(batch.actions[1, :2], first.actions[4:])
    assert np.array_equal(batch.actions[2], second.actions[:4])
    assert np.array_equal(batch.observations.images["front"][3], second.images["front"][4])
    assert batch.observations.instructions == ("task 0", "task 0", "task 1", "task 1")


def test_clean_expert_actions_are_preferred_as_labels():
    clean = np.full((6, 2), 0.5, np.float32)
    data = Demonstrations([trajectory(6, expert_actions=clean)], SPEC)
    assert np.array_equal(data.sample(np.array([0])).actions[0], clean[:4])


def test_labels_that_answer_noise_of_the_same_chunk_are_masked():
    record = trajectory(6)
    record.expert_actions = record.actions.copy()
    record.actions[2] += 0.1  # noise was executed at step 2
    mask = Demonstrations([record], SPEC).sample(np.arange(6)).mask
    assert mask.tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ([], "no trajectories"),
        ([trajectory(5, images={"wrist": np.zeros((5, 16, 16, 3), np.uint8)})], "no camera 'front'"),
        ([trajectory(5, proprio=np.zeros((5, 4), np.float32))], "proprioception is 4, the policy needs 3"),
    ],
)
def test_unfit_trajectories_are_named(record, words):
    with pytest.raises(ValueError, match=words):
        Demonstrations(record, SPEC)


def test_labels_peak_at_their_bin_and_spread_by_sigma():
    table = label_table(256, 3.0)
    assert torch.allclose(table.sum(-1), torch.ones(256))
    assert torch.equal(table.argmax(-1), torch.arange(256))
    spread = (table[128] * (torch.arange(256) - 128.0) ** 2).sum().sqrt()
    assert float(spread) == pytest.approx(3.0, rel=1e-3)


def test_loss_ignores_masked_steps_and_is_the_cross_entropy():
    logits, actions = torch.randn(2, 4, 2, 16), torch.rand(2, 4, 2) * 2 - 1
    mask = torch.tensor([[1.0, 1, 0, 0], [1, 0, 0, 0]])
    loss = cloning_loss(logits, actions, mask, label_table(16, 1.0))
    total = 0.0
    for n, c in [(0, 0), (0, 1), (1, 0)]:
        for d in range(2):
            bins = torch.arange(16)
            nearest = round(float((actions[n, c, d] + 1) * 7.5))
            weights = torch.exp(-0.5 * (bins - nearest) ** 2)
            total -= float((weights / weights.sum() * logits[n, c, d].log_softmax(-1)).sum()) / 6
    assert float(loss) == pytest.approx(total, rel=1e-4)


def test_shifting_moves_all_cameras_alike_and_zero_changes_nothing():
    frames = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    seen = ObservationBatch({"a": frames, "b": frames.copy()}, np.zeros((5, 3), np.float32), ("x",) * 5)
    sample = CloningBatch(seen, np.zeros((5, 4, 2), np.float32), np.ones((5, 4), np.float32))
    assert augment(sample, 0, np.random.default_rng(0)) is sample
    moved = augment(sample, 2, np.random.default_rng(0)).observations.images
    assert np.array_equal(moved["a"], moved["b"])
    for before, after in zip(frames, moved["a"], strict=True):
        padded = np.pad(before, ((2, 2), (2, 2), (0, 0)), mode="edge")
        crops = [padded[i : i + 16, j : j + 16] for i in range(5) for j in range(5)]
        assert any(np.array_equal(after, crop) for crop in crops)


def test_schedule_rises_then_falls_to_zero():
    shares = [schedule(step, 10, 100) for step in range(100)]
    assert max(shares) == pytest.approx(1.0, abs=0.1)
    assert shares[0] < 0.1
    assert shares[-1] < 0.01


def test_it_learns_one_trajectory_by_heart():
    policy, data = tiny(), Demonstrations([trajectory(4)], SPEC)
    losses = []
    clone(policy, data, steps=120, batch=8, lr=1e-2, warmup=5, label_sigma=0.5, shift=0, ema=0.0, every=20,
          progress=lambda _, figures: losses.append(figures["loss"]))  # fmt: skip
    assert losses[-1] < losses[0] - 0.7
    chunk = policy.act(data.sample(np.array([0])).observations, True).actions[0]
    assert np.abs(chunk - data.actions[:4]).mean() < 0.15


def test_an_interrupted_training_equals_an_uninterrupted_one():
    data = Demonstrations([trajectory(8)], SPEC)
    settings = {"steps": 6, "batch": 4, "lr": 1e-3, "warmup": 2, "every": 3}
    whole, half, rest = tiny(), tiny(), tiny(seed=9)
    clone(whole, data, **settings)
    state = clone(half, data, **settings, stop=lambda: True)
    assert state["step"] == 3
    clone(rest, data, **settings, state=state)
    for name, tensor in whole.state_dict().items():
        assert torch.allclose(tensor, rest.state_dict()[name], atol=1e-6), name


def test_a_resumed_average_lies_where_the_policy_does():
    """Checkpoints are read into host memory; the policy may be on a GPU."""
    data = Demonstrations([trajectory(8)], SPEC)
    state = clone(tiny(), data, steps=1, batch=2)
    there = tiny().to("meta")
    there.load_state_dict = lambda weights: None
    average, step = cloning._start(there, SimpleNamespace(load_state_dict=lambda moments: None), data, state)
    assert step == 1 and {tensor.device.type for tensor in average.values()} == {"meta"}


def test_progress_and_checkpoints_come_every_so_often():
    steps, checkpoints = [], []
    clone(tiny(), Demonstrations([trajectory(8)], SPEC), steps=5, batch=2, every=2,
          progress=lambda step, _: steps.append(step),
          checkpoint=lambda state: checkpoints.append(state["step"]))  # fmt: skip
    assert steps == checkpoints == [2, 4, 5]
