"""`acceerl bench` with real processes, as small as it goes: the shape of what it writes, never its timings."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from acceerl.bench.catalogue import load
from acceerl.bench.result import about, matches
from tests.e2e.running import acceerl

pytestmark = [pytest.mark.e2e, pytest.mark.beside, pytest.mark.slow, pytest.mark.timeout(280)]


def bench(name: str, *words: str, cwd: Path) -> dict[str, Any]:
    done = acceerl("bench", name, *words, "json=out.json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    written: dict[str, Any] = json.loads((cwd / "out.json").read_text())
    assert written["bench"] == name
    assert written["rows"]
    for figure, value in written["figures"].items():
        assert about(figure, load(name).FIGURES) in done.stdout
        assert math.isfinite(value) and value >= 0, figure
    return written


def unyielded(name: str, figures: dict[str, float]) -> set[str]:
    """Documented figures that a run did not print."""
    return {pattern for pattern in load(name).FIGURES if not any(matches(pattern, figure) for figure in figures)}


def test_links_prints_what_its_help_lists(tmp_path: Path) -> None:
    written = bench("links", "rounds=1", "seconds=0.3", "warmup=0.1", "idle=0.3", "clients=2", cwd=tmp_path)
    assert not unyielded("links", written["figures"])
    assert written["figures"]["links.pairs_per_s"] > 0


def test_train_compares_schedules_in_whole_trainings(tmp_path: Path) -> None:
    written = bench("train", "regimes=constant", "pairs=1", "seconds=1", "warmup=0", cwd=tmp_path)
    assert [row["schedule"] for row in written["rows"]] == ["async", "sync", "sync_update"]
    assert all(row["env_steps_per_s"] > 0 for row in written["rows"])
    left = unyielded("train", written["figures"])
    others = {"tail_k2", "skeleton", "skeleton_k4", "learner", "slurm_tail"}
    assert {pattern.split(".")[1] for pattern in left} == others
    assert list(tmp_path.iterdir()) == [tmp_path / "out.json"]


def test_weights_prints_what_its_help_lists(tmp_path: Path) -> None:
    written = bench("weights", "mb=1", "versions=2", "settle=0.2", "clients=1", cwd=tmp_path)
    assert not unyielded("weights", written["figures"])
    kinds = Counter(row["what"].partition(" beside")[0] for row in written["rows"])
    assert kinds == {"plain MPI": 2, "MPI": 4, "shared memory": 4}  # each route alone, and beside one client


def test_the_others_print_what_their_help_lists(tmp_path: Path) -> None:
    words = ("episodes=2", "steps=10", "frames=4", "image_size=16", "windows=5", "turns=1", "kills=2")
    store = bench("store", *words, cwd=tmp_path)
    assert not unyielded("store", store["figures"])
    env = bench("env", "envs=tabletop,latency", "seconds=0.1", "image_size=16", cwd=tmp_path)
    left = unyielded("env", env["figures"])
    assert all(pattern.startswith("env.libero.") for pattern in left), left  # the simulator's part was not asked for
