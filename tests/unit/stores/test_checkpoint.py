"""Checkpoints are whole or absent: order, keeping, damage, another policy, SIGKILL while saving."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from acceerl.stores import checkpoint

ROOT = Path(__file__).parents[3]
SPEC = {"chunk": 8, "cameras": ("front", "wrist")}


def state(number: int = 0) -> dict:
    return {
        "model": {"weight": torch.full((3, 4), float(number)), "half": torch.ones(2, dtype=torch.bfloat16)},
        "rng": {"numpy": np.random.default_rng(number).bit_generator.state, "torch": torch.get_rng_state()},
        "counters": {"updates": number, "names": ["a", ("b", None, True)]},
        "policy_spec": SPEC,
    }


def test_a_state_comes_back(tmp_path):
    path = checkpoint.save(tmp_path, 7, state(5), keep=1)
    loaded = checkpoint.load(path)
    assert torch.equal(loaded["model"]["weight"], torch.full((3, 4), 5.0))
    assert loaded["model"]["half"].dtype == torch.bfloat16
    assert {key: loaded[key] for key in ("counters", "policy_spec")} == {
        key: state(5)[key] for key in ("counters", "policy_spec")
    }
    assert loaded["rng"]["numpy"] == state(5)["rng"]["numpy"]
    assert (path.name, checkpoint.step_of(path)) == ("ckpt-00000007", 7)


def test_the_last_ones_are_kept(tmp_path):
    for step in (1, 2, 10, 300):
        checkpoint.save(tmp_path, step, state(step), keep=2)
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["ckpt-00000010", "ckpt-00000300"]
    assert checkpoint.latest(tmp_path) == tmp_path / "ckpt-00000300"


def test_a_step_is_saved_again_after_a_resume(tmp_path):
    checkpoint.save(tmp_path, 3, state(1), keep=2)
    path = checkpoint.save(tmp_path, 3, state(2), keep=2)
    assert checkpoint.load(path)["counters"]["updates"] == 2
    assert os.listdir(tmp_path) == [path.name]


def divided(folder: Path) -> Path:
    beside = checkpoint.begin(folder, 4)
    (beside / checkpoint.DIVIDED).mkdir()
    for name in (".metadata", "__0_0.distcp", "__1_0.distcp"):
        (beside / checkpoint.DIVIDED / name).write_bytes(name.encode())
    assert checkpoint.latest(folder) is None
    return checkpoint.finish(beside, 4, state(4), keep=1)


def test_files_of_ranks_belong_to_a_checkpoint_and_readers_share_the_look_at_them(tmp_path):
    path = divided(tmp_path)
    assert checkpoint.latest(tmp_path) == path and not checkpoint.damaged(path)
    file = path / checkpoint.DIVIDED / "__1_0.distcp"
    file.write_bytes(file.read_bytes()[::-1])
    assert [checkpoint.damaged(path, reader, 3) for reader in range(3)] == [[], [], ["__1_0.distcp"]]
    assert checkpoint.latest(tmp_path) == path, "which looks at sizes only"
    file.write_bytes(b"short")
    assert "__1_0.distcp is damaged" in checkpoint.broken(path)
    assert not checkpoint.broken(path, ["counters"])
    file.unlink()
    assert "not a whole checkpoint" in checkpoint.broken(path)


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoint.latest(tmp_path / "none") is None


def test_parts_can_be_loaded_alone(tmp_path):
    path = checkpoint.save(tmp_path, 1, state(), keep=1)
    (path / "model.pt").write_bytes(b"broken, and not asked for")
    assert list(checkpoint.load(path, only=["counters"])) == ["counters"]
    with pytest.raises(ValueError, match=r"has no part 'optimiser', only .*'model'"):
        checkpoint.load(path, only=["optimiser"])


def test_a_part_of_each_whole_checkpoint(tmp_path):
    for step in (1, 2, 3):
        path = checkpoint.save(tmp_path, step, {"replay": {"ids": [step]}}, keep=3)
    (path / "replay.pt").write_bytes(b"broken")
    checkpoint.save(tmp_path, 4, {"model": {}}, keep=9)
    assert checkpoint.each(tmp_path, "replay") == [{"ids": [1]}, {"ids": [2]}]


@pytest.mark.parametrize("damage", ["flip", "cut", "part", "index", "empty index"])
def test_a_broken_one_is_named_and_the_one_before_is_taken(tmp_path, caplog, damage):
    good = checkpoint.save(tmp_path, 1, state(1), keep=3)
    bad = checkpoint.save(tmp_path, 2, state(2), keep=3)
    content = bytearray((bad / "model.pt").read_bytes())
    content[len(content) // 2] ^= 1
    {
        "flip": lambda: (bad / "model.pt").write_bytes(content),
        "cut": lambda: (bad / "model.pt").write_bytes(content[:-1]),
        "part": (bad / "rng.pt").unlink,
        "index": (bad / "checkpoint.json").unlink,
        "empty index": lambda: (bad / "checkpoint.json").write_text("{}"),
    }[damage]()
    assert checkpoint.latest(tmp_path) == good
    assert str(bad) in caplog.text
    with pytest.raises(ValueError, match=f"{bad}: .*resume from an earlier"):
        checkpoint.load(bad)


def test_another_policy_is_refused_with_what_differs(tmp_path):
    path = checkpoint.save(tmp_path, 1, state(), keep=1)
    assert checkpoint.load(path, spec=SPEC, only=["counters"])
    with pytest.raises(
        ValueError, match=rf"{path}: of another policy \(bins None there, 64 here; chunk 8 there, 4 here\)"
    ):
        checkpoint.load(path, spec={**SPEC, "chunk": 4, "bins": 64})


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(ValueError, match="none: no such checkpoint"):
        checkpoint.load(tmp_path / "none")


def test_a_value_that_could_not_be_loaded_is_refused_before_writing(tmp_path):
    with pytest.raises(ValueError, match=r"state\['a'\]\['b'\]\[1\] is a Generator"):
        checkpoint.save(tmp_path, 1, {"a": {"b": [0, np.random.default_rng()]}}, keep=1)
    assert os.listdir(tmp_path) == []


SAVING = """
import os, random, resource, signal, sys, time
import torch
from acceerl.stores import checkpoint

def saving(folder, told):
    for step in range(1, 10**6):
        state = {"model": torch.full((200, 500), float(step)), "counters": {"step": step}}
        checkpoint.save(folder, step, state, keep=2)
        os.write(told, step.to_bytes(4, "little"))

rng = random.Random(0)
for attempt in range(4):
    folder = f"{sys.argv[1]}/{attempt}"
    read, write = os.pipe()
    child = os.fork()
    if not child:
        saving(folder, write)
    os.close(write)
    told = os.read(read, 4)
    time.sleep(rng.uniform(0, 0.06))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    told = int.from_bytes((told + os.read(read, 1 << 16))[-4:], "little")
    state = checkpoint.load(checkpoint.latest(folder))
    assert told <= state["counters"]["step"] <= told + 1, (told, state["counters"])
    assert (state["model"] == state["counters"]["step"]).all()
    checkpoint.save(folder, 10**7, {"model": torch.zeros(1)}, keep=2)
    assert all(path.startswith("ckpt-") and "." not in path for path in os.listdir(folder)), os.listdir(folder)

resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoint.save(folder, 10**7 + 1, {"model": torch.zeros(10**6)}, keep=2)
except OSError as error:
    print(error)
print(checkpoint.latest(folder), os.listdir(folder) == [p.name for p in checkpoint.checkpoints(folder)])
"""


def test_sigkill_while_saving_leaves_the_last_whole_one_and_a_full_disk_costs_nothing(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SAVING, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=90)
    assert done.returncode == 0, done.stderr
    refusal, last = done.stdout.splitlines()
    assert f"{tmp_path}/3/ckpt-10000001: cannot be saved" in refusal
    assert "free disk space" in refusal
    assert last.startswith(f"{tmp_path}/3/ckpt-10000000 ")
