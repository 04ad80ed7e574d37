"""`acceerl pretrain`: behaviour cloning of the configured policy from HDF5 trajectories, or pretrain_world.py."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from acceerl.config import Config
from acceerl.jobs import pretrain_world
from acceerl.jobs.build import env_spec, make_policy, policy_spec
from acceerl.policies.saved import save_policy
from acceerl.roles.cloning import Demonstrations, clone
from acceerl.runtime.memory import keep_freed_memory
from acceerl.runtime.rundir import Run
from acceerl.stores import checkpoint
from acceerl.stores.checks import finite
from acceerl.stores.reader import Trajectories, open_trajectories
from acceerl.stores.schema import Episode
from acceerl.types import EnvSpec

PLACES = ("data", "to")  # of this machine: they say nothing about the recipe


def run(config: Config, run: Run) -> int:
    """Trains for `pretrain.steps` updates and writes the policy file; resumes from the run's last checkpoint."""
    keep_freed_memory()  # batches and gradients are made anew in every update
    if config.pretrain.what == "world_model":
        return pretrain_world.run(config, run)
    if not config.pretrain.data:
        raise ValueError("pretrain.data is empty: give a folder of trajectories (`acceerl collect` writes one)")
    torch.set_num_threads(config.pretrain.threads)
    torch.manual_seed(config.seed)
    spec = env_spec(config)
    policy = make_policy(config, spec, device=config.pretrain.device)
    demonstrations = _demonstrations(config, spec)
    began = time.monotonic()
    _clone(config, run, policy, demonstrations)
    target = Path(config.pretrain.to) if config.pretrain.to else run.weights
    target.parent.mkdir(parents=True, exist_ok=True)
    half = getattr(policy, "compact", True)
    save_policy(target, policy, _extra(config, demonstrations, began), half)  # type: ignore[arg-type]
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    print(f"{target}: {target.stat().st_size / 1e6:.2f} MB, {time.monotonic() - began:.0f} s, sha256 {digest}")
    return 0


def _demonstrations(config: Config, spec: EnvSpec) -> Demonstrations:
    trajectories = open_trajectories(config.pretrain.data)
    if config.env.get("orientation") == "rotated":  # as policies of the OpenVLA family see LIBERO, not upright
        trajectories = trajectories.turned("both")
    return Demonstrations(_shown(trajectories), policy_spec(config, spec))


def _shown(trajectories: Trajectories) -> Iterator[Episode]:
    """The successes. Raises ValueError naming the demo whose numbers are none, whoever wrote the file."""
    for i, entry in enumerate(trajectories.entries):
        if entry.success:
            episode = trajectories[i]
            finite(entry, "actions", episode.actions if episode.expert_actions is None else episode.expert_actions)
            finite(entry, "obs/proprio", episode.proprio)
            yield episode


def _clone(config: Config, run: Run, policy: Any, demonstrations: Demonstrations) -> None:
    numbers, found = config.pretrain, checkpoint.latest(run.checkpoints)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("cloning", total=numbers.steps)

        def progress(step: int, figures: dict[str, float]) -> None:
            bar.update(task, completed=step)
            print(f"step {step}  loss {figures['loss']:.4f}  decisions/s {figures['decisions_per_s']:.0f}", flush=True)

        clone(
            policy,
            demonstrations,
            steps=numbers.steps,
            batch=numbers.batch,
            lr=numbers.lr,
            weight_decay=numbers.weight_decay,
            warmup=numbers.warmup,
            label_sigma=numbers.label_sigma,
            shift=numbers.shift,
            first_share=numbers.first_share,
            ema=numbers.ema,
            seed=config.seed,
            progress=progress,
            state=checkpoint.load(found)["cloning"] if found else None,
            checkpoint=_Checkpoints(run, config),
        )


class _Checkpoints:
    """Saves the cloning state at most every `learner.checkpoint_every` seconds."""

    def __init__(self, run: Run, config: Config) -> None:
        self.run, self.numbers, self.last = run, config.learner, time.monotonic()

    def __call__(self, state: dict[str, Any]) -> None:
        if time.monotonic() - self.last >= self.numbers.checkpoint_every:
            checkpoint.save(self.run.checkpoints, state["step"], {"cloning": state}, self.numbers.keep)
            self.last = time.monotonic()


def _extra(config: Config, demonstrations: Demonstrations, began: float) -> dict[str, Any]:
    """What the card of the weights says."""
    return {
        "recipe": {key: value for key, value in vars(config.pretrain).items() if key not in PLACES},
        "samples": len(demonstrations),
        "seconds": round(time.monotonic() - began),
        "seed": config.seed,
    }
