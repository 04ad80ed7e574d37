"""`acceerl bench imagine`: imagined frames a second by batch size, against what real environments cost on one core.

A tick is one call of the world model and of the success model for the whole batch, as a dreamer makes it. A frame
counts once however many cameras it shows; a tick covers `stride` control steps, so steps a second are as many times
more. All sides are held to one core and take turns.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch

from acceerl.bench.options import option
from acceerl.bench.result import Result
from acceerl.envs.libero.install import missing
from acceerl.jobs.build import locate
from acceerl.protocols import SuccessModel, WorldModel, WorldSpec
from acceerl.types import Assignment, EnvSpec
from acceerl.world_models.imagined import Imagination, Start
from acceerl.world_models.saved import open_world
from acceerl.world_models.success import SuccessNet

MODELS = {
    "regression": ("acceerl.world_models.regression.RegressionWorld", {"precision": "bfloat16"}, 8, 1),
    "diffusion": ("acceerl.world_models.diffusion.DiffusionWorld", {"precision": "bfloat16"}, 1, 4),
}  # class, settings, control steps a tick, frames of context
Models = tuple[WorldModel, SuccessModel]
CAMERAS = ("front", "wrist")
SIZES = ("1", "8", "32", "128")
FIGURES = {
    "imagine.{}.frames_per_s": "imagined frames a second at the best batch size; median",
    "imagine.{}.steps_per_s": "the same in control steps",
    "imagine.{}.frames_per_s_at_{}": "at this batch size (or this number of sampler steps)",
    "imagine.{}.over_libero": "frames a second over LIBERO's own wrapper rendering one camera at every step",
    "imagine.{}.steps_over_libero": "control steps a second over the same",
    "imagine.{}.over_tabletop": "frames a second over tabletop's, both cameras rendered at every step",
    "imagine.tabletop.real_frames_per_s": "tabletop, both cameras rendered at every step",
    "imagine.libero.real_frames_per_s": "LIBERO's OffScreenRenderEnv, one camera rendered at every step",
}


@dataclass(frozen=True)
class Options:
    models: tuple[str, ...] = option(("regression",), "which ones, comma-separated", choices=tuple(MODELS))
    batches: tuple[str, ...] = option(SIZES, "dreams at a time", choices=(*SIZES, "16", "64", "256", "512"))
    sampler: tuple[str, ...] = option(("1", "3"), "sampler steps of diffusion", choices=("1", "2", "3", "5", "10"))
    image_size: int = option(64, "pixels a side; of the file with start=", least=16)
    start: str = option("", "file of `acceerl pretrain world_model`, in place of models=; empty: fresh weights")
    device: str = option("cpu", "of the models")
    seconds: float = option(2.0, "of each measurement", least=0.1)
    rounds: int = option(3, "turns that all sides take", least=1)


def run(options: Options) -> Result:
    if options.device == "cpu":
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        torch.set_num_threads(1)
    result, models = Result(), _models(options)
    pixels = next(iter(models.values()))[0].spec.image_size[0]
    sides = {**_dreams(models, options), **_reals(pixels, result)}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, once in sides.items():
            rates[name].append(_rate(once, options.seconds))
    middle = {name: median(found) for name, found in rates.items()}
    _report(result, middle, {name: world.spec.stride for name, (world, _) in models.items()})
    return result


def _models(options: Options) -> dict[str, Models]:
    """What is to dream, by name: the models of a file, or fresh ones of the sizes that are configured by default."""
    if options.start:
        found = open_world(options.start)
        made = {getattr(found[0], "kind", "model"): found}
    else:
        made = {
            f"{name}_{steps}_steps" if steps else name: _fresh(name, steps, options.image_size)
            for name in options.models
            for steps in (options.sampler if name == "diffusion" else ("",))
        }
    modules: list[Any] = [model for pair in made.values() for model in pair]
    for module in modules:
        module.to(options.device).eval()
    return made


def _fresh(name: str, steps: str, pixels: int) -> Models:
    target, settings, stride, context = MODELS[name]
    spec = WorldSpec(CAMERAS, (pixels, pixels), 8, 7, stride, context)
    world = locate(target)(spec, **settings, **({"steps": int(steps)} if steps else {}))
    return world, SuccessNet(spec, precision="bfloat16")


def _dreams(models: dict[str, Models], options: Options) -> dict[str, Callable[[], int]]:
    """One call makes so many frames."""
    return {f"{name}.{size}": _ticks(pair, int(size)) for name, pair in models.items() for size in options.batches}


def _ticks(models: Models, size: int) -> Callable[[], int]:
    spec, rng = models[0].spec, np.random.default_rng(0)
    env = EnvSpec(spec.cameras, spec.image_size, spec.proprio, spec.action_dim, ("do it",), (10**9,), range(1),
                  range(1, 2))  # fmt: skip
    imagination = Imagination(*models, env, threshold=2.0)  # no dream ends while it is timed
    start = Start(
        {c: rng.integers(0, 255, (spec.context, *spec.image_size, 3), np.uint8) for c in spec.cameras},
        np.zeros((spec.context, spec.proprio), np.float32),
        np.zeros((spec.context - 1, spec.stride, spec.action_dim), np.float32),
        Assignment(0, 0, 0),
        "do it",
    )
    actions = rng.uniform(-1, 1, (size, spec.stride, spec.action_dim)).astype(np.float32)
    imagination.reset([start] * size)

    def once() -> int:
        imagination.tick(actions)
        return size

    return once


def _reals(pixels: int, result: Result) -> dict[str, Callable[[], int]]:
    sides = {"tabletop": _tabletop(pixels)}
    why = missing()
    if why:
        result.rows.append({"side": "libero", "what": f"left out: {why}"})
    else:
        sides["libero"] = _libero(pixels)
    return sides


def _tabletop(pixels: int) -> Callable[[], int]:
    from acceerl.envs.tabletop import TabletopEnv

    env, actions = TabletopEnv(image_size=pixels), np.random.default_rng(0).uniform(-1, 1, (37, 7))

    def episode() -> int:
        env.reset(0, 0, 0)
        for action in actions:
            env.step(action)
            env.observe()
        return len(actions)

    return episode


def _libero(pixels: int) -> Callable[[], int]:
    from acceerl.envs.libero import LiberoEnv
    from acceerl.envs.libero.stock import Stock

    ours = LiberoEnv(image_size=pixels)
    stock = Stock(ours.suite.bddl(0), pixels, cameras=("agentview",))
    ours.close()
    stock.reset((0,), None)
    actions = np.random.default_rng(0).uniform(-1, 1, (8, 7))

    def steps() -> int:
        for action in actions:
            stock.step(action)
        return len(actions)

    return steps


def _rate(once: Callable[[], int], seconds: float) -> float:
    """Frames a second; the first call warms up."""
    once()
    frames, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        frames += once()
    return frames / (time.perf_counter() - began)


def _report(result: Result, rates: dict[str, float], strides: dict[str, int]) -> None:
    real = {name: rates[name] for name in ("tabletop", "libero") if name in rates}
    for name, rate in real.items():
        result.rows.append({"side": name, "what": "real frames", "frames_per_s": round(rate, 1)})
        result.figures[f"imagine.{name}.real_frames_per_s"] = rate
    for model, stride in strides.items():
        sizes = {name.partition(".")[2]: rate for name, rate in rates.items() if name.startswith(f"{model}.")}
        for size, rate in sizes.items():
            row = {"side": model, "what": f"batch {size}", "frames_per_s": round(rate, 1)}
            result.rows.append(row | {"steps_per_s": round(rate * stride, 1)})
            result.figures[f"imagine.{model}.frames_per_s_at_{size}"] = rate
        best = max(sizes.values())
        result.figures |= {f"imagine.{model}.frames_per_s": best, f"imagine.{model}.steps_per_s": best * stride}
        result.figures |= {f"imagine.{model}.over_{name}": best / rate for name, rate in real.items()}
        if "libero" in real:
            result.figures[f"imagine.{model}.steps_over_libero"] = best * stride / real["libero"]
