"""Tables, figures and their documented names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from acceerl.bench.catalogue import BENCHES, help_text, load
from acceerl.bench.result import Result, about, matches, table


def test_a_row_without_a_key_leaves_its_cell_empty():
    lines = table([{"what": "one", "us": 1.5}, {"what": "three", "share": 0.25}])
    assert [line.split() for line in lines] == [["what", "us", "share"], ["one", "1.5"], ["three", "0.25"]]
    assert lines[2].index("0.25") > lines[1].index("1.5")


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("links.round_trip_us", "links.round_trip_us", True),
        ("links.round_trip_us", "links_round_trip_us", False),
        ("train.{tail,cpu}.async_over_sync", "train.cpu.async_over_sync", True),
        ("train.{tail,cpu}.async_over_sync", "train.constant.async_over_sync", False),
        ("env.{}.state_steps_per_s", "env.tabletop.state_steps_per_s", True),
        ("env.{}.state_steps_per_s", "env.a.b.state_steps_per_s", False),
    ],
)
def test_patterns_of_figure_names(pattern: str, name: str, fits: bool):
    assert matches(pattern, name) is fits


def test_a_figure_without_help_is_a_bug():
    with pytest.raises(AssertionError, match=r"toy\.x matches 0"):
        about("toy.x", {"toy.y": "something"})


def test_the_file_has_the_promised_shape(tmp_path: Path):
    Result([{"what": "one"}], {"toy.x": 1.5}).write(tmp_path / "x.json", "toy")
    assert json.loads((tmp_path / "x.json").read_text()) == {
        "bench": "toy", "rows": [{"what": "one"}], "figures": {"toy.x": 1.5},
    }  # fmt: skip


@pytest.mark.parametrize("name", BENCHES)
def test_help_lists_every_figure_with_a_phrase(name: str):
    text = help_text(name)
    for figure, phrase in load(name).FIGURES.items():
        assert figure.startswith(f"{name}.")
        assert any(line.split(maxsplit=1) == [figure, phrase] for line in text.splitlines())
