"""Our denoiser with DIAMOND's weights gives DIAMOND's numbers, and weights that do not fit are refused by name."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from acceerl.protocols import History, WorldSpec
from acceerl.world_models.diffusion import DiffusionWorld, edm, from_diamond, load_diamond
from tests.unit.world_models import diamond_golden as case

GOLDEN = Path(__file__).parents[2] / "golden" / "diamond.npz"
SPEC = WorldSpec(("front",), (case.SIDE, case.SIDE), 0, case.ACTIONS, 1, case.CONTEXT)
SIZES = {"channels": case.CHANNELS, "blocks": case.DEPTHS, "cond": case.COND}


def world(spec=SPEC, **kwargs):
    return DiffusionWorld(spec, **{**SIZES, "rounding": "down", **kwargs}).eval()


@pytest.fixture(scope="module")
def theirs():
    return {name: torch.from_numpy(value) for name, value in np.load(GOLDEN).items()}


def one_hot(dtype):
    return F.one_hot(case.inputs()["actions"], case.ACTIONS).to(dtype)[:, :, None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_network_says_what_diamonds_says(theirs, dtype):
    ours, given = world().to(dtype), case.inputs()
    assert load_diamond(ours, case.weights()) == []
    factors = edm.preconditioning(torch.tensor(case.SIGMAS, dtype=dtype), 0.5, 0.3)
    deeds = torch.cat((one_hot(dtype)[:, :, 0], torch.ones(2, case.CONTEXT, 1)), dim=-1).to(dtype)
    frames = edm.from_bytes(given["frames"], dtype).permute(0, 1, 4, 2, 3).flatten(1, 2)
    network = ours.average.network
    with torch.no_grad():
        noisy = given["noisy"].to(dtype) * factors.c_in[:, None, None, None]
        said = network(noisy, network.see(frames / 0.5), network.styles(factors.c_noise, deeds))
    assert theirs["network"].std() > 0.1
    assert (said - theirs["network"]).abs().max() < (1e-4 if dtype == torch.float32 else 1e-6)


def sampled(ours, dtype):
    given, actions = case.inputs(), one_hot(dtype)
    load_diamond(ours, case.weights())
    ours._draw = lambda shape: given["noise"].to(dtype)
    past = History({"front": given["frames"]}, torch.zeros(2, case.CONTEXT, 0), actions[:, :-1])
    images, _ = ours.predict(past, actions[:, -1])
    return edm.from_bytes(images["front"], dtype).permute(0, 3, 1, 2)


@pytest.mark.parametrize("order", [1, 2])
def test_the_sampler_draws_what_diamonds_draws(theirs, order):
    # In double precision: in single, a number beside the border of a grey level may be rounded to the other side.
    found = sampled(world(order=order).double(), torch.float64)
    golden = theirs["heun" if order == 2 else "euler"]
    assert golden.std() > 0.1
    assert (found - golden).abs().max() < 1e-4


@pytest.mark.parametrize(("precision", "levels"), [("float32", 0.02), ("bfloat16", 2.0)])
def test_other_precisions_are_near(theirs, precision, levels):
    found = sampled(world(precision=precision), torch.float32)
    assert ((found - theirs["euler"]).abs().mean() * 127.5).item() < levels


def test_every_weight_of_theirs_has_a_place():
    published = {**case.weights(), "actor_critic.encoder.weight": torch.zeros(1), "rew_end_model.x": torch.zeros(1)}
    own = world().brain.network.state_dict()
    mapped = from_diamond(published)
    assert {name: value.shape for name, value in mapped.items()} == {name: value.shape for name, value in own.items()}


def test_a_compiled_models_names_are_understood():
    wrapped = {f"denoiser._orig_mod.{name.removeprefix('denoiser.')}": w for name, w in case.weights().items()}
    assert load_diamond(world(), wrapped) == []


def test_other_actions_keep_their_own_layer():
    spec = WorldSpec(("front",), SPEC.image_size, 5, 7, 8, case.CONTEXT)
    ours = world(spec)
    before = ours.brain.network.deeds.weight.clone()
    kept = load_diamond(ours, case.weights())
    assert kept[0] == "network.deeds.weight"
    assert all(name.startswith("body.") for name in kept[1:]) and len(kept) > 1
    assert torch.equal(ours.brain.network.deeds.weight, before)
    assert torch.equal(
        ours.average.network.head.bias.double(), case.weights()["denoiser.inner_model.conv_out.bias"].float().double()
    )


@pytest.mark.parametrize(
    ("spec", "sizes", "name"),
    [
        (
            WorldSpec(("front", "wrist"), SPEC.image_size, 0, 6, 1, 4),
            {},
            "stem.weight is .32, 15, 3, 3., .*32, 30, 3, 3",
        ),
        (SPEC, {"channels": (32, 32, 32)}, "unet.down.1.0.* is"),
        (SPEC, {"blocks": (1, 1, 1)}, "unet.up.1.1.norm1.linear.weight is"),
        (SPEC, {"blocks": (1, 3, 1)}, "unet.down.1.2.* is missing"),
    ],
)
def test_another_shape_is_refused_by_name(spec, sizes, name):
    with pytest.raises(ValueError, match=name):
        load_diamond(world(spec, **sizes), case.weights())


def test_something_else_is_no_denoiser():
    with pytest.raises(ValueError, match="no DIAMOND denoiser"):
        from_diamond({"layer.weight": torch.zeros(1)})
