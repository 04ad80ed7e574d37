"""`acceerl collect`: expert or policy episodes on training states into HDF5 shards, one writer a worker process."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from acceerl.config import Config, to_dict
from acceerl.jobs.build import make_env, make_expert, make_policy
from acceerl.jobs.play import Act, Noise, by_expert, by_policy, play_episode
from acceerl.protocols import Env
from acceerl.runtime.rundir import Run
from acceerl.stores.reader import open_trajectories
from acceerl.stores.writer import TrajectoryWriter
from acceerl.types import Assignment, EnvSpec


def run(config: Config, run: Run) -> int:
    """Collects until `collect.episodes` are published; run again, it goes on where it was ended."""
    folder = Path(config.collect.to) if config.collect.to else run.data
    workers = config.collect.workers
    if workers == 1:
        _work((config, folder, 0))
    else:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=spawn) as pool:  # unlike a Pool, it notices a killed worker
            list(pool.map(_work, [(config, folder, i) for i in range(workers)]))
    print(_summary(folder))
    return 0


def _summary(folder: Path) -> str:
    counts = open_trajectories(folder).summary()
    share = 100 * counts["successes"] / counts["episodes"]
    return (
        f"{folder}: {counts['episodes']} episodes, {counts['steps']} control steps, "
        f"{share:.1f} % successful, {counts['files']} shards"
    )


def _work(job: tuple[Config, Path, int]) -> None:
    """One worker: its share of the episodes, from the first that is not yet on disk."""
    config, folder, worker = job
    env = make_env(config)
    try:
        actor, noise = _actor(config, env), Noise(config.collect.noise, config.collect.noise_share)
        with TrajectoryWriter(
            folder, _env_args(config), {"suite": config.suite}, f"w{worker}", config.collect.compression
        ) as writer:
            there = played(folder, env.spec)
            plan = [a for a in assignments(env.spec, config, worker) if (a.task, a.init_state, a.seed) not in there]
            for assignment in _shown(plan, worker):
                episode = play_episode(env, assignment, actor(), noise, config.collect.by)
                if episode.success or not config.collect.only_successes:
                    writer.write(episode)
    finally:
        env.close()


def _actor(config: Config, env: Env):  # type: ignore[no-untyped-def]
    """A function that makes a fresh actor for each episode."""
    if config.collect.by == "expert":
        expert = make_expert(config, env)

        def fresh_expert() -> Act:
            expert.reset()
            return by_expert(expert)

        return fresh_expert
    policy = make_policy(config, env.spec)
    return lambda: by_policy(policy)


def assignments(spec: EnvSpec, config: Config, worker: int) -> Iterator[Assignment]:
    """The worker's episodes: tasks in turn, training states drawn by (seed, episode): a restart repeats none."""
    for k in range(worker, config.collect.episodes, config.collect.workers):
        rng = np.random.default_rng((config.seed, k))
        state = spec.train_states[int(rng.integers(len(spec.train_states)))]
        yield Assignment(k % spec.n_tasks, state, int(rng.integers(2**31)))


def played(folder: Path, spec: EnvSpec) -> set[tuple[int, int, int]]:
    """(task, initial state, seed) of the episodes that are safe on disk already.

    Raises ValueError when the folder holds episodes of other tasks.
    """
    if not any(folder.glob("*.hdf5")):
        return set()
    entries = open_trajectories(folder).entries
    foreign = {entry.instruction for entry in entries} - set(spec.instructions)
    if foreign:
        raise ValueError(f"{folder} holds episodes of another suite ({min(foreign)!r}): choose another collect.to")
    return {(entry.task, entry.init_state, entry.seed) for entry in entries}


def _shown(plan: list[Assignment], worker: int) -> Iterator[Assignment]:
    """The plan, with a progress bar for the first worker on a terminal."""
    with Progress(console=Console(stderr=True), disable=worker > 0, transient=True) as bar:
        yield from bar.track(plan, description="collecting")


def _env_args(config: Config) -> dict[str, object]:
    """What rebuilds the environment (robomimic's `env_args`)."""
    return {"env_name": config.env["_target_"], "env_kwargs": config.env, "collect": to_dict(config.collect)}
