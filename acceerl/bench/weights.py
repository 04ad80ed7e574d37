"""`acceerl bench weights`: how fast new weights reach inference, and how long serving stops for them.

The real roles do it: a publisher with its MPI thread, and inference, which answers rollouts, receives beside that
and swaps between two batches; once in pieces over MPI, as between two machines, and once through memory that both map,
as on one. Beside them, the same bytes in the same pieces over plain MPI calls.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from acceerl.bench.options import option
from acceerl.bench.result import Result
from acceerl.bench.stage import Stage

MODULE = "acceerl.bench.weights_process"
LEARNER, INFERENCE = ("learner", 0), ("inference", 0)
FIGURES = {
    "weights.gb_per_s": "from the learner's publish() to a checked version in inference, over MPI, nobody else asking",
    "weights.raw_gb_per_s": "the same bytes in 4 MiB pieces over plain MPI calls, neither copied nor checked",
    "weights.share_of_raw": "ratio of the two",
    "weights.swap_pause_ms": "how much longer than usual the longest gap between two answers is while a version comes",
    "weights.batch_ms": "duration of one batch of the same policy, undisturbed",
    "weights.pause_in_batches": "ratio of the two",
    "weights.load_ms": "part of the pause in which the version becomes the policy's",
    "weights.shared_gb_per_s": "like gb_per_s, through shared memory",
    "weights.shared_swap_pause_ms": "like swap_pause_ms, through shared memory",
    "weights.shared_pause_in_batches": "like pause_in_batches, through shared memory",
}


@dataclass(frozen=True)
class Options:
    mb: float = option(100.0, "size of the policy, 10^6 bytes", least=0.1)
    versions: int = option(7, "published in each measurement; figures are medians", least=1)
    clients: int = option(2, "rollouts that ask all the time", least=1)
    settle: float = option(2.0, "seconds of undisturbed serving before versions come", least=0.1)


@dataclass(frozen=True)
class Link:
    """What one way of travelling yielded."""

    quiet: list[dict[str, Any]]  # of each version, with nobody asking
    busy: list[dict[str, Any]]  # of each version, beside clients
    usual: dict[str, float]  # of serving, undisturbed

    @property
    def rates(self) -> list[float]:
        """GB/s."""
        return [seen["bytes"] / seen["seconds"] / 1e9 for seen in self.quiet]

    @property
    def pauses(self) -> list[float]:
        """Seconds."""
        return [max(0.0, seen["longest_gap_s"] - self.usual["gap_s"]) for seen in self.busy]


def run(options: Options) -> Result:
    with Stage() as stage:
        raw = _raw(stage, options)
    return _result(options, raw, {name: _link(options, name == "shared memory") for name in ("MPI", "shared memory")})


def _link(options: Options, shared: bool) -> Link:
    with Stage() as stage:
        _start(stage, options, "link", shared)
        stage.heard(INFERENCE, "version 0")
        quiet = _publish(stage, options, first=1)
        for index in range(options.clients):
            stage.start(MODULE, "rollout", index, play="link", **asdict(options))
        usual = _usual(stage, options)
        return Link(quiet, _publish(stage, options, first=options.versions + 1), usual)


def _start(stage: Stage, options: Options, play: str, shared: bool = False) -> None:
    for role, index in (LEARNER, INFERENCE):
        stage.start(MODULE, role, index, play=play, shared=shared, **asdict(options))


def _raw(stage: Stage, options: Options) -> list[float]:
    """GB/s of each transfer."""
    _start(stage, options, "raw")
    return [float(rate) for rate in stage.heard(INFERENCE, "gb_per_s", 60 + 5 * options.versions)]


def _publish(stage: Stage, options: Options, first: int) -> list[dict[str, Any]]:
    """Versions one by one, each when the one before has been swapped in and served with for a while."""
    arrived = []
    for version in range(first, first + options.versions):
        stage.registry.request("learner", f"publish {version}")
        arrived.append(stage.heard(INFERENCE, f"version {version}", 120.0))
        time.sleep(0.2)
    return arrived


def _usual(stage: Stage, options: Options) -> dict[str, float]:
    """Medians of undisturbed serving: `gap_s` between two answers, `batch_s` of one."""
    stage.heard(INFERENCE, "serving")
    time.sleep(options.settle)
    stage.registry.request("inference", "usual")
    usual: dict[str, float] = stage.heard(INFERENCE, "usual")
    return usual


def _result(options: Options, raw: list[float], links: dict[str, Link]) -> Result:
    mpi, shared = links["MPI"], links["shared memory"]
    figures = {
        "gb_per_s": median(mpi.rates),
        "raw_gb_per_s": median(raw),
        "share_of_raw": median(mpi.rates) / median(raw),
        **_pause(mpi),
        "batch_ms": 1e3 * mpi.usual["batch_s"],
        "load_ms": 1e3 * median(seen["load_s"] for seen in mpi.busy),
        "shared_gb_per_s": median(shared.rates),
        **{f"shared_{name}": value for name, value in _pause(shared).items()},
    }
    rows: list[dict[str, Any]] = [{"what": "plain MPI", "gb_per_s": round(rate, 3)} for rate in raw]
    rows += [row for name, link in links.items() for row in _rows(options, name, link)]
    return Result(rows, {f"weights.{name}": value for name, value in figures.items()})


def _pause(link: Link) -> dict[str, float]:
    pause = median(link.pauses)
    return {"swap_pause_ms": 1e3 * pause, "pause_in_batches": pause / link.usual["batch_s"]}


def _rows(options: Options, name: str, link: Link) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"what": name, "gb_per_s": round(rate, 3)} for rate in link.rates]
    return rows + [
        {
            "what": f"{name} beside {options.clients} clients",
            "gb_per_s": round(seen["bytes"] / seen["seconds"] / 1e9, 3),
            "pause_ms": round(1e3 * pause_s, 2),
            "load_ms": round(1e3 * seen["load_s"], 2),
        }
        for seen, pause_s in zip(link.busy, link.pauses, strict=True)
    ]
