"""`acceerl collect`: expert or policy episodes on training states into HDF5 shards, one writer a worker process.

A worker that dies costs the episode in hand: the next round, or the same command run again, goes on from what is on
disk (jobs/shares.py) to the exact counts that were asked for.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from acceerl.config import Config, to_dict
from acceerl.jobs.build import env_spec, make_env, make_expert, make_policy, refuse_unasked
from acceerl.jobs.data.shown import counted
from acceerl.jobs.play import Act, Actor, Noise, blindfolded, by_expert, by_policy, play_episode
from acceerl.jobs.shares import Share, assignment, missing, of_worker
from acceerl.jobs.tally import by_class, given_up, standing, summary
from acceerl.protocols import Env
from acceerl.runtime.rundir import Run
from acceerl.runtime.stop import die_with_keeper
from acceerl.stores.reader import Entry, open_trajectories
from acceerl.stores.schema import Episode
from acceerl.stores.writer import SHARD, TrajectoryWriter, recover
from acceerl.types import Assignment, EnvSpec

DEATHS = 3  # rounds in a row that a dying worker ends without a new episode
LINE_S = 60.0  # seconds between two lines of progress in a log
_written: Any = None  # in a worker process: how many episodes all of them have written, shared with the parent
_failed: Any = None  # in a worker process: an event, set when one of them ended with an error


def run(config: Config, run: Run) -> int:
    """Collects until the counts asked for are published; run again, it goes on where it was ended.

    Returns 1 when a task was given up (its wanted episodes did not come in `collect.tries` times as many), or no
    episode was worth keeping.
    """
    _refuse_unasked(config)
    folder, spec = _folder(config, run), env_spec(config)
    _recover(config, folder)
    if there := _there(folder, spec):
        print(standing(config, spec, folder, there), flush=True)
    _rounds(config, spec, folder)
    there = _there(folder, spec)
    print(summary(config, spec, folder, there))
    lacking = missing(config, spec, there) if by_class(config) else []
    for line in given_up(config, spec, lacking):
        print(line)
    return 0 if there and not lacking else 1


def planned(config: Config, run: Run | None) -> str:
    """What `--dry-run` shows; nothing is written."""
    _refuse_unasked(config)
    spec = env_spec(config)
    where = (
        f"collect of {config.suite} by {config.collect.by}, {counted(config.collect.workers, 'worker')} here; no links"
    )
    folder = _folder(config, run)
    return f"{where}\n{standing(config, spec, folder, _there(folder, spec))}"


def _folder(config: Config, run: Run | None) -> Path:
    """Of the shards; without a run one that a run directory will have."""
    if config.collect.to:
        if Path(config.collect.to).is_file():
            raise ValueError(f"collect.to={config.collect.to} is a file: name a folder, new or of collect's")
        return Path(config.collect.to)
    return run.data if run else Path(config.runs) / (config.name or "NEW") / "data"


def _refuse_unasked(config: Config) -> None:
    if config.collect.by == "policy":
        refuse_unasked(config, "collect.by=policy")


def _rounds(config: Config, spec: EnvSpec, folder: Path) -> None:
    """Rounds of workers, until one brings nothing more. Raises RuntimeError when workers keep dying."""
    deaths = 0
    while True:
        _recover(config, folder)
        there = _there(folder, spec)
        left = missing(config, spec, there)
        if not left:
            return
        try:
            written = _round(config, folder, left)
        except BrokenProcessPool as error:
            _recover(config, folder)
            deaths = deaths + 1 if len(_there(folder, spec)) == len(there) else 0
            if deaths == DEATHS:
                raise RuntimeError(f"{folder}: workers of acceerl collect die before they finish an episode") from error
            continue
        if not written or not by_class(config):
            return


def _recover(config: Config, folder: Path) -> None:
    """Publishes what dead workers of this part left. Raises ValueError when one of them is alive."""
    for writer in {name["writer"] for path in folder.glob("*.partial") if (name := SHARD.match(path.name))}:
        if writer.startswith(_prefix(config)):
            recover(folder, writer)


def _prefix(config: Config) -> str:
    return f"p{config.collect.part}w" if config.collect.parts > 1 else "w"


def _there(folder: Path, spec: EnvSpec) -> list[Entry]:
    """The published episodes. Raises ValueError when they are of other tasks."""
    if not any(folder.glob("*.hdf5")):
        return []
    entries = open_trajectories(folder).entries
    foreign = {entry.instruction for entry in entries} - set(spec.instructions)
    if foreign:
        raise ValueError(f"{folder} holds episodes of another suite ({min(foreign)!r}): choose another collect.to")
    return entries


def _round(config: Config, folder: Path, left: list[Share]) -> int:
    """Plays what is left, over all workers; returns how many episodes were written."""
    shares = [of_worker(left, i, config.collect.workers) for i in range(config.collect.workers)]
    jobs = [(config, folder, i, share) for i, share in enumerate(shares) if share]
    if not jobs:  # every try was played
        return 0
    with _progress(sum(share.most for share in left)) as seen:
        if len(jobs) == 1:
            return _work(*jobs[0], wrote=seen)
        spawn = multiprocessing.get_context("spawn")
        count, failed = spawn.Value("q", 0), spawn.Event()
        # unlike a Pool, it notices a killed worker
        with ProcessPoolExecutor(len(jobs), spawn, initializer=_begin, initargs=(count, failed)) as pool:
            futures = [pool.submit(_work, *job) for job in jobs]
            try:
                return _watched(futures, lambda: int(count.value), seen)
            except Exception:
                failed.set()  # else the others would play on to their end before the error is seen
                raise


def _watched(futures: list[Future[int]], count: Callable[[], int], seen: Callable[[int], None]) -> int:
    """Waits for the workers, showing what they have written; raises what the first of them raised."""
    shown = 0
    while True:
        finished = wait(futures, timeout=0.5)
        seen(count() - shown)
        shown = count()
        for future in finished.done:
            future.result()
        if not finished.not_done:
            return sum(future.result() for future in futures)


def _begin(count: Any, failed: Any) -> None:
    """A worker's first act: it must not outlive its parent, whose next life would find it still writing."""
    global _written, _failed
    die_with_keeper()
    _written, _failed = count, failed


def _wrote(n: int) -> None:
    with _written.get_lock():
        _written.value += n


@contextmanager
def _progress(wanted: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, elsewhere a line a minute; takes how many more episodes were written."""
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("collecting", total=wanted)
        done, last = 0, time.monotonic()

        def seen(n: int) -> None:
            nonlocal done, last
            done += n
            bar.advance(task, n)
            if not console.is_terminal and time.monotonic() - last > LINE_S:
                last = time.monotonic()
                print(f"acceerl: collected {done} of {wanted} episodes", file=console.file, flush=True)

        yield seen


def _work(config: Config, folder: Path, worker: int, shares: list[Share], wrote: Callable[[int], None] = _wrote) -> int:
    """One worker: its shares, task by task, so that a simulator of many scenes changes them seldom."""
    env = make_env(config)
    try:
        header, writer_id = (_env_args(config), {"suite": config.suite}), f"{_prefix(config)}{worker}"
        with TrajectoryWriter(folder, *header, writer_id, config.collect.compression) as writer:
            for episode in _episodes(config, env, shares):
                writer.write(episode)
                wrote(1)
            return writer.written
    finally:
        env.close()


def _episodes(config: Config, env: Env, shares: list[Share]) -> Iterator[Episode]:
    """Plays tries of each share until it is complete; yields those that are wanted."""
    collect = config.collect
    actor = blindfolded(env, _actor(config, env), collect.blind, collect.misses)
    noise = Noise(collect.noise, collect.noise_share, collect.fumbles)
    for share in shares:
        for k in share.tries:
            if not share.wanted or (_failed and _failed.is_set()):
                break
            episode = play_episode(
                env, assignment(env.spec, config.seed, share.task, k), actor, noise, config.collect.by
            )
            if share.takes(episode.success):
                yield episode


def _actor(config: Config, env: Env) -> Actor:
    """A function that makes a fresh actor for each episode."""
    if config.collect.by == "expert":
        expert = make_expert(config, env)

        def fresh_expert(_: Assignment) -> Act:
            expert.reset()
            return by_expert(expert)

        return fresh_expert
    import torch

    torch.set_num_threads(config.inference.threads)
    policy = make_policy(config, env.spec, device=config.inference.device)

    def seeded_policy(now: Assignment) -> Act:
        torch.manual_seed(now.seed)
        return by_policy(policy)

    return seeded_policy


def _env_args(config: Config) -> dict[str, object]:
    """What rebuilds the environment (robomimic's `env_args`)."""
    return {"env_name": config.env["_target_"], "env_kwargs": config.env, "collect": to_dict(config.collect)}
