"""The success model: it learns what an instruction asks for, doubts what it does not know, and can be calibrated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from acceerl.world_models.success import SuccessNet, focal_loss
from tests.unit.world_models.worlds import SPEC, square

TEXTS = ("go left", "go right")


def net(**numbers) -> SuccessNet:
    return SuccessNet(SPEC, **({"members": 2, "channels": 8, "seed": 0} | numbers))


def examples() -> tuple[dict[str, torch.Tensor], torch.Tensor, list[str], torch.Tensor, torch.Tensor]:
    """A square on the left or on the right, and both instructions for each: neither alone tells the label."""
    shades, columns = (200, 215, 230, 245), (0, 12)
    cases = [(shade, column, text) for shade in shades for column in columns for text in TEXTS]
    images = np.stack([square(column, shade=shade) for shade, column, _ in cases])
    truth = [(c == 0) == (t == TEXTS[0]) for _, c, t in cases]
    labels = torch.tensor(truth)[:, None].expand(-1, SPEC.stride)
    shown = {"front": torch.from_numpy(images)}
    return shown, still(len(cases)), [text for *_, text in cases], labels, torch.ones(labels.shape, dtype=torch.bool)


def still(n: int) -> torch.Tensor:
    """Proprioception that tells nothing, of the past and of a tick."""
    return torch.zeros(n, SPEC.context + SPEC.stride, SPEC.proprio)


def answers(model: SuccessNet) -> torch.Tensor:
    return model.probability(*examples()[:3])


@pytest.fixture(scope="module")
def trained() -> SuccessNet:
    model = net()
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(150):
        loss, figures = model.loss(*examples())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert figures["success_loss"] == pytest.approx(loss.item())
    return model.eval()


def test_it_learns_what_the_instruction_asks_for(trained: SuccessNet):
    opinions = answers(trained)
    assert opinions.shape == (16, 2, 2)
    assert ((opinions > 0.5) == examples()[3][..., None]).all()


def paths() -> tuple[dict[str, torch.Tensor], torch.Tensor, list[str], torch.Tensor]:
    """Of each picture, the square on the left or on the right, two questions: a body that ends on either side."""
    columns = [0, 12] * 8
    images = np.stack([square(column, shade=200 + i) for i, column in enumerate(columns)])
    felt = torch.zeros(32, SPEC.context + SPEC.stride, SPEC.proprio)
    felt[:16, -1], felt[16:, -1] = -1.0, 1.0
    there = torch.tensor([[column == 0] for column in columns] + [[column == 12] for column in columns])
    labels = torch.cat([torch.zeros_like(there), there], dim=1)
    return {"front": torch.from_numpy(images)}, felt, ["go there"] * 32, labels


def test_it_looks_where_the_body_goes_and_several_questions_share_a_picture():
    shown, felt, words, labels = paths()
    model = net()
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(250):
        loss, _ = model.loss(shown, felt, words, labels, torch.ones_like(labels))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    opinions = model.probability(shown, felt, words).mean(dim=-1)
    assert ((opinions > 0.5) == labels).all()
    alone = model.probability({"front": shown["front"][:1]}, felt[16:17], words[:1]).mean(dim=-1)
    torch.testing.assert_close(alone[0], opinions[16])


def test_it_forgets_while_it_learns_and_not_when_it_is_asked():
    model, asked = net(), paths()
    first, second = (model.loss(*asked, torch.ones_like(asked[3]))[0].item() for _ in range(2))
    assert first != second
    assert torch.equal(model.probability(*asked[:3]), model.probability(*asked[:3]))


def test_opinions_are_probabilities_without_gradients(trained: SuccessNet):
    opinions = answers(trained)
    assert opinions.dtype == torch.float32
    assert not opinions.requires_grad
    assert float(opinions.min()) >= 0 and float(opinions.max()) <= 1


def test_members_disagree_until_they_have_learnt_and_about_what_they_never_saw(trained: SuccessNet):
    learnt = answers(trained).std(dim=-1).mean()
    assert learnt < 0.5 * _unknown(trained).std(dim=-1).mean()
    fresh = net(members=3)
    assert (answers(fresh).std(dim=-1) > 0).all()


def _unknown(model: SuccessNet) -> torch.Tensor:
    noise = torch.randint(0, 256, (64, 16, 16, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return model.probability({"front": noise}, still(64), ["turn around slowly"] * 64)


def test_members_are_trained_on_other_ticks():
    """Each leaves out a random fifth: with equal weights their losses on the same ticks differ."""
    model = net()
    model.members[1].load_state_dict(model.members[0].state_dict())
    gradients = []
    for member in model.members:
        model.seed(1)
        model.zero_grad()
        model.loss(*examples())[0].backward()
        gradients.append(member.head[-1].weight.grad.clone())
    assert not torch.allclose(*gradients)


def test_equal_seeds_leave_out_equal_ticks():
    model, losses = net(), []
    for seed in (1, 2, 1):
        model.seed(seed)
        losses.append(model.loss(*examples())[0].item())
    assert losses[0] == losses[2] != losses[1]


@pytest.mark.parametrize(("gamma", "alpha"), [(0.0, 0.5), (2.0, 0.5), (2.0, 0.9), (1.0, 0.25)])
def test_the_focal_loss_is_its_formula(gamma: float, alpha: float):
    logits, labels = np.array([-3.0, -0.5, 0.0, 2.0, 4.0, -1.0]), np.array([1, 0, 1, 1, 0, 0])
    expected = []
    for logit, label in zip(logits, labels, strict=True):
        p = 1 / (1 + np.exp(-logit))
        p = p if label else 1 - p
        expected.append(-(alpha if label else 1 - alpha) * (1 - p) ** gamma * np.log(p))
    found = focal_loss(torch.from_numpy(logits), torch.from_numpy(labels).double(), gamma, alpha)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_the_focal_loss_and_its_gradient_are_finite_where_the_answer_is_certain():
    logits = torch.tensor([80.0, -80.0, 80.0, -80.0], requires_grad=True)
    losses = focal_loss(logits, torch.tensor([1.0, 0.0, 0.0, 1.0]), 2.0, 0.5)
    losses.sum().backward()
    assert losses.tolist() == pytest.approx([0.0, 0.0, 40.0, 40.0])
    assert logits.grad is not None and torch.isfinite(logits.grad).all()


def test_calibration_makes_held_out_labels_likelier():
    rng = np.random.default_rng(0)
    true = torch.from_numpy(rng.normal(0, 2, (4000, 1)))
    labels = torch.from_numpy(rng.random(4000)) < torch.sigmoid(true[:, 0])
    timid = (true / 4).float().expand(-1, 2)
    model = net()
    assert model.calibrate(timid, labels) == pytest.approx(0.25, rel=0.15)
    truth = labels.float()[:, None].expand(-1, 2)
    before, after = (
        float(F.binary_cross_entropy_with_logits(timid / t, truth)) for t in (1.0, float(model.temperature))
    )
    assert after < before


def test_a_temperature_sharpens_and_belongs_to_the_weights():
    model, plain = net(), net()
    model.temperature.fill_(0.25)
    logits = plain.logits(*examples()[:3])
    np.testing.assert_allclose(answers(model), torch.sigmoid(4 * logits), rtol=1e-6)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(answers(plain), answers(model))


def test_two_cameras_are_both_looked_at():
    spec = replace(SPEC, cameras=("front", "wrist"))
    model = SuccessNet(spec, members=1, channels=8)
    dark, bright = (torch.full((1, 16, 16, 3), v, dtype=torch.uint8) for v in (0, 255))
    pairs = ((dark, dark), (dark, bright))
    both = [model.probability({"front": a, "wrist": b}, still(1), ["go"]) for a, b in pairs]
    assert not torch.equal(*both)


def test_what_no_picture_shows_the_body_tells_and_when():
    """Equal pictures and words: fulfilled at the step at which fingers open, in units that it has to scale."""
    model, n = net(), 24
    model.normalise_proprio([500.0, 100.5], [1.0, 0.5])
    opens = torch.arange(n) % 3  # 2: never
    felt = torch.tensor([500.0, 100.0]).repeat(n, SPEC.context + SPEC.stride, 1)
    labels = torch.zeros(n, SPEC.stride, dtype=torch.bool)
    for i, step in enumerate(opens.tolist()):
        felt[i, SPEC.context + step :, 1] = 101.0
        labels[i, step:] = step == torch.arange(step, SPEC.stride)  # once open it is too late
    shown, words, optimiser = (
        {"front": torch.from_numpy(np.stack([square(0)] * n))}, ["let go"] * n,
        torch.optim.Adam(model.parameters(), 3e-3),
    )  # fmt: skip
    for _ in range(100):
        optimiser.zero_grad()
        model.loss(shown, felt, words, labels, torch.ones_like(labels))[0].backward()
        optimiser.step()
    opinions = model.eval().probability(shown, felt, words)
    assert ((opinions > 0.5) == labels[..., None]).all()


def test_steps_that_never_happened_teach_nothing():
    images, felt, texts, labels, _ = examples()
    model, losses = net(), []
    first = (torch.arange(SPEC.stride) == 0).expand_as(labels)
    for truth in (labels, torch.where(first, labels, ~labels)):
        model.seed(1)
        losses.append(model.loss(images, felt, texts, truth, first)[0].item())
    assert losses[0] == losses[1]


def test_a_body_is_no_must():
    """Then it is asked about the end of a tick alone."""
    model = SuccessNet(replace(SPEC, proprio=0), members=1, channels=8)
    images, _, texts, labels, counted = examples()
    felt = torch.zeros(16, SPEC.context + 1, 0)
    loss, _ = model.loss(images, felt, texts, labels[:, :1], counted[:, :1])
    assert torch.isfinite(loss)
    assert model.probability(images, felt, texts).shape == (16, 1, 1)


def test_one_member_is_an_ensemble_too():
    assert answers(net(members=1)).shape == (16, 2, 1)


@pytest.mark.parametrize(
    ("spec", "numbers", "message"),
    [
        (replace(SPEC, image_size=(16, 24)), {}, r"sides 16 divides, not \(16, 24\)"),
        (SPEC, {"members": 0}, "success_model.members=0 must be at least 1"),
        (SPEC, {"alpha": 1.0}, "alpha=1.0 between 0 and 1"),
    ],
)
def test_what_cannot_be_is_refused(spec, numbers: dict, message: str):
    with pytest.raises(ValueError, match=message):
        SuccessNet(spec, **numbers)
