"""The file of a world and a success model: a round trip, and one clear line for each file that is of no use."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from acceerl.protocols import WorldSpec
from acceerl.world_models.diffusion import DiffusionWorld
from acceerl.world_models.regression import RegressionWorld
from acceerl.world_models.saved import load_world, open_world, save_world
from acceerl.world_models.success import SuccessNet
from tests.unit.world_models.worlds import SPEC, world

PROGRAM = pickle.dumps(Path("x"), protocol=2)  # names a class outside torch's own


def pair(spec: WorldSpec = SPEC, seed: int = 0, members: int = 2, **numbers) -> tuple[RegressionWorld, SuccessNet]:
    return world(spec, seed=seed, **numbers), SuccessNet(spec, members=members, channels=8, seed=seed)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_world(tmp_path / "world.pt", *pair())
    return tmp_path / "world.pt"


def refused(path: Path, models: tuple) -> str:
    before = [tensor.clone() for model in models for tensor in model.state_dict().values()]
    with pytest.raises(ValueError) as caught:
        load_world(path, *models)
    after = [tensor for model in models for tensor in model.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), "what is refused changes nothing"
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert "\n" not in said
    return said.removeprefix(f"{path}: ")


def test_a_round_trip_is_exact(tmp_path: Path):
    models = pair(seed=1)
    models[0].normalise_proprio([1.0, 2.0], [3.0, 4.0])
    models[1].temperature.fill_(0.5)
    save_world(tmp_path / "world.pt", *models, extra={"quality": {"psnr.1": 30.5}, "recipe": "a"})
    others = pair(seed=2)
    assert load_world(tmp_path / "world.pt", *others) == {"quality": {"psnr.1": 30.5}, "recipe": "a"}
    for saved, loaded in zip(models, others, strict=True):
        state = loaded.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in saved.state_dict().items())
    assert [file.name for file in tmp_path.iterdir()] == ["world.pt"], "nothing is left beside it"


@pytest.mark.parametrize("kind", ["regression", "diffusion"])
def test_a_file_makes_its_own_models(tmp_path: Path, kind: str):
    """Whoever opens it need not know of what size they are."""
    spec = replace(SPEC, cameras=("front", "wrist"), context=2)
    sizes = {"channels": (8, 8), "blocks": (1, 1), "cond": 32, "body": 8}
    made = world(spec, seed=3, patch=2) if kind == "regression" else DiffusionWorld(spec, **sizes, seed=3)
    models = made, SuccessNet(spec, members=1, channels=4, seed=3)
    save_world(tmp_path / "world.pt", *models)
    for saved, opened in zip(models, open_world(tmp_path / "world.pt"), strict=True):
        assert (opened.spec, type(opened), opened.kwargs) == (spec, type(saved), saved.kwargs)
        state = opened.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in saved.state_dict().items())


def test_models_of_others_are_not_made(path: Path):
    record = torch.load(path, weights_only=True)
    record["world"]["kind"] = "crystal_ball"
    torch.save(record, path)
    with pytest.raises(ValueError, match=r"world.pt: a 'crystal_ball' world model, which is none of ours: regression"):
        open_world(path)


def test_a_file_is_data_and_no_program(path: Path):
    record = torch.load(path, weights_only=True)
    assert record["world"]["kind"] == "regression"
    assert record["success"]["kwargs"]["members"] == 2
    assert (
        RegressionWorld(SPEC, **record["world"]["kwargs"]).state_dict().keys() == record["world"]["state_dict"].keys()
    )


def test_no_file(tmp_path: Path):
    assert "no such world-model file; `acceerl pretrain world_model` writes one" in refused(tmp_path / "no.pt", pair())


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.99])
def test_a_file_cut_short(path: Path, kept: float):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    assert "not a readable world-model file (cut short" in refused(path, pair())


@pytest.mark.parametrize("content", [b"not a model", b"\x89HDF\r\n\x1a\n" + bytes(64), PROGRAM],
                         ids=["text", "hdf5", "pickle"])  # fmt: skip
def test_a_file_of_another_kind(path: Path, content: bytes):
    path.write_bytes(content)
    assert "not a readable world-model file" in refused(path, pair())


@pytest.mark.parametrize("record", [{"format": "acceerl-policy-1"}, {"state_dict": {}}, [1, 2]])
def test_another_torch_file(path: Path, record: object):
    torch.save(record, path)
    assert "no acceerl world-model file (acceerl-world-1)" in refused(path, pair())


def test_a_folder(tmp_path: Path):
    assert "not a readable world-model file" in refused(tmp_path, pair())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cameras": ("wrist",)}, "cameras ('front',), this run has ('wrist',): choose the env's cameras"),
        ({"image_size": (32, 16)}, "image_size (16, 16), this run has (32, 16): set the env's image size"),
        ({"proprio": 0}, "proprio 2, this run has 0: set world_model.proprio"),
        ({"action_dim": 7}, "action_dim 2, this run has 7: use an env with that action space"),
        ({"stride": 4}, "stride 2, this run has 4: set world_model.stride"),
        ({"context": 3}, "context 1, this run has 3: set world_model.context"),
        ({"stride": 4, "context": 3}, "stride 2, this run has 4; context 1, this run has 3: set world_model.stride"),
    ],
)
def test_a_model_for_something_else(path: Path, changes: dict, said: str):
    assert refused(path, pair(replace(SPEC, **changes))).startswith(f"was trained for {said}")


def test_a_world_model_of_another_size(path: Path):
    said = refused(path, pair(channels=16))
    assert "its world model is of another size: set world_model.* to" in said and "'channels': 8" in said


def test_a_success_model_of_another_size(path: Path):
    said = refused(path, pair(members=3))
    assert "its success model is of another size: set success_model.* to" in said and "'members': 2" in said


class Other(RegressionWorld):
    kind = "other"


def test_another_kind_of_world_model(path: Path):
    said = refused(path, (Other(SPEC, channels=8, blocks=1, condition=32), pair()[1]))
    assert said == "holds a 'regression' world model, this run has 'other': set world_model=…"
