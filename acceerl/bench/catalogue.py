"""The table of benches, and how one is run: words in, a table and JSON out."""

from __future__ import annotations

import importlib
import signal
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from acceerl.bench import options as options_of
from acceerl.bench.result import Result
from acceerl.runtime.jsonfile import json_file
from acceerl.runtime.stop import STOPPED

# name -> what it measures; the module acceerl.bench.NAME has Options, FIGURES and run(options) -> Result
BENCHES = {
    "links": "round trips and throughput between rollouts and inference",
    "train": "whole trainings: asynchronous against lock-step, large observations, a learner beside serving",
    "env": "control steps a second of each environment, alone in one process",
    "weights": "how fast new weights reach inference, and how long serving stops for them",
    "imagine": "imagined frames a second by batch size, against what real environments cost",
    "policy": "openvla_oft with random weights: decisions a second while it acts and learns, and its share of the peak",
    "store": "windows a second read from trajectories, against a plain robomimic-style file",
}


def load(name: str) -> ModuleType:
    assert name in BENCHES
    return importlib.import_module(f"acceerl.bench.{name}")


def run(name: str, words: Sequence[str]) -> Result:
    """Runs a bench, prints its table, and writes JSON with `json=PATH`. Raises ValueError for a wrong option."""
    bench = load(name)
    paths = [word.removeprefix("json=") for word in words if word.startswith("json=")]
    if len(paths) > 1:
        raise ValueError(options_of.twice("json"))
    chosen = options_of.parse(bench.Options, f"bench {name}", [word for word in words if not word.startswith("json=")])
    path = json_file(paths[0]) if paths else None
    signal.signal(signal.SIGTERM, _leave)
    result: Result = bench.run(chosen)
    print(result.text(bench.FIGURES), flush=True)
    if path is not None:
        result.write(path, name)
    return result


def help_text(name: str) -> str:
    """The figures of a bench with one phrase each, and its options with their defaults."""
    bench = load(name)
    width = max(map(len, bench.FIGURES))
    return "\n".join([
        f"usage: acceerl bench {name} [KEY=VALUE ...] [json=PATH]", "", f"measures {BENCHES[name]}", "",
        "options and their defaults (KEY=VALUE):", *options_of.describe(bench.Options),
        "  json=PATH  writes rows and figures there, too", "",
        "figures:", *[f"  {figure:<{width}}  {text}" for figure, text in bench.FIGURES.items()],
    ])  # fmt: skip


def overview() -> list[str]:
    """One line a bench."""
    width = max(map(len, BENCHES))
    return [f"  {name:<{width}}  {what}" for name, what in BENCHES.items()]


def _leave(*_: object) -> NoReturn:
    """Ended by SIGTERM, a bench still ends its processes and removes its files, which may be gigabytes."""
    raise SystemExit(STOPPED)
