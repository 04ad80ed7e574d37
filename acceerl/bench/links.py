"""`acceerl bench links`: how fast a request of a rollout is answered, by the ends and the waiting that roles use.

A server (role inference) answers every request at once. Beside it, the same bytes over plain MPI calls, which is
what there is to gain.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

from acceerl.bench.options import option
from acceerl.bench.result import Result
from acceerl.bench.stage import Stage

MODULE = "acceerl.bench.links_process"
SERVER = ("inference", 0)
FIGURES = {
    "links.round_trip_us": "median from sending a request to holding its reply, one client",
    "links.raw_round_trip_us": "the same bytes and the same sleeps over plain MPI calls, nothing encoded",
    "links.pairs_per_s": "requests and replies a second over all clients, each with one in flight",
    "links.far_round_trip_us": "like round_trip_us, but requests over MPI, as between machines",
    "links.far_pairs_per_s": "like pairs_per_s, but requests over MPI, as between machines",
    "links.idle_share": "share of a core that a connected process uses while nothing happens (the worse end)",
    "links.server_us_per_pair": "processor time of the server for each pair under all clients",
    "links.client_us_per_pair": "processor time of a client for each pair, one client",
}


@dataclass(frozen=True)
class Options:
    rounds: int = option(3, "of all measurements; figures are medians", least=1)
    seconds: float = option(5.0, "of each measurement", least=0.1)
    warmup: float = option(1.0, "seconds of requests before the measurement", least=0.0)
    idle: float = option(5.0, "seconds over which idle processes are watched", least=0.1)
    clients: int = option(6, "of the measurement with several", least=1)
    request: int = option(200_000, "bytes of an observation", least=3)
    reply: int = option(1_000, "bytes of an answer", least=4)


def run(options: Options) -> Result:
    """Rounds of all measurements, each with processes of its own: which core they get differs from start to start."""
    result, seen = Result(), [_round(options) for _ in range(options.rounds)]
    for name in seen[0]:
        result.rows += [{"what": name} | {k: round(v, 4) for k, v in each[name].items()} for each in seen]
    mid = {name: {k: median(each[name][k] for each in seen) for k in rows} for name, rows in seen[0].items()}
    one, many, far, far_many, raw, idle = mid.values()
    result.figures = {
        "links.round_trip_us": one["p50_us"],
        "links.raw_round_trip_us": raw["p50_us"],
        "links.pairs_per_s": many["pairs_per_s"],
        "links.far_round_trip_us": far["p50_us"],
        "links.far_pairs_per_s": far_many["pairs_per_s"],
        "links.idle_share": max(idle.values()),
        "links.server_us_per_pair": many["server_us"],
        "links.client_us_per_pair": one["client_us"],
    }
    return result


def _round(options: Options) -> dict[str, dict[str, float]]:
    """What is to be compared stands close in time: what a machine gives changes from minute to minute."""
    many = f"{options.clients} clients"
    measured = {
        "1 client": _measure(options, 1),
        many: _measure(options, options.clients),
        "1 client, as from afar": _measure(options, 1, near=False),
        f"{many}, as from afar": _measure(options, options.clients, near=False),
        "1 client, plain MPI": _measure(options, 1, play="raw"),
    }
    return {**measured, "idle": _idle(options)}


def _measure(options: Options, clients: int, play: str = "links", near: bool = True) -> dict[str, float]:
    """Round trips of the slowest client, pairs a second over all, processor time a pair on both sides."""
    with Stage() as stage:
        _start(stage, options, clients, play=play, near=near)
        return _window(stage, options, clients)


def _start(stage: Stage, options: Options, clients: int, **how: Any) -> None:
    how |= asdict(options)
    for role, index in (SERVER, *(("rollout", index) for index in range(clients))):
        stage.start(MODULE, role, index, **how)
    for index in range(clients):
        stage.heard(("rollout", index), "talking")
    time.sleep(options.warmup)


def _window(stage: Stage, options: Options, clients: int) -> dict[str, float]:
    """Everybody has been talking for a while: now they measure together."""
    before, began = stage.cpu_seconds(SERVER), time.monotonic()
    stage.registry.request("rollout", "measure")
    time.sleep(options.seconds)
    busy, took = stage.cpu_seconds(SERVER) - before, time.monotonic() - began
    heard = [stage.heard(("rollout", i), "measured", options.seconds + 30) for i in range(clients)]
    rate = sum(h["pairs"] / h["seconds"] for h in heard)
    worst = max(heard, key=lambda h: h["p50_us"])
    return {
        **{name: worst[name] for name in ("p50_us", "p90_us", "p99_us")},
        "pairs_per_s": rate,
        "client_us": 1e6 * sum(h["cpu_s"] for h in heard) / sum(h["pairs"] for h in heard),
        "server_us": 1e6 * busy / (rate * took),
    }


def _idle(options: Options) -> dict[str, float]:
    """Share of a core of a client that waits, and of a server that nobody asks."""
    with Stage() as stage:
        _start(stage, replace(options, seconds=0.1), 1, play="links", near=True)
        stage.registry.request("rollout", "measure")
        stage.heard(("rollout", 0), "measured")
        time.sleep(1.0)  # sleeps lengthen step by step after the last message
        keys = {"idle_client_share": ("rollout", 0), "idle_server_share": SERVER}
        began, before = time.monotonic(), {name: stage.cpu_seconds(key) for name, key in keys.items()}
        time.sleep(options.idle)
        used = {name: stage.cpu_seconds(key) - before[name] for name, key in keys.items()}
        return {name: seconds / (time.monotonic() - began) for name, seconds in used.items()}
