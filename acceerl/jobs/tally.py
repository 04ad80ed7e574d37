"""What `acceerl collect` tells people of a folder: what is there, what is asked for, what is left or was given up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from acceerl.config import Config
from acceerl.jobs.data.shown import counted
from acceerl.jobs.shares import TRIES, Share, chosen_tasks, missing
from acceerl.stores.reader import Entry
from acceerl.types import EnvSpec


def by_class(config: Config) -> bool:
    """Are episodes wanted by class?"""
    return config.collect.successes + config.collect.failures > 0


def asked(config: Config, spec: EnvSpec) -> str:
    collect, tasks = config.collect, counted(len(chosen_tasks(config.collect, spec)), "task")
    if by_class(config):
        return f"{_classes(collect.successes, collect.failures)} of each of {tasks}"
    return f"{counted(collect.episodes, 'episode')} of {tasks}{', successes alone' * collect.only_successes}"


def _classes(successes: int, failures: int) -> str:
    return f"{counted(successes, 'success', 'successes')} and {counted(failures, 'failure')}"


def standing(config: Config, spec: EnvSpec, folder: Path, there: list[Entry]) -> str:
    """What is there, what is asked for, what is left to do; episodes of other seeds do not count."""
    mine = sum(entry.seed // TRIES == config.seed for entry in there)
    of_seed = f", {mine} of them of seed={config.seed}" if mine < len(there) else ""
    lacking = missing(config, spec, there)
    left = sum(share.most for share in lacking)
    to_do = f"{left} to go" if left else "every try was played" if lacking else "nothing to do"
    part = f" in {config.collect.parts} parts" if config.collect.parts > 1 else ""
    return f"{folder} holds {counted(len(there), 'episode')}{of_seed}; asked for {asked(config, spec)}{part}: {to_do}"


def summary(config: Config, spec: EnvSpec, folder: Path, there: list[Entry]) -> str:
    if not there:
        alone = ": none succeeded" if config.collect.only_successes else ""
        return f"{folder}: no episode; asked for {asked(config, spec)}{alone}"
    share = 100 * sum(entry.success for entry in there) / len(there)
    return (
        f"{folder}: {counted(len(there), 'episode')}, {counted(sum(entry.steps for entry in there), 'control step')}, "
        f"{share:.1f} % successful, {counted(len({entry.path for entry in there}), 'shard')}"
    )


def given_up(config: Config, spec: EnvSpec, lacking: list[Share]) -> Iterator[str]:
    """A line for each task whose wanted episodes did not come."""
    tries = counted(config.collect.tries, "try", "tries")
    why = f"after {tries} for each that is wanted (raise collect.tries, or vary collect.noise)"
    for share in lacking:
        lacks = _classes(share.successes, share.failures)
        yield f"given up: {spec.instructions[share.task]!r} lacks {lacks} {why}"
