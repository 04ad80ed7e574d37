"""A run directory as a training would have left it, made up: two attempts, a crashed rollout, a torn line."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from acceerl.config import Config
from acceerl.jobs.success import write_table, write_video
from acceerl.runtime.rundir import Run
from acceerl.types import EpisodeResult

INSTRUCTIONS = (
    "pick up the red cube and place it on the plate", "open the top drawer", "push the bowl to the front of the stove",
    "put the blue mug between the plates", "turn on the switch <left>", "stack the small cube on the large one",
    "move the green ball next to the mug", "close the bottom drawer & press the button", "put the cube into the bowl",
    "lift the yellow cylinder",
)  # fmt: skip
BEGAN = 1_700_000_000.0
EVERY = 10.0


def results(rate: float, seed: int, episodes: int = 200, version: int = 0) -> list[EpisodeResult]:
    rng = np.random.default_rng(seed)
    hard = np.linspace(0.3, -0.3, len(INSTRUCTIONS))
    tasks = [i % len(INSTRUCTIONS) for i in range(episodes)]
    won = [bool(rng.random() < np.clip(rate + hard[t], 0.02, 0.99)) for t in tasks]
    return [
        EpisodeResult(t, 100 + i // 10, w, int(rng.integers(60, 140) if w else 220), version)
        for i, (t, w) in enumerate(zip(tasks, won, strict=True))
    ]


def make(runs: Path, minutes: int = 40, videos: int = 2) -> Run:
    """The whole run; `minutes` of training with a night between its two halves."""
    config = Config(
        name="first-light", runs=str(runs), start="shipped", policy={"_target_": "acceerl.policies.tiny.Tiny"},
        env={"_target_": "acceerl.envs.tabletop.Tabletop"},
    )  # fmt: skip
    run = Run.create(config)
    rng = np.random.default_rng(0)
    half = minutes * 30
    _rollouts(run, half)
    _inference(run, half, rng)
    _learner(run, half, rng)
    _evaluations(run)
    _videos(run, videos)
    processes = [{"role": "rollout", "index": 1, "pid": 9, "running": False, "restarts": 1}]
    counters = {"updates": 2 * half // 4, "env_steps": 2 * half * 4 * 70, "decisions": 2 * half * 40}
    run.write_status({"state": "done", "error": "", "attempt": 2, "counters": counters, "processes": processes})
    return run


def line(role: str, index: int, pid: int, at: float, **fields: object) -> str:
    return json.dumps({"time": BEGAN + at, "role": role, "index": index, "pid": pid, **fields}) + "\n"


def span(counters: dict[str, float], gauges: dict[str, float], waiting: dict[str, float], rss: float):
    return {"seconds": EVERY, "counters": counters, "rates": {}, "gauges": gauges, "waiting": waiting, "rss_mb": rss}


def _ticks(half: int):
    """Attempt, seconds since its start, seconds since the run's: the second attempt comes 8 hours later."""
    for attempt in (0, 1):
        for tick in range(1, int(half / EVERY) + 1):
            yield attempt, tick * EVERY, tick * EVERY + attempt * (half + 8 * 3600)


def _write(run: Run, role: str, index: int, lines: list[str], tail: str = "") -> None:
    path = run.metrics(role, index)
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(lines) + tail)


def _rollouts(run: Run, half: int) -> None:
    for index in range(4):
        lines = []
        for attempt, within, at in _ticks(half):
            crashed = index == 1 and attempt == 0 and within > half / 2
            pid = 100 * attempt + index + (50 if crashed else 0)
            since = within - (half / 2 if crashed else 0)
            report = span({"env_steps": 70 * since}, {}, {"inference": 0.18 + 0.04 * index}, 310 + index)
            lines.append(line("rollout", index, pid, at, **report))
        _write(run, "rollout", index, lines, '{"time": 17000' if index == 1 else "")


def _inference(run: Run, half: int, rng: np.random.Generator) -> None:
    lines = []
    for attempt, within, at in _ticks(half):
        gauges = {"batch": 6 + rng.normal(), "queued_ms": 4 + abs(rng.normal()), "queue": 3.0}
        report = span({"decisions": 40 * within}, gauges, {"rollout": 0.35, "learner": 0.04}, 640)
        lines.append(line("inference", 0, 20 + attempt, at, **report))
    _write(run, "inference", 0, lines)


def _learner(run: Run, half: int, rng: np.random.Generator) -> None:
    lines, steps = [], 0
    for attempt, within, at in _ticks(half):
        done = (within + attempt * half) / (2 * half)
        updates = (within + attempt * half) / 4
        gauges = _gauges(done, rng)
        report = span({"updates": updates, "samples": 64 * within / 4}, gauges, {"segments": 0.22}, 890)
        for _ in range(12):
            steps += 230
            task = int(rng.integers(10))
            won = bool(rng.random() < np.clip(_success(done) + 0.3 - 0.066 * task, 0.02, 0.98))
            fields = {"task": task, "success": won, "decisions": 20, "version": int(updates), "env_steps": steps}
            lines.append(line("learner", 0, 30 + attempt, at - rng.random() * EVERY, event="episode", **fields))
        lines.append(line("learner", 0, 30 + attempt, at, **report))
    _write(run, "learner", 0, lines)


def _success(done: float) -> float:
    return 0.42 + 0.4 * (1 - math.exp(-3 * done))


def _gauges(done: float, rng: np.random.Generator) -> dict[str, float]:
    noise = rng.normal(size=12)
    return {
        "success": _success(done) + 0.01 * noise[0],
        "loss": 0.1 * math.exp(-2 * done) + 0.02 * noise[1],
        "policy_loss": -0.01 + 0.008 * noise[2],
        "value_loss": 0.06 + 0.2 * math.exp(-5 * done) + 0.01 * abs(noise[3]),
        "kl": 0.002 + 0.001 * abs(noise[4]),
        "lag": 3 + noise[5],
        "lag_fresh": 0.6 + 0.05 * noise[6],
        "lag_stale": 0.02 + 0.005 * abs(noise[6]),
        "effective_sample_size": 0.97 - 0.02 * abs(noise[7]),
        "damped_share": 0.01 + 0.004 * abs(noise[8]),
        "entropy": 1.4 - 0.5 * done + 0.02 * noise[9],
        "value": 0.4 + 0.3 * done,
        "return": 0.42 + 0.3 * done + 0.02 * noise[10],
        "grad_norm": 0.8 + 0.2 * abs(noise[11]),
        "update_s": 0.21 + 0.02 * abs(noise[2]),
    }


def _evaluations(run: Run) -> None:
    rates = {"before": 0.42, "after": 0.81} | {f"version-{v:08d}": _success(v / 600) for v in range(100, 600, 100)}
    for seed, (label, rate) in enumerate(rates.items()):
        version = int(label.split("-")[1]) if "-" in label else 0
        write_table(results(rate, seed, version=version), INSTRUCTIONS, run.path / "evaluation" / f"{label}.json")


def _videos(run: Run, number: int) -> None:
    for i in range(number):
        outcome = ("success", "failure")[i % 2]
        path = run.videos / f"after-task{i}-state10{i}-{outcome}.mp4"
        write_video(path, film(40), instruction=INSTRUCTIONS[i], outcome=outcome)


def film(frames: int, size: int = 64) -> list[dict[str, np.ndarray]]:
    """A square that slides over a gradient, and the same scene from nearer."""
    grid = np.mgrid[0:size, 0:size]
    ground = np.stack([70 + grid[0], 90 + grid[1] // 2, 110 + grid[0] // 2], -1).astype(np.uint8)
    shots = []
    for i in range(frames):
        front = ground.copy()
        left = 4 + i * (size - 20) // frames
        front[size // 2 : size // 2 + 12, left : left + 12] = (220, 60, 50)
        shots.append({"front": front, "wrist": front[16:48, 16:48].repeat(2, 0).repeat(2, 1)})
    return shots
