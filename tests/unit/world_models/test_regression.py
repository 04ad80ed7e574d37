"""The regression world model on a square that actions move; what every one promises is in the contract suite."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from acceerl.protocols import WorldSpec
from acceerl.types import ClipBatch
from acceerl.world_models.quality import changed_error
from acceerl.world_models.regression import LEVELS
from acceerl.world_models.windows import ticks
from tests.unit.world_models.worlds import SPEC, moving, past_of, train, world

TWO = replace(SPEC, cameras=("front", "wrist"))


def left_of_copying(model, windows: ClipBatch, spec: WorldSpec = SPEC, camera: str = "front") -> float:
    """The share of copying's error over changed pixels that a prediction one tick ahead leaves."""
    images, _ = model.predict(past_of(windows, spec), torch.from_numpy(windows.actions[:, spec.context - 1]))
    before, true = (torch.from_numpy(windows.images[camera][:, spec.context - i].copy()) for i in (1, 0))
    error, copying = changed_error(images[camera], true, before)
    return error / copying


def loss_of(windows: ClipBatch, **numbers) -> float:
    """Of an untrained model."""
    loss, _ = world(seed=0, **numbers).loss(windows)
    return loss.item()


@pytest.fixture(scope="module")
def trained():
    model = world(seed=0)
    return model, train(model, moving(16), 200)


def test_it_learns_where_the_square_goes(trained):
    model, losses = trained
    assert losses[-1] < 0.05 * losses[0]
    assert left_of_copying(model, moving(16)) < 0.1
    assert left_of_copying(model, moving(16, seed=5)) < 0.2, "and not only those windows"


def test_it_goes_where_the_action_says(trained):
    model, _ = trained
    windows = moving(16)
    opposite = replace(windows, actions=-windows.actions)
    assert left_of_copying(model, opposite) > 2 * left_of_copying(model, windows)


def test_what_stands_still_stays(trained):
    model, _ = trained
    windows = moving(16, seed=3)
    images, _ = model.predict(past_of(windows), torch.from_numpy(windows.actions[:, 0]))
    still = (windows.images["front"][:, 1] == windows.images["front"][:, 0]).all(axis=-1)
    off = np.abs(images["front"].numpy().astype(int) - windows.images["front"][:, 1])[still]
    assert off.mean() < 3


def test_it_learns_where_the_body_goes(trained):
    model, _ = trained
    windows = moving(16)
    _, path = model.predict(past_of(windows), torch.from_numpy(windows.actions[:, 0]))
    assert np.abs(path[:, -1].numpy() - windows.proprio[:, 1]).mean() < 0.1


def test_the_path_is_the_laws_by_the_luck_that_pictures_bend():
    """So what is felt at a step follows from the actions up to it: a dream may end there, whatever else was meant."""
    model, windows = world(seed=0), moving(4)
    model.normalise_proprio([7.0, 8.0], [2.0, 3.0])
    past, actions = past_of(windows), torch.from_numpy(windows.actions[:, 0])
    omens = model.foretell[-1]
    torch.nn.init.zeros_(omens.weight)
    omens.bias.data = torch.tensor([0.0, 0.0, 50.0, 0.0, 0.0])  # the middle fifth of luck is certain
    luck = torch.tensor([0.1, 0.25, 0.5, 0.9])
    level = 0.4 + 0.2 * luck
    law = model.body(model._scaled(past.proprio), actions, torch.full((4,), 2), level) * torch.tensor([2.0, 3.0])
    _, path = model.predict(past, actions, luck=luck)
    torch.testing.assert_close(path, law.detach() + torch.tensor([7.0, 8.0]))
    _, path = model.predict(past, actions)
    assert torch.equal(path, model.predict(past, actions, luck=torch.full((4,), 0.5))[1]), "middling luck by default"
    other = torch.cat([actions[:, :1], -actions[:, 1:]], dim=1)
    _, turned = model.predict(past, other)
    assert torch.equal(turned[:, 0], path[:, 0]) and not torch.allclose(turned[:, 1], path[:, 1])
    _, short = model.predict(past, actions, torch.ones(4, dtype=torch.int64))
    assert torch.equal(short[:, 0], path[:, 0])


def test_a_tick_is_relived_by_the_luck_that_ends_nearest_to_its_truth():
    model, windows = world(seed=0), moving(8)
    past, (tick,) = ticks(windows, SPEC, torch.device("cpu"))
    done = torch.full((8,), SPEC.stride)
    paths = [model.body(past.proprio, tick.actions, done, torch.full((8,), level)) for level in LEVELS]
    assert max((path - paths[0]).abs().max().item() for path in paths) > 1e-4, "luck matters"
    for path in paths:
        tick.proprio = path[:, -1].detach()
        torch.testing.assert_close(model.relived(past, tick), path.detach())
    tick.valid[:] = 0
    torch.testing.assert_close(model.relived(past, tick), paths[len(LEVELS) // 2].detach())


def test_the_law_of_the_body_needs_no_pictures():
    windows = moving(64)
    motion = replace(windows, images={})
    model = world(seed=0)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    middling = torch.full((64,), 0.5)
    first = model.body_loss(motion, middling).item()
    for _ in range(300):
        optimiser.zero_grad()
        model.body_loss(motion, middling).backward()
        optimiser.step()
    assert model.body_loss(motion, middling).item() < 0.1 * first
    turned = replace(motion, actions=-motion.actions)
    assert model.body_loss(turned, middling).item() > 0.5 * first, "it follows from the actions"


def test_what_the_body_feels_is_seen_in_the_picture():
    """Whether the square is bright decides what is felt; no action and no earlier proprioception tells it."""
    windows = moving(32)
    bright = windows.images["front"][:, 0].max(axis=(1, 2, 3)) > 0
    bright[::2] = False
    dark = {"front": np.where(bright[:, None, None, None, None], windows.images["front"], 0).astype(np.uint8)}
    proprio = np.zeros_like(windows.proprio)
    proprio[:, -1] = bright[:, None]
    windows = replace(windows, images=dark, proprio=proprio)
    model = world(seed=0)
    train(model, windows, 240)
    _, felt = model.predict(past_of(windows), torch.from_numpy(windows.actions[:, 0]))
    assert np.abs(felt[:, -1].numpy() - proprio[:, -1]).mean() < 0.15


def test_two_cameras_learn_side_by_side():
    model, windows = world(TWO, seed=0), moving(8, spec=TWO)
    train(model, windows, 50)
    assert left_of_copying(model, windows, TWO) < 0.5
    assert left_of_copying(model, windows, TWO, "wrist") < 0.5


@pytest.mark.parametrize("size", [(16, 16), (32, 48), (80, 16)])
def test_any_size_that_16_divides(size: tuple[int, int]):
    spec = replace(SPEC, image_size=size)
    model, windows = world(spec), moving(2, spec=spec)
    loss, _ = model.loss(windows)
    loss.backward()
    images, _ = model.predict(past_of(windows, spec), torch.zeros(2, 2, 2))
    assert images["front"].shape == (2, *size, 3)


@pytest.mark.parametrize("size", [(24, 16), (16, 40)])
def test_other_sizes_are_refused(size: tuple[int, int]):
    with pytest.raises(ValueError, match=rf"4 \* patch = 16 divides, not \({size[0]}, {size[1]}\): choose"):
        world(replace(SPEC, image_size=size))
    assert world(replace(SPEC, image_size=size), patch=2).spec.image_size == size


def test_precisions():
    model = world(precision="bfloat16", seed=0)
    losses = train(model, moving(8), 25)
    assert losses[-1] < 0.7 * losses[0]
    images, path = model.predict(past_of(moving(8)), torch.zeros(8, 2, 2))
    assert (images["front"].dtype, path.dtype) == (torch.uint8, torch.float32)
    assert loss_of(moving(8), precision="bfloat16") == pytest.approx(loss_of(moving(8)), rel=0.02)
    with pytest.raises(ValueError, match="unknown precision 'half'; choose one of float32, bfloat16"):
        world(precision="half")


def test_later_ticks_see_the_models_own_frames():
    """A tick that is not trained on leaves no trace of its true frame, since the next one does not look at it."""
    windows = moving(4, ticks=2)
    windows.valid[:, 1] = False
    other = replace(windows, images={"front": windows.images["front"].copy()}, proprio=windows.proprio.copy())
    other.images["front"][:, 1] = 200
    other.proprio[:, 1] = 9
    assert loss_of(windows) == loss_of(other)
    other.images["front"][:, 2] = 200
    assert loss_of(windows) != loss_of(other)


def test_two_ticks_ahead_are_learnt_too():
    model, windows = world(seed=0), moving(8, ticks=2)
    losses = train(model, windows, 40)
    assert losses[-1] < 0.5 * losses[0]


def test_proprioception_is_seen_on_its_own_scale():
    windows = moving(8)
    large = replace(windows, proprio=windows.proprio * 100 + 7)
    model, scaled = world(seed=0), world(seed=0)
    scaled.normalise_proprio([7.0, 7.0], [100.0, 100.0])
    assert scaled.loss(large)[0].item() == pytest.approx(loss_of(windows), rel=1e-4)
    _, path = model.predict(past_of(windows), torch.zeros(8, 2, 2))
    _, same = scaled.predict(past_of(large), torch.zeros(8, 2, 2))
    np.testing.assert_allclose(same.numpy(), path.numpy() * 100 + 7, rtol=1e-3)


def test_equal_seeds_make_equal_models_and_leave_torchs_own_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, other = world(seed=3).state_dict(), world(seed=3).state_dict()
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not all(torch.equal(one[name], tensor) for name, tensor in world(seed=4).state_dict().items())
