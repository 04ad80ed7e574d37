"""`acceerl bench train`: whole trainings with all their processes; asynchronous against lock-step, regime by regime.

Schedules take turns (A B A B), so that a machine that slows down slows both; ratios are taken pair by pair.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from acceerl.bench import ceilings, train_regimes
from acceerl.bench.learner_alone import updates_alone
from acceerl.bench.options import option
from acceerl.bench.pinning import pin_beside
from acceerl.bench.result import Result
from acceerl.bench.train_regimes import MEAN_MS, ON_SLURM, PROCESSES, REGIMES
from acceerl.bench.trainings import OnSlurm, Rates, Training

FIGURES = {
    "train.{constant,tail,cpu}.{async,sync,sync_update}_env_steps_per_s": "control steps a second; median of the runs",
    "train.{constant,tail,cpu}.{async,sync,sync_update}_updates_per_s": "learner updates a second; median of the runs",
    "train.{constant,tail,cpu}.async_over_sync": "ratio of control steps a second; median over the pairs",
    "train.{constant,tail,cpu}.sync_share_of_ceiling": "lock-step rate over what lock-step allows at best",
    "train.{constant,tail,cpu}.async_share_of_ceiling": "asynchronous rate over what the simulators allow at best",
    "train.tail_k2.async_env_steps_per_s": "control steps a second with two environments a process",
    "train.tail_k2.async_updates_per_s": "learner updates a second with two environments a process",
    "train.skeleton.decisions_per_s": "decisions a second with 3 x 224 x 224 floats to look at",
    "train.skeleton.samples_per_s": "decisions trained a second, a network of 39 million weights",
    "train.skeleton.updates_per_s": "learner updates a second, each published",
    "train.skeleton.first_update_s": "seconds from the command to the first update",
    "train.skeleton_k4.{decisions,samples,updates}_per_s": "the same with four environments a process",
    "train.skeleton_k4.first_update_s": "the same with four environments a process",
    "train.learner.updates_per_s": "updates a second of a learner with a core of its own, beside serving",
    "train.learner.alone_updates_per_s": "updates a second of the same learner with nothing beside it",
    "train.learner.share_of_alone": "ratio of the two; median over the pairs",
    "train.slurm_tail.{local,slurm}_env_steps_per_s": "control steps a second of the tail regime, here and as a job",
    "train.slurm_tail.slurm_over_local": "ratio of the two; median over the pairs",
}


@dataclass(frozen=True)
class Options:
    regimes: tuple[str, ...] = option(REGIMES, "which workloads, comma-separated", choices=(*REGIMES, ON_SLURM))
    pairs: int = option(5, "of runs in turns (async, sync); also how often other regimes run", least=1)
    seconds: float = option(20.0, "of each measured window", least=1.0)
    site: str = option("devcluster", "configuration of the cluster that slurm_tail uses")
    warmup: float = option(5.0, "seconds after the first updates, not measured", least=0.0)


@dataclass
class Lab:
    """Runs trainings one after another and keeps what they yielded."""

    options: Options
    folder: Path
    result: Result = field(default_factory=Result)

    def measure(self, regime: str, schedule: str, overrides: list[str], **more: Any) -> Rates:
        """One training from start to end; its rates become a row."""
        with self.training(regime, [*overrides, *train_regimes.schedule(schedule)]) as training:
            rates = training.rates(self.options.warmup, self.options.seconds)
        self.note(regime, schedule, rates, **more)
        return rates

    @contextmanager
    def training(self, regime: str, overrides: list[str], kind: type[Training] = Training) -> Iterator[Training]:
        """A run whose directory is removed in the end."""
        name = f"{regime}-{len(self.result.rows)}"
        try:
            with kind(self.folder, name, overrides) as training:
                yield training
        finally:
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def note(self, regime: str, schedule: str, rates: Rates, **more: Any) -> None:
        numbers = {f"{k}_per_s": round(v, 2) for k, v in vars(rates).items()}
        row = {"regime": regime, "schedule": schedule} | numbers | {k: round(v, 3) for k, v in more.items()}
        self.result.rows.append(row)
        print("  ".join(f"{k} {v}" for k, v in row.items()), file=sys.stderr, flush=True)

    def figure(self, name: str, value: float) -> None:
        self.result.figures[f"train.{name}"] = value


def run(options: Options) -> Result:
    """Raises ValueError when a regime needs a cluster and there is none."""
    if ON_SLURM in options.regimes and shutil.which("sbatch") is None:
        raise ValueError(f"regimes={ON_SLURM} needs Slurm, and sbatch is not in PATH: log in to a cluster, or start "
                         "one with slurm/devcluster")  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="acceerl-bench-") as folder:
        lab = Lab(options, Path(folder))
        for regime in options.regimes:
            _REGIMES.get(regime, _compare)(lab, regime)
    return lab.result


def _compare(lab: Lab, regime: str) -> None:
    """The pairs, then one run of the schedule that waits at updates only."""
    overrides, cores = train_regimes.latency(regime), len(os.sched_getaffinity(0))
    ceiling = {name: of(regime, PROCESSES, MEAN_MS / 1e3, cores) for name, of in _CEILINGS.items()}
    runs: dict[str, list[Rates]] = {"async": [], "sync": []}
    for _ in range(lab.options.pairs):
        for schedule, rates in runs.items():
            rates.append(lab.measure(regime, schedule, overrides, ceiling=ceiling[schedule]))
    runs["sync_update"] = [lab.measure(regime, "sync_update", overrides)]
    for schedule, rates in runs.items():
        _figures(lab, f"{regime}.{schedule}", rates)
    ratios = [a.env_steps / s.env_steps for a, s in zip(runs["async"], runs["sync"], strict=True)]
    lab.figure(f"{regime}.async_over_sync", median(ratios))
    for schedule in ceiling:
        reached = median(r.env_steps for r in runs[schedule])
        lab.figure(f"{regime}.{schedule}_share_of_ceiling", reached / ceiling[schedule])


_CEILINGS = {"async": ceilings.asynchronous, "sync": ceilings.lock_step}


def _figures(lab: Lab, name: str, rates: list[Rates]) -> None:
    lab.figure(f"{name}_env_steps_per_s", median(r.env_steps for r in rates))
    lab.figure(f"{name}_updates_per_s", median(r.updates for r in rates))


def _two_envs(lab: Lab, regime: str) -> None:
    overrides = train_regimes.latency("tail", envs=2)
    _figures(lab, f"{regime}.async", [lab.measure(regime, "async", overrides) for _ in range(lab.options.pairs)])


_SKELETON_ENVS = {"skeleton": 1, "skeleton_k4": 4}


def _skeleton(lab: Lab, regime: str) -> None:
    seen: list[tuple[float, ...]] = []
    for _ in range(lab.options.pairs):
        with lab.training(regime, train_regimes.skeleton(_SKELETON_ENVS[regime])) as training:
            rates = training.rates(lab.options.warmup, lab.options.seconds)
            training.stop()
            samples, first = rates.updates * training.samples_per_update(), training.first_update_s()
        lab.note(regime, "async", rates, samples_per_s=samples, first_update_s=first)
        seen.append((rates.decisions, samples, rates.updates, first))
    names = ("decisions_per_s", "samples_per_s", "updates_per_s", "first_update_s")
    for name, values in zip(names, zip(*seen, strict=True), strict=True):
        lab.figure(f"{regime}.{name}", median(values))


def _learner(lab: Lab, regime: str) -> None:
    """Beside the others, then alone on what that run left behind, pair by pair."""
    options, pairs = lab.options, []
    for _ in range(options.pairs):
        with lab.training(regime, train_regimes.learner_bound()) as training:
            pin_beside(training)
            rates = training.rates(options.warmup, options.seconds)
            training.stop()
            alone = updates_alone(training.run.path, options.warmup, options.seconds)
        lab.note(regime, "async", rates, alone_updates_per_s=alone)
        pairs.append((rates.updates, alone))
    lab.figure(f"{regime}.updates_per_s", median(beside for beside, _ in pairs))
    lab.figure(f"{regime}.alone_updates_per_s", median(alone for _, alone in pairs))
    lab.figure(f"{regime}.share_of_alone", median(beside / alone for beside, alone in pairs))


def _on_slurm(lab: Lab, regime: str) -> None:
    """The tail regime here and as a job, in turns. The folder of the runs must be one that the nodes see."""
    options, pairs = lab.options, []
    tail = train_regimes.latency("tail")
    kinds = {"local": (Training, tail), "slurm": (OnSlurm, tail + train_regimes.on_slurm(options.site))}
    for _ in range(options.pairs):
        rates = {}
        for name, (kind, overrides) in kinds.items():
            with lab.training(regime, overrides, kind) as training:
                rates[name] = training.rates(options.warmup, options.seconds)
            lab.note(regime, name, rates[name])
        pairs.append(rates)
    for name in kinds:
        lab.figure(f"{regime}.{name}_env_steps_per_s", median(pair[name].env_steps for pair in pairs))
    lab.figure(f"{regime}.slurm_over_local", median(p["slurm"].env_steps / p["local"].env_steps for p in pairs))


_REGIMES: dict[str, Callable[[Lab, str], None]] = {
    "tail_k2": _two_envs,
    "skeleton": _skeleton,
    "skeleton_k4": _skeleton,
    "learner": _learner,
    ON_SLURM: _on_slurm,
}
