"""Assembles world models, success models and the roles that use them from a configuration."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from acceerl.channels.links import Ends, SegmentReceiver
from acceerl.config import Config
from acceerl.jobs.build import instantiate, make_policy
from acceerl.policies.tokens import centres
from acceerl.protocols import Meter, SuccessModel, WorldModel, WorldSpec
from acceerl.roles.contexts import Alphabet
from acceerl.roles.dreamer import Dreamer
from acceerl.roles.learner import Dreams, unpack
from acceerl.roles.world_model import WorldModelRole, load_world
from acceerl.roles.world_trainer import Rates, WorldTrainer
from acceerl.runtime.rundir import Run
from acceerl.stores import checkpoint
from acceerl.stores.memory import Kept, Memory, recorded
from acceerl.stores.reader import open_trajectories
from acceerl.stores.replay import RateLimiter, Replay
from acceerl.types import EnvSpec
from acceerl.world_models import saved
from acceerl.world_models.imagined import Imagination

log = logging.getLogger(__name__)
OWN = ("stride", "context", "proprio")  # keys of `world_model` that make its spec


def world_spec(config: Config, spec: EnvSpec) -> WorldSpec:
    """What the configured world model is made for. Raises ValueError when a policy needs what it does not predict."""
    plugin = config.world_model
    if not plugin:
        raise ValueError("no world model is configured: add world_model=regression (or another file of that group)")
    if not plugin["proprio"] and spec.proprio and not getattr(_policy_class(config), "blind_to_proprio", False):
        raise ValueError(
            f"world_model.proprio=false, but policy {config.policy.get('_target_')} reads {spec.proprio} entries of "
            "proprioception: set world_model.proprio=true, or choose a policy without it"
        )
    return WorldSpec(
        spec.cameras, spec.image_size, spec.proprio if plugin["proprio"] else 0, spec.action_dim, plugin["stride"],
        plugin["context"],
    )  # fmt: skip


def _policy_class(config: Config) -> Any:
    from acceerl.jobs.build import locate

    return locate(config.policy["_target_"]) if config.policy else None


def make_world(
    config: Config, spec: EnvSpec, start: str | Path | None = None, device: str = "cpu"
) -> tuple[WorldModel, SuccessModel]:
    """Both models, with weights from `start` (default: `config.world.start`; empty: fresh ones)."""
    own = {key: value for key, value in config.world_model.items() if key not in OWN}
    wanted = world_spec(config, spec)
    world: WorldModel = instantiate(own, "world_model", wanted)
    success: SuccessModel = instantiate(config.success_model, "success_model", wanted)
    where = config.world.start if start is None else start
    if where:
        saved.load_world(where, world, success)
    modules: list[Any] = [world, success]
    for module in modules:
        module.to(device).eval()
    return world, success


def make_alphabet(config: Config) -> Alphabet:
    return Alphabet(centres(config.policy["bins"]), config.policy["chunk"])


def make_world_model(
    config: Config, run: Run, spec: EnvSpec, ends: Ends, meter: Meter, beat: Callable[[], None] = lambda: None
) -> WorldModelRole:
    """The role, resumed from its last checkpoint in this run when there is one; `beat` is called while it reads."""
    numbers = config.world
    torch.set_num_threads(numbers.threads)
    found = checkpoint.latest(run.world_checkpoints)
    world, success = make_world(config, spec, start="" if found else None, device=numbers.device)
    trainer = WorldTrainer(world, success, Rates(numbers.lr, numbers.weight_decay), config.seed)
    role = WorldModelRole(
        trainer,
        Memory(_recorded(config, world.spec, spec, beat), numbers.memory),
        make_alphabet(config),
        ends.receiver("reality", credits=32),
        [ends.sender("contexts", [i]) for i in range(config.dreamer.processes)],
        ends.publisher("world_weights"),
        numbers,
        meter,
        lambda state: _save(run, state, config.learner.keep),
        config.learner.checkpoint_every,
        config.seed,
    )
    if found is not None:
        role.load(checkpoint.load(found)["world_model"])
        log.info("resumed from %s at update %d", found.name, trainer.updates)
    return role


def _recorded(config: Config, spec: WorldSpec, env: EnvSpec, beat: Callable[[], None]) -> list[Kept]:
    """Episodes of the env's tasks; a file that does not say which task it was is known by its instruction."""
    if not config.world.data:
        return []
    numbers = {text: task for task, text in enumerate(env.instructions)}
    episodes = recorded(open_trajectories(config.world.data), spec.cameras, beat)
    known = [replace(e, task=numbers[e.instruction]) for e in episodes if e.instruction in numbers]
    if not known:
        raise ValueError(f"{config.world.data}: no episode's instruction is one of the env's {len(numbers)} tasks")
    if len(known) < len(episodes):
        log.info(
            "%d of %d recorded episodes are of other tasks and left out", len(episodes) - len(known), len(episodes)
        )
    return known


def _save(run: Run, state: dict[str, Any], keep: int) -> None:
    checkpoint.save(run.world_checkpoints, state["trainer"]["updates"], {"world_model": state}, keep)


def make_dreamer(config: Config, spec: EnvSpec, ends: Ends, meter: Meter, index: int, life: int) -> Dreamer:
    """One dreamer. It waits for the learner's and the world model's first weights, and for contexts."""
    numbers = config.dreamer
    torch.set_num_threads(numbers.threads)
    seed = config.seed * 1_000 + 500 + index + 1_000_000 * life
    policy = make_policy(config, spec, start="", device=numbers.device)
    policy.seed(seed)  # type: ignore[attr-defined]
    world, success = make_world(config, spec, start="", device=numbers.device)
    return Dreamer(
        policy,
        Imagination(world, success, spec, numbers.threshold, numbers.doubt, numbers.reward, seed=seed),
        make_alphabet(config),
        ends.receiver("contexts", credits=8),
        ends.sender("dreams", range(config.learner.ranks)),
        ends.reader("policy_weights"),
        ends.reader("world_weights"),
        unpack,
        lambda weights: load_world(world, success, weights),
        numbers,
        meter,
        seed,
        first_episode=(10**6 + life * numbers.processes + index) * 10**9,
    )


def make_dreams(config: Config, ends: Ends, seed: int) -> Dreams | None:
    """The imagined side of a learner rank; None without a world model."""
    if not config.world_model or not config.replay.imagined_fraction:
        return None
    held = Replay(config.replay.capacity, None, seed, RateLimiter(1.0, np.inf, 1), order="fresh", max_uses=1)
    receiver: SegmentReceiver = ends.receiver("dreams", credits=config.dreamer.credits)
    return Dreams(receiver, held, config.replay.imagined_fraction, config.replay.imagined_until)
