"""DiffusionWorld learns what moves, trains on its own frames, keeps an average, masks padding, refuses misfits."""

import numpy as np
import pytest
import torch

from acceerl.protocols import History, WorldModel, WorldSpec
from acceerl.types import ClipBatch
from acceerl.world_models.diffusion import DiffusionWorld
from acceerl.world_models.diffusion.body import between

SPEC = WorldSpec(("front", "wrist"), (16, 16), 2, 2, 2, 2)
SMALL = {"channels": (16, 16), "blocks": (1, 1), "cond": 32, "body": 16}


def world(spec=SPEC, **kwargs):
    return DiffusionWorld(spec, **{**SMALL, **kwargs})


def windows(n=8, frames=3, spec=SPEC, seed=0):
    """Squares that go where the action says, one pixel a control step; proprioception is where they are."""
    rng = np.random.default_rng(seed)
    actions = np.repeat(rng.choice([-1, 1], (n, frames - 1, 1, 2)), spec.stride, axis=2).astype(np.float32)
    start = rng.integers(6, 9, (n, 1, 2))
    places = np.concatenate((start, start + actions.sum(axis=2).cumsum(axis=1).astype(int)), axis=1)
    images = np.full((n, frames, *spec.image_size, 3), 40, np.uint8)
    for i, k in np.ndindex(n, frames):
        y, x = places[i, k]
        images[i, k, y : y + 4, x : x + 4] = (230, 60, 20)
    return ClipBatch(
        {camera: images if camera == "front" else 255 - images for camera in spec.cameras},
        (places[:, :, : spec.proprio] / 16).astype(np.float32),
        actions,
        np.full((n, frames - 1), spec.stride),
        np.ones((n, frames), bool),
        np.zeros((n, frames), bool),
        ("push",) * n,
    )


def history(batch, context=2):
    images = {name: torch.from_numpy(frames[:, :context]) for name, frames in batch.images.items()}
    proprio, actions = torch.from_numpy(batch.proprio), torch.from_numpy(batch.actions)
    return History(images, proprio[:, :context], actions[:, : context - 1]), actions[:, context - 1]


def replaced(batch, **changes):
    return ClipBatch(**{name: changes.get(name, getattr(batch, name)) for name in ClipBatch.__slots__})


def awake(model, seed=1):
    """Gives every weight that begins as zero a value, so that whatever is asked has an effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for brain in (model.brain, model.average):
            for weight in brain.parameters():
                if weight.ndim > 1 and not weight.any():
                    weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
    return model


def test_it_fits_the_socket():
    model = world()
    assert isinstance(model, WorldModel)
    assert model.kind == "diffusion"
    images, path = model.eval().predict(*history(windows(3)))
    assert {name: (frame.shape, frame.dtype) for name, frame in images.items()} == dict.fromkeys(
        SPEC.cameras, ((3, 16, 16, 3), torch.uint8)
    )
    assert path.shape == (3, 2, 2) and path.dtype == torch.float32


def test_it_learns_moving_squares_better_than_copying_does():
    spec = WorldSpec(("front",), (16, 16), 2, 2, 2, 2)
    model, batch = world(spec, ema=0.9), windows(6, spec=spec)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=4e-3)
    losses = []
    for _ in range(120):
        loss, figures = model.loss(batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        model.after_update()
        losses.append(figures["denoising"])
    assert np.mean(losses[-20:]) < 0.4 * np.mean(losses[:5])
    images, path = model.eval().predict(*history(batch))
    for camera, frames in batch.images.items():
        truth, now = frames[:, 2].astype(float), frames[:, 1].astype(float)
        moved = (truth != now).any(axis=-1)
        assert np.abs(images[camera].numpy() - truth)[moved].mean() < 0.5 * np.abs(now - truth)[moved].mean()
    assert (
        np.abs(path[:, -1].numpy() - batch.proprio[:, 2]).mean()
        < 0.5 * np.abs(batch.proprio[:, 1] - batch.proprio[:, 2]).mean()
    )


def test_later_frames_follow_its_own_earlier_ones(monkeypatch):
    model, batch = awake(world()), windows(2, frames=5)
    seen = []
    error = DiffusionWorld._frame_error

    def noted(self, frames, deeds):
        made = error(self, frames, deeds)
        seen.append(([frame.clone() for frame in frames], made[1]))
        return made

    monkeypatch.setattr(DiffusionWorld, "_frame_error", noted)
    model.loss(batch)
    assert len(seen) == 3
    first, second, third = seen
    assert torch.equal(second[0][1], first[1]) and torch.equal(third[0][0], first[1])
    assert torch.equal(third[0][1], second[1])
    assert not torch.equal(second[0][1], first[0][2])  # what really came next
    assert not first[1].requires_grad


@pytest.mark.parametrize("horizon", [1, 3])
def test_gradients_reach_every_weight_and_no_average(horizon):
    model = awake(world())
    model.loss(windows(4, frames=2 + horizon))[0].backward()
    assert all(p.grad is not None and p.grad.any() for p in model.brain.parameters())
    assert not any(p.requires_grad for p in model.average.parameters())


def test_frames_after_the_end_are_not_trained_on():
    batch = windows(4, frames=4)
    valid = batch.valid.copy()
    valid[:2, 3] = False
    junk = {name: frames.copy() for name, frames in batch.images.items()}
    proprio = batch.proprio.copy()
    for frames in (*junk.values(), proprio):
        frames[:2, 3] = 99
    losses = [
        awake(world(seed=3)).loss(replaced(batch, valid=valid, **changes))[0].item()
        for changes in ({}, {"images": junk, "proprio": proprio})
    ]
    assert losses[0] == losses[1]
    assert awake(world()).loss(replaced(batch, valid=np.zeros_like(valid)))[0].item() == 0


def test_actions_that_were_not_executed_do_not_matter_and_their_number_does():
    model, (past, actions) = awake(world()).eval(), history(windows(4))

    def next_frame(actions, executed):
        model.seed(1)
        return model.predict(past, actions, executed)[0]["front"]

    other = actions.clone()
    other[:, 1] = -other[:, 1]
    one, all_ = torch.ones(4, dtype=torch.int64), torch.full((4,), 2)
    assert torch.equal(next_frame(actions, one), next_frame(other, one))
    assert not torch.equal(next_frame(actions, all_), next_frame(other, all_))
    assert not torch.equal(next_frame(actions, one), next_frame(actions, None))
    assert torch.equal(next_frame(actions, all_), next_frame(actions, None))


def test_between_the_known_ends_of_a_tick_the_body_goes_in_a_line_and_then_rests():
    now, after = torch.tensor([[4.0], [4.0], [20.0]]), torch.tensor([[12.0], [12.0], [12.0]])
    path = between(now, after, 4, torch.tensor([1, 2, 4]))
    assert path[..., 0].tolist() == [[12, 12, 12, 12], [8, 12, 12, 12], [18, 16, 14, 12]]
    assert torch.equal(between(now, after, 4, None), between(now, after, 4, torch.full((3,), 4)))


def test_the_path_leads_to_where_the_body_will_be_after_what_is_executed():
    model, (past, actions) = awake(world()).eval(), history(windows(4))
    now = past.proprio[:, -1]
    _, whole = model.predict(past, actions)
    torch.testing.assert_close(whole[:, 0], (now + whole[:, 1]) / 2)
    assert not torch.allclose(whole[:, 1], now, atol=1e-2)
    _, short = model.predict(past, actions, torch.ones(4, dtype=torch.int64))
    assert torch.equal(short[:, 0], short[:, 1]) and not torch.allclose(short[:, 1], whole[:, 1], atol=1e-2)


def test_imagination_and_training_see_the_same_deeds(monkeypatch):
    model, batch = world(), windows(2)
    heard = []
    monkeypatch.setattr(
        model.brain.network, "styles", lambda c, deeds: heard.append(deeds) or model.average.network.styles(c, deeds)
    )
    batch = replaced(batch, executed=np.array([[0, 1], [2, 1]]))  # padding before now; cut short after it
    model.loss(batch)
    past, actions = history(batch)
    model.predict(past, actions, torch.tensor([1, 1]))
    assert torch.equal(heard[0], heard[1][:2])


def test_the_average_follows_the_weights():
    model = world(ema=0.5)
    with torch.no_grad():
        for weight in model.brain.parameters():
            weight.add_(1.0)
    before = [p.clone() for p in model.average.parameters()]
    after = [p.clone() for p in model.brain.parameters()]
    model.after_update()  # early updates count for more: 2 / 11 of the old, not half
    for old, new, now in zip(before, after, model.average.parameters(), strict=True):
        assert torch.allclose(now, old * 2 / 11 + new * 9 / 11, atol=1e-5)
    for _ in range(50):
        model.after_update()
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(after, model.average.parameters(), strict=True))


def test_eval_predicts_by_the_average_and_train_by_the_weights():
    model, asked = awake(world()), history(windows(2))
    with torch.no_grad():
        for weight in model.brain.network.head.parameters():
            weight.add_(0.5)
    frames = {}
    for mode in (True, False):
        model.train(mode).seed(0)
        frames[mode] = model.predict(*asked)[0]["front"]
    assert not torch.equal(frames[True], frames[False])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_saved_model_is_the_same_model(precision):
    one, other = awake(world(precision=precision)), world(seed=9, precision=precision)
    one.normalise_proprio(np.array([1.0, 2.0]), np.array([0.5, 3.0]))
    one.after_update()
    other.load_state_dict(one.state_dict())
    asked, answers = history(windows(3)), []
    for model in (one, other):
        model.eval().seed(4)
        answers.append(model.predict(*asked))
    assert torch.equal(answers[0][0]["wrist"], answers[1][0]["wrist"])
    assert torch.equal(answers[0][1], answers[1][1])
    again = DiffusionWorld(one.spec, **one.kwargs)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in one.state_dict().items()}
    assert again.settings == one.settings


def test_bfloat16_trains_and_predicts_nearly_the_same():
    frames, losses = {}, {}
    for precision in ("float32", "bfloat16"):
        model, batch = awake(world(precision=precision)), windows(4)
        loss, _ = model.loss(batch)
        loss.backward()
        losses[precision] = loss.item()
        model.eval().seed(0)
        frames[precision] = model.predict(*history(batch))[0]["front"].float()
        assert model.brain.network.head.weight.grad.dtype == torch.float32
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)
    assert (frames["bfloat16"] - frames["float32"]).abs().mean() < 3


def test_weights_that_change_in_place_are_seen_in_bfloat16():
    model, asked = awake(world(precision="bfloat16")).eval(), history(windows(2))
    answers = []
    for _ in range(2):
        model.seed(0)
        answers.append(model.predict(*asked)[0]["front"])
        model.average.network.head.weight.data.mul_(2)
    assert not torch.equal(*answers)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_row_does_not_depend_on_its_batch(monkeypatch, precision):
    model, (past, actions) = awake(world(precision=precision)).eval(), history(windows(3))
    monkeypatch.setattr(model, "_draw", torch.zeros)
    together = model.predict(past, actions)[0]["wrist"].float()
    for i in range(3):
        row = slice(i, i + 1)
        own = History({name: f[row] for name, f in past.images.items()}, past.proprio[row], past.actions[row])
        alone = model.predict(own, actions[row])[0]["wrist"].float()
        assert (alone - together[row]).abs().mean() < (0.02 if precision == "float32" else 2)
    assert (together[0] - together[1]).abs().mean() > 2


def test_seeds_make_it_repeatable():
    losses = [world(seed=5).loss(windows(2))[0].item() for _ in range(2)]
    assert losses[0] == losses[1] != world(seed=6).loss(windows(2))[0].item()


def test_without_proprioception_there_is_no_body():
    spec = WorldSpec(("front",), (8, 24), 0, 2, 2, 2)
    model = world(spec)
    batch = windows(2, spec=WorldSpec(("front",), (16, 16), 0, 2, 2, 2))
    batch = replaced(batch, images={"front": np.zeros((2, 3, 8, 24, 3), np.uint8)})
    assert set(model.loss(batch)[1]) == {"denoising"}
    images, path = model.predict(*history(batch))
    assert images["front"].shape == (2, 8, 24, 3) and path.shape == (2, 2, 0)


@pytest.mark.parametrize(("side", "channels"), [(12, (8, 16, 8)), (20, (40, 72)), (7, (33,))])
def test_any_resolution_that_the_levels_divide(side, channels):
    spec = WorldSpec(("front",), (side, side), 0, 2, 2, 2)
    model = awake(DiffusionWorld(spec, channels=channels, blocks=(1,) * len(channels), cond=8))
    past = History(
        {"front": torch.zeros(1, 2, side, side, 3, dtype=torch.uint8)}, torch.zeros(1, 2, 0), torch.zeros(1, 1, 2, 2)
    )
    assert model.predict(past, torch.zeros(1, 2, 2))[0]["front"].shape == (1, side, side, 3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"channels": (16,) * 6, "blocks": (1,) * 6}, "16 x 16 cannot be halved 5 times.*32 divides"),
        ({"blocks": (1,)}, "a number a level"),
        ({"channels": (), "blocks": ()}, "a number a level"),
        ({"blocks": (1, 0)}, "at least 1"),
        ({"cond": 33}, "cond=33"),
        ({"order": 3}, "order=3"),
        ({"steps": 0}, "at least 1"),
        ({"sigma_min": 6.0}, "sigma_min=6.0"),
        ({"train_max": 1e-3}, "train_max"),
        ({"rho": 0}, "rho"),
        ({"churn": -1.0}, "churn"),
        ({"ema": 1.0}, "ema=1.0"),
        ({"rounding": "up"}, "nearest, down"),
        ({"precision": "float16"}, "float32, bfloat16"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        world(**settings)
