"""The policy file: the round trip is exact, and every wrong file gets one line that names it and the fix."""

from dataclasses import replace

import pytest
import torch

from acceerl.policies import TinyPolicy, load_policy, save_policy
from acceerl.policies.saved import shipped
from acceerl.protocols import PolicySpec

SPEC = PolicySpec(chunk=4, action_dim=7, bins=32, cameras=("front",), image_size=(16, 16), proprio=3)


@pytest.fixture
def saved(tmp_path):
    policy = TinyPolicy(SPEC, width=16, layers=1, channels=8, waves=8, seed=3)
    save_policy(tmp_path / "p.pt", policy, {"steps": 7})
    return tmp_path / "p.pt", policy


def test_round_trip(saved):
    path, policy = saved
    loaded, extra = load_policy(path, SPEC)
    assert (extra, loaded.spec, loaded.kwargs) == ({"steps": 7}, SPEC, policy.kwargs)
    for name, tensor in policy.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])


def test_half_precision_is_smaller_and_widened_on_loading(saved, tmp_path):
    path, policy = saved
    save_policy(tmp_path / "half.pt", policy, half=True)
    loaded, _ = load_policy(tmp_path / "half.pt")
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    assert (tmp_path / "half.pt").stat().st_size < path.stat().st_size


def test_overrides_reach_the_constructor(saved):
    assert load_policy(saved[0], temperature=0.5)[0].temperature == 0.5


@pytest.mark.parametrize(
    ("change", "words"),
    [({"cameras": ("wrist",)}, "cameras"), ({"image_size": (32, 32)}, "image_size"), ({"proprio": 9}, "proprio")],
)
def test_another_spec_is_refused_by_name(saved, change, words):
    with pytest.raises(ValueError, match=rf"p\.pt: was trained for {words} .*, this run has"):
        load_policy(saved[0], replace(SPEC, **change))


def test_missing_broken_and_foreign_files(saved, tmp_path):
    path, _ = saved
    with pytest.raises(ValueError, match=r"nowhere\.pt: no such policy file"):
        load_policy(tmp_path / "nowhere.pt")
    for length in (0, 10, path.stat().st_size // 2):
        (tmp_path / "cut.pt").write_bytes(path.read_bytes()[:length])
        with pytest.raises(ValueError, match=r"cut\.pt: not a readable policy file"):
            load_policy(tmp_path / "cut.pt")
    torch.save({"a": 1}, tmp_path / "foreign.pt")
    with pytest.raises(ValueError, match=r"foreign\.pt: not an acceerl policy file"):
        load_policy(tmp_path / "foreign.pt")


def test_weights_of_another_architecture_are_refused(saved, tmp_path):
    record = torch.load(saved[0], weights_only=True)
    record["state_dict"].pop("queries")
    torch.save(record, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=r"odd\.pt: does not fit the 'tiny' policy"):
        load_policy(tmp_path / "odd.pt")


def test_a_code_carrying_file_is_not_executed(tmp_path):
    torch.save({"format": TinyPolicy}, tmp_path / "code.pt")
    with pytest.raises(ValueError, match=r"code\.pt: not a readable policy file"):
        load_policy(tmp_path / "code.pt")


def test_unknown_shipped_name():
    with pytest.raises(ValueError, match="no starting policy 'mars'"):
        shipped("mars")
