"""What the commands do: each function gets the parsed words, imports what it needs, and returns the exit code."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any


def train(parsed: argparse.Namespace) -> int:
    from acceerl.launch import sweep, train
    from acceerl.launch.compose import multirun

    if parsed.multirun:
        if any(text.startswith("resume=") for text in parsed.overrides):
            raise ValueError("resume= continues one run: leave -m out")
        if not parsed.dry_run and sweep.wanted(parsed.overrides):
            return sweep.command(parsed.overrides)
        return multirun(parsed.overrides, _dry_train if parsed.dry_run else train.start)
    config, resumed = train.prepare("train", parsed.overrides)
    return _dry_train(config) if parsed.dry_run else train.start(config, resumed)


def _dry_train(config: Any) -> int:
    """With launch=slurm and a cluster at hand, what submission would refuse is refused here, too."""
    from acceerl.launch.train import describe

    print(describe(config), flush=True)
    if config.launch == "slurm":
        from acceerl.launch import slurm  # loads submitit

        slurm.warn(config)
        print(slurm.tried(config), flush=True)
    return 0


def _job(parsed: argparse.Namespace, overrides: list[str]) -> int:
    """Jobs that run in this process: `acceerl.jobs.NAME:run(config, run)`."""
    from acceerl.launch.train import prepare

    if any(text.startswith("json=") for text in overrides):
        raise ValueError(f"acceerl {parsed.command} writes no json=: leave it out (train, bench and doctor do)")
    if parsed.multirun:
        return _points(parsed, overrides)
    config, resumed = prepare(parsed.command, overrides)
    if parsed.dry_run:
        print(_planned(parsed.command, config, resumed))
        return 0
    return _run_job(parsed.command, config, resumed)


def _planned(command: str, config: Any, resumed: Any) -> str:
    if command == "collect":
        text: str = importlib.import_module("acceerl.jobs.collect").planned(config, resumed)
        return text
    return f"{command} of {config.suite} in one process on this machine; no links"


def _points(parsed: argparse.Namespace, overrides: list[str]) -> int:
    """One after the other here, or with hydra/launcher=array as an array of Slurm jobs."""
    from acceerl.launch import sweep
    from acceerl.launch.compose import multirun

    if any(text.startswith("resume=") for text in overrides) or parsed.dry_run:
        raise ValueError(f"acceerl {parsed.command} -m takes neither resume= nor --dry-run")
    if sweep.LAUNCHER in overrides:
        raise ValueError(f"{sweep.LAUNCHER} is train's: use hydra/launcher=array")
    return multirun(overrides, partial(_run_job, parsed.command))


def _run_job(command: str, config: Any, resumed: Any = None) -> int:
    from acceerl.launch.train import open_run

    run: Callable[..., int] = importlib.import_module(f"acceerl.jobs.{command}").run
    opened = open_run(config, resumed)
    with opened.given_back_unless_begun():
        return run(config, opened)


def plain_job(parsed: argparse.Namespace) -> int:
    return _job(parsed, parsed.overrides)


def evaluate(parsed: argparse.Namespace) -> int:
    """`in=` is what people write; no field of a Python record can be called so."""
    return _job(parsed, [re.sub(r"^in=", "evaluator.inside=", word) for word in parsed.overrides])


def pretrain(parsed: argparse.Namespace) -> int:
    return _job(parsed, [*parsed.overrides, f"pretrain.what={parsed.words[0]}"])


def export(parsed: argparse.Namespace) -> int:
    importlib.import_module("acceerl.jobs.export").run(parsed.words[0], **parsed.options)
    return 0


def report(parsed: argparse.Namespace) -> int:
    from acceerl.runtime.rundir import Run

    run = Run.open(parsed.words[0])
    versus = [path for path in parsed.options["versus"].split(",") if path]
    importlib.import_module("acceerl.jobs.report").run(run.path, versus)
    print(run.report)
    return 0


def beside(parsed: argparse.Namespace) -> int:
    """Commands that look at runs and machines from outside: `acceerl.launch.NAME:command(words, options)`."""
    command: Callable[..., int] = importlib.import_module(f"acceerl.launch.{parsed.command}").command
    return command(parsed.words, parsed.options)


def doctor(parsed: argparse.Namespace) -> int:
    """Of this machine; with launch=slurm and a training's other overrides, of each component that it would get."""
    if "launch=slurm" in parsed.overrides:
        from acceerl.launch.doctor_cluster import doctor

        return doctor(parsed.overrides, Path(parsed.options["runs"]), parsed.options["json"])
    strange = [word for word in parsed.overrides if not word.startswith(("site=", "site.", "hydra.searchpath="))]
    if strange:
        raise ValueError(
            f"acceerl doctor takes no further words, got {' '.join(strange)} (its keys: {', '.join(parsed.options)}, "
            "site.*; with launch=slurm the overrides of a training)"
        )
    if parsed.overrides:
        from acceerl.launch.compose import compose
        from acceerl.launch.doctor_site import put_on, variables

        put_on(variables(compose("train", parsed.overrides)))
    return beside(parsed)


def data(parsed: argparse.Namespace) -> int:
    from acceerl.launch import data

    return data.command([*parsed.words, *parsed.overrides])


def bench(parsed: argparse.Namespace) -> int:
    from acceerl.bench import catalogue

    catalogue.run(parsed.words[0], parsed.overrides)
    return 0
