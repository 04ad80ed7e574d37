"""What every WorldModel must do, run over each implementation: add a line to `WORLDS` when you add one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from acceerl.protocols import History, WorldModel, WorldSpec
from acceerl.types import ClipBatch
from acceerl.world_models.diffusion import DiffusionWorld
from acceerl.world_models.regression import RegressionWorld
from acceerl.world_models.saved import load_world, save_world
from acceerl.world_models.success import SuccessNet

SPEC = WorldSpec(("front", "wrist"), (16, 16), proprio=3, action_dim=2, stride=4, context=2)
WORLDS: dict[str, Callable[[WorldSpec], Any]] = {
    "regression": lambda spec: RegressionWorld(spec, channels=8, blocks=1, condition=32),
    "diffusion": lambda spec: DiffusionWorld(
        spec, channels=(8, 8), blocks=(1, 1), cond=16 * spec.context, steps=1, body=16
    ),
}
N = 3


@pytest.fixture(params=WORLDS)
def make(request: pytest.FixtureRequest) -> Callable[[WorldSpec], Any]:
    return WORLDS[request.param]


@pytest.fixture
def world(make: Callable[[WorldSpec], Any]) -> Any:
    return make(SPEC).eval()


def windows(spec: WorldSpec = SPEC, ticks: int = 2, n: int = N) -> ClipBatch:
    rng, k = np.random.default_rng(0), spec.context + ticks
    return ClipBatch(
        {c: rng.integers(0, 256, (n, k, *spec.image_size, 3), np.uint8) for c in spec.cameras},
        rng.normal(size=(n, k, spec.proprio)).astype(np.float32),
        rng.uniform(-1, 1, (n, k - 1, spec.stride, spec.action_dim)).astype(np.float32),
        np.full((n, k - 1), spec.stride), np.ones((n, k), bool), np.zeros((n, k), bool), ("open the drawer",) * n,
    )  # fmt: skip


def past(spec: WorldSpec = SPEC) -> History:
    made, k = windows(spec), spec.context
    images = {c: torch.from_numpy(x[:, :k].copy()) for c, x in made.images.items()}
    return History(images, torch.from_numpy(made.proprio[:, :k]), torch.from_numpy(made.actions[:, : k - 1]))


def actions(spec: WorldSpec = SPEC) -> torch.Tensor:
    return torch.from_numpy(windows(spec).actions[:, spec.context - 1].copy())


def drawn(world: Any) -> Any:
    """The model, at the same place of its random numbers if it has any."""
    if hasattr(world, "seed"):
        world.seed(0)
    return world


def loss_of(world: Any, batch: ClipBatch) -> torch.Tensor:
    return drawn(world).loss(batch)[0]


def predicted(world: Any, *asked: Any) -> dict[str, torch.Tensor]:
    images, path = drawn(world).predict(*asked)
    return images | {"path": path}


def unsettled(world: Any) -> Any:
    """Fresh weights may answer the last frame whatever is done."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in world.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return world


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_is_a_world_model_and_a_module(world: Any):
    assert isinstance(world, WorldModel)
    assert isinstance(world, torch.nn.Module)
    assert world.spec == SPEC


def test_its_file_says_how_to_make_it_again(world: Any):
    assert isinstance(world.kind, str)
    again = type(world)(SPEC, **world.kwargs)
    assert {name: t.shape for name, t in again.state_dict().items()} == {
        name: t.shape for name, t in world.state_dict().items()
    }


def test_the_loss_is_a_finite_scalar_with_gradients_and_figures(world: Any):
    loss, figures = world.train().loss(windows())
    assert loss.shape == () and torch.isfinite(loss)
    assert figures and all(isinstance(value, float) and np.isfinite(value) for value in figures.values())
    loss.backward()
    gradients = [p.grad for p in world.parameters() if p.requires_grad and p.grad is not None]
    assert all(torch.isfinite(g).all() for g in gradients)
    assert sum(float(g.abs().sum()) for g in gradients) > 0


def test_updates_lower_the_loss(world: Any):
    batch = windows(ticks=1)
    optimiser = torch.optim.Adam(world.train().parameters(), 3e-3)
    losses = []
    for _ in range(12):
        loss = loss_of(world, batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]


def test_a_prediction_is_what_the_socket_says(world: Any):
    images, path = world.predict(past(), actions())
    assert tuple(images) == SPEC.cameras
    for frames in images.values():
        assert frames.dtype == torch.uint8
        assert frames.shape == (N, *SPEC.image_size, 3)
    assert path.dtype == torch.float32
    assert path.shape == (N, SPEC.stride, SPEC.proprio)
    assert torch.isfinite(path).all() and not path.requires_grad


def test_predicting_changes_neither_the_past_nor_the_model(world: Any):
    seen, state = past(), {name: tensor.clone() for name, tensor in world.state_dict().items()}
    world.predict(seen, actions())
    assert all(torch.equal(seen.images[c], x) for c, x in past().images.items())
    assert torch.equal(seen.proprio, past().proprio) and torch.equal(seen.actions, past().actions)
    assert same(state, world.state_dict())
    assert not world.training
    assert all(p.grad is None for p in world.parameters())


def test_equal_draws_give_equal_predictions(world: Any):
    assert same(predicted(world, past(), actions()), predicted(world, past(), actions()))


def test_all_of_a_tick_is_executed_unless_it_is_said(world: Any):
    whole = torch.full((N,), SPEC.stride)
    assert same(predicted(world, past(), actions()), predicted(world, past(), actions(), whole))


def test_actions_that_are_not_executed_do_not_matter(world: Any):
    done, other = torch.tensor([1, 2, 3]), actions()
    for i, n in enumerate(done.tolist()):
        other[i, n:] = 0.5
    assert same(predicted(world, past(), actions(), done), predicted(world, past(), other, done))


def test_actions_and_their_number_matter(world: Any):
    def felt(*asked: Any) -> torch.Tensor:
        return predicted(world, past(), *asked)["path"][:, -1]

    unsettled(world)
    assert not torch.equal(felt(actions()), felt(-actions()))
    assert not torch.equal(felt(actions()), felt(actions(), torch.ones(N, dtype=torch.int64)))


def test_the_body_moves_while_steps_are_executed_and_then_rests(world: Any):
    """The last row is what is felt after the tick, and may know more than the path to it."""
    path = predicted(unsettled(world), past(), actions(), torch.arange(1, N + 1))["path"]
    now = past().proprio[:, -1:]
    moves = (torch.cat([now, path], dim=1).diff(dim=1)[:, :-1] != 0).all(dim=-1)
    assert moves.tolist() == [[True, False, False], [True, True, False], [True, True, True]]


def test_frames_after_the_end_do_not_count(world: Any):
    """Neither what they show nor how many there are: the gradient is as if they were not there."""
    batch = windows()
    batch.valid[:, -1] = False
    batch.executed[:, -1] = 0
    other = replace(batch, images={c: x.copy() for c, x in batch.images.items()}, proprio=batch.proprio.copy())
    for frames in other.images.values():
        frames[:, -1] = 7
    other.proprio[:, -1] = 7
    assert loss_of(world, batch).item() == loss_of(world, other).item()


def test_windows_without_any_valid_tick_teach_nothing(world: Any):
    batch = windows()
    batch.valid[:, SPEC.context :] = False
    loss_of(world, batch).backward()
    assert all(p.grad is None or not p.grad.any() for p in world.parameters())


def test_frames_before_the_beginning_are_seen_as_they_are_repeated(world: Any):
    batch = windows()
    expected = loss_of(world, batch).item()
    batch.valid[:, : SPEC.context - 1] = False
    assert loss_of(world, batch).item() == expected


def test_a_training_sees_any_number_of_ticks(world: Any):
    for ticks in (1, 3):
        assert torch.isfinite(loss_of(world, windows(ticks=ticks)))


@pytest.mark.parametrize(
    "changes",
    [
        {"cameras": ("front",)},
        {"context": 1},
        {"context": 3},
        {"stride": 1},
        {"proprio": 0},
        {"image_size": (32, 32)},
        {"action_dim": 7},
    ],
    ids=lambda changes: "-".join(f"{name}={value}" for name, value in changes.items()),
)
def test_other_specs(make: Callable[[WorldSpec], Any], changes: dict[str, Any]):
    spec = replace(SPEC, **changes)
    world = make(spec)
    loss, figures = world.loss(windows(spec))
    assert torch.isfinite(loss) and all(np.isfinite(value) for value in figures.values())
    loss.backward()
    images, path = world.eval().predict(past(spec), actions(spec))
    assert {c: tuple(x.shape) for c, x in images.items()} == dict.fromkeys(spec.cameras, (N, *spec.image_size, 3))
    assert path.shape == (N, spec.stride, spec.proprio)


@pytest.mark.parametrize("changes", [{"cameras": ("front", "side")}, {"image_size": (32, 32)}, {"action_dim": 7},
                                     {"stride": 8}, {"proprio": 4}, {"context": 4}])  # fmt: skip
def test_windows_of_another_kind_are_refused(make: Callable[[WorldSpec], Any], changes: dict[str, Any]):
    with pytest.raises(ValueError):
        make(replace(SPEC, **changes)).loss(windows())


def test_a_file_makes_the_same_predictions(make: Callable[[WorldSpec], Any], tmp_path):
    success = SuccessNet(SPEC, members=1, channels=8)
    trained = make(SPEC)
    with torch.no_grad():
        for p in trained.parameters():
            p.add_(0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    save_world(tmp_path / "world.pt", trained, success)
    loaded = make(SPEC)
    load_world(tmp_path / "world.pt", loaded, success)
    assert same(trained.state_dict(), loaded.state_dict())
    assert same(predicted(trained.eval(), past(), actions()), predicted(loaded.eval(), past(), actions()))
