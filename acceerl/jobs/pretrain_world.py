"""`acceerl pretrain world_model`: both models from HDF5 trajectories, judged on held-out episodes."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from acceerl.channels.collective import Alone, Collective, by_file
from acceerl.config import Config
from acceerl.jobs.build import env_spec
from acceerl.jobs.parts import own_device
from acceerl.jobs.world_parts import make_world
from acceerl.jobs.world_quality import Quality, measure, written
from acceerl.protocols import WorldSpec
from acceerl.roles.cloning import schedule
from acceerl.roles.world_trainer import BODY_BATCH, FINAL_SHARE, Rates, WorldTrainer, motion_of
from acceerl.runtime.metrics import RunMeter
from acceerl.runtime.rundir import Run
from acceerl.stores import checkpoint
from acceerl.stores.clips import Clips
from acceerl.stores.memory import Kept, Memory, recorded
from acceerl.stores.reader import Trajectories, open_trajectories
from acceerl.types import EnvSpec
from acceerl.world_models.saved import save_world

MOTION = 50_000  # windows without pictures: 2 kB each
EVERY = 100  # updates between two lines
DREAMT_FROM = 0.5  # of the updates, after which the success model sees predicted frames too: before they are nothing


def run(config: Config, run: Run) -> int:
    """Trains for `pretrain.steps` updates and writes the file of both models; resumes from the last checkpoint.

    With `pretrain.ranks` above 1 it starts the other ranks on this machine; each sees a GPU of its own where
    world.device=cuda. A rank that dies ends them all, and `resume=` goes on from the checkpoint.
    """
    if not config.pretrain.data:
        raise ValueError("pretrain.data is empty: give a folder of trajectories (`acceerl collect` writes one)")
    with _others(config, run) as collective:
        trainer, judged, spec = _learn(config, run, collective)
    world, success = trainer.world, trainer.success
    modules: dict[str, Any] = trainer.models
    for name, module in modules.items():
        module.load_state_dict(trainer.averaged()[name])
        module.to("cpu")
    quality = measure(world, success, spec, recorded(judged, world.spec.cameras), run.videos, config.dreamer)
    _finish(config, run, trainer, quality)
    return 0


@contextmanager
def _others(config: Config, run: Run) -> Iterator[Collective]:
    """Starts the ranks beside this one, and waits for their end."""
    ranks = config.pretrain.ranks
    if ranks == 1:
        yield Alone()
        return
    meeting = run.path / f"meeting-{os.getpid()}"
    words = [sys.executable, "-m", "acceerl.jobs.pretrain_world", str(run.path), str(meeting)]
    others = [subprocess.Popen([*words, str(rank)]) for rank in range(1, ranks)]
    try:
        yield by_file("pretrain", meeting, 0, ranks, config.deadlines.collective, _device(config, 0))
        for other in others:
            other.wait(config.deadlines.collective)
    finally:
        for other in others:
            other.kill()
        meeting.unlink(missing_ok=True)


def _rank(path: str, meeting: str, rank: str) -> None:
    """The entry of the other ranks."""
    run = Run.open(path)
    config = run.config()
    numbers = (int(rank), config.pretrain.ranks, config.deadlines.collective, _device(config, int(rank)))
    _learn(config, run, by_file("pretrain", Path(meeting), *numbers))


def _device(config: Config, rank: int) -> str:
    return own_device(config.world.device, rank, config.pretrain.ranks)


def _learn(config: Config, run: Run, collective: Collective) -> tuple[WorldTrainer, Trajectories, EnvSpec]:
    """The training of one rank; what is returned matters on rank 0."""
    torch.set_num_threads(config.pretrain.threads)
    spec, numbers = env_spec(config), config.pretrain
    world, success = make_world(config, spec, device=_device(config, collective.rank))
    trajectories = open_trajectories(numbers.data)
    _check(trajectories, world.spec)
    learnt, judged = _split(trajectories, config)
    rates = Rates(numbers.lr, numbers.weight_decay, numbers.ema)
    trainer = WorldTrainer(world, success, rates, config.seed, collective)
    memory = Memory(recorded(learnt, world.spec.cameras))
    for model in (world, success):
        _normalise(model, memory.recorded)
    _train(config, run, trainer, memory)
    return trainer, judged, spec


def _check(trajectories: Trajectories, spec: WorldSpec) -> None:
    """What a world and a success model cannot be made of. Raises ValueError; a data set without failures is told of."""
    for i, entry in enumerate(trajectories.entries):
        for name in spec.cameras:
            if name not in entry.cameras:
                has = ", ".join(entry.cameras)
                raise ValueError(f"{entry.where} has no camera {name} (it has {has}): set env.cameras")
        shapes = trajectories.shapes(i)
        size, dim = shapes[spec.cameras[0]][:2], shapes["actions"][-1]
        if size != spec.image_size:
            raise ValueError(f"{entry.where} has frames of {size}, this run of {spec.image_size}: set env.image_size")
        if dim != spec.action_dim:
            raise ValueError(f"{entry.where} has actions of {dim} entries, the env {spec.action_dim}: choose that env")
    if not any(entry.success for entry in trajectories.entries):
        raise ValueError(
            "no episode ends with success, a success model needs some: `acceerl collect collect.by=expert`"
        )
    if all(entry.success for entry in trajectories.entries):
        print("acceerl: every episode succeeds, so the success model sees failure in unfinished ones only; add others "
              "by `acceerl collect collect.noise=1 collect.failures=…`", flush=True)  # fmt: skip


def _check_length(memory: Memory, spec: WorldSpec, ticks: int) -> None:
    """Windows are filled up at both ends of an episode, but some episode must have as many frames as are asked for."""
    longest = max(1 + episode.steps // spec.stride for episode in memory.entries)
    for key, wanted in (("world_model.context", spec.context), ("pretrain.ticks", ticks + 1)):
        if longest < wanted:
            raise ValueError(
                f"the longest episode has {longest} frames {spec.stride} control steps apart, "
                f"{key} needs {wanted}: lower it"
            )


def _split(trajectories: Trajectories, config: Config) -> tuple[Trajectories, Trajectories]:
    """Episodes to learn from and to be judged by: a share of the successes and of the failures, by the seed."""
    rng = np.random.default_rng((config.seed, 7))
    held: list[int] = []
    for success in (True, False):
        those = [i for i, entry in enumerate(trajectories.entries) if entry.success == success]
        count = min(len(those) - 1, max(1, round(config.pretrain.held_out * len(those)))) if those else 0
        held += rng.permutation(those)[: max(count, 0)].astype(int).tolist()
    left = sorted(set(range(len(trajectories))) - set(held))
    return trajectories.chosen(left), trajectories.chosen(sorted(held))


def _normalise(model: Any, episodes: list[Kept]) -> None:
    """A deviation that is nearly none would make noise of it."""
    own = getattr(model, "normalise_proprio", None)
    size = model.spec.proprio
    if own is not None and size:
        body = np.concatenate([e.proprio for e in episodes])[:, :size]
        std = body.std(axis=0)
        own(body.mean(axis=0), np.maximum(std, 0.05 * std.max() + 1e-6))


def _train(config: Config, run: Run, trainer: WorldTrainer, memory: Memory) -> None:
    numbers, spec, leads = config.pretrain, trainer.world.spec, trainer.collective.rank == 0
    _check_length(memory, spec, numbers.ticks)
    padded = spec.context > 1 or numbers.ticks > 1  # as dreams begin: with the first frame repeated
    clips = Clips(memory, spec.context, numbers.ticks, spec.cameras, padded, spec.stride)
    motion = motion_of(memory, trainer.world)
    found = checkpoint.latest(run.checkpoints)
    if found:
        trainer.load_state_dict(checkpoint.load(found)["world_model"])
    elif leads:
        _fit(config, trainer, memory, motion)
    trainer.share()
    if leads:
        print(f"{len(memory)} episodes, {len(clips)} windows, {memory.nbytes / 1e6:.0f} MB", flush=True)
        _lead(config, run, trainer, clips, motion)
    else:
        for _ in _updates(config, trainer, clips, motion):
            pass


def _fit(config: Config, trainer: WorldTrainer, memory: Memory, motion: Clips | None) -> None:
    """What is learnt before the world model: the law of its body, then the success model, which is told its paths."""
    numbers, spec = config.pretrain, trainer.world.spec
    if motion is not None and numbers.body_steps:
        windows = motion.draw(min(len(motion), MOTION), np.random.default_rng((config.seed, 8)))
        error = trainer.fit_body(windows, numbers.body_steps)
        print(f"the body's law, from {len(windows)} windows: error {error:.4f} deviations", flush=True)
    if numbers.success_steps:
        single = Clips(memory, spec.context, 1, spec.cameras, spec.context > 1, spec.stride)
        loss = trainer.fit_success(single, numbers.success_steps)
        print(f"the success model, from {len(single)} ticks: focal loss {loss:.4f}", flush=True)


def _lead(config: Config, run: Run, trainer: WorldTrainer, clips: Clips, motion: Clips | None) -> None:
    """Rank 0: the same updates with progress, metrics and checkpoints."""
    steps, saved = config.pretrain.steps, time.monotonic()
    meter = RunMeter(run.metrics("world_model", 0), "world_model", 0)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("world model", total=steps)
        for step, figures in _updates(config, trainer, clips, motion):
            bar.update(task, completed=step)
            if step % EVERY == 0 or step == steps:
                _tell(meter, step, figures)
            if time.monotonic() - saved >= config.learner.checkpoint_every:
                saved = time.monotonic()
                checkpoint.save(run.checkpoints, step, {"world_model": trainer.state_dict()}, config.learner.keep)
    meter.close()


def _tell(meter: RunMeter, step: int, figures: dict[str, float]) -> None:
    told = "  ".join(f"{name} {value:.4f}" for name, value in figures.items() if "norm" not in name)
    print(f"step {step}  {told}", flush=True)
    for name, value in figures.items():
        meter.gauge(name, value)
    meter.count("updates", EVERY)


def _updates(
    config: Config, trainer: WorldTrainer, clips: Clips, motion: Clips | None
) -> Iterator[tuple[int, dict[str, float]]]:
    """Batches are drawn from (seed, step), so an interrupted training equals an uninterrupted one."""
    numbers, part = config.pretrain, (trainer.collective.rank, trainer.collective.size)
    sums: dict[str, deque[float]] = {}
    for step in range(trainer.updates, numbers.steps):
        rng = np.random.default_rng((config.seed, step))
        share = schedule(step, numbers.warmup, numbers.steps)
        windows = clips.draw(numbers.batch, rng, FINAL_SHARE, part)
        if motion is not None:
            trainer.learn_body(motion.draw(BODY_BATCH, rng, part=part), share)
        for name, value in trainer.update(windows, share, step >= DREAMT_FROM * numbers.steps).items():
            sums.setdefault(name, deque(maxlen=EVERY)).append(value)
        yield step + 1, {name: float(np.mean(values)) for name, values in sums.items()}


def _finish(config: Config, run: Run, trainer: WorldTrainer, quality: Quality) -> None:
    target = Path(config.pretrain.to) if config.pretrain.to else run.world
    target.parent.mkdir(parents=True, exist_ok=True)
    figures = written(quality)
    extra = {"quality": figures, "updates": trainer.updates, "seed": config.seed}
    save_world(target, trainer.world, trainer.success, extra)
    (run.path / "quality.json").write_text(json.dumps(figures, indent=1) + "\n")
    for name, value in figures.items():
        if isinstance(value, float) and not math.isnan(value):
            print(f"{name:<28} {value:.4f}")
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    _rank(*sys.argv[1:])
