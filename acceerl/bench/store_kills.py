"""The drill of `bench store kills=N`: a writer that is SIGKILLed at random and started again until it is done."""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from acceerl.bench.store_episodes import made_up
from acceerl.stores.reader import open_trajectories
from acceerl.stores.validate import validate
from acceerl.stores.writer import TrajectoryWriter

SIZE, STEPS, PER_SHARD = 32, 20, 7
DEADLINE_S = 120.0  # of the last life, which nobody ends


@dataclass
class Outcome:
    """`lost_most`: episodes that a kill took though their `write` had returned, or more than the one in hand."""

    kills: int = 0
    broken: int = 0  # findings in what was published, over all kills
    lost_most: int = 0  # episodes lost by one kill beyond the one in hand
    missing: int = 0  # of the target, at the end
    double: int = 0


def drill(folder: Path, kills: int, target: int, seed: int = 0) -> Outcome:
    """Kills the writer `kills` times within its work on `target` episodes, then lets it finish.

    After every kill what is published is validated; what the writer had been told was safe is counted again when the
    next life has recovered it.
    """
    outcome, rng = Outcome(), random.Random(seed)
    safe, per_life = 0, max(1, target // (kills + 1))
    for _ in range(kills):
        # a life ends after so many episodes and a random instant more, so that the kills spread over the whole work
        told = _life(folder, target, stop_after=rng.randint(0, per_life), then_s=rng.uniform(0, 0.02))
        outcome.kills += 1
        if any(folder.glob("*.hdf5")):
            outcome.broken += len([f for f in validate(folder) if "in progress" not in f.message])
        safe = max(safe, told)
        recovered = _recovered(folder)
        outcome.lost_most = max(outcome.lost_most, safe - recovered)
        safe = recovered
    assert _life(folder, target) == target
    seeds = sorted(entry.seed for entry in open_trajectories(folder).entries)
    outcome.broken += len(validate(folder))
    outcome.missing, outcome.double = len(set(range(target)) - set(seeds)), len(seeds) - len(set(seeds))
    return outcome


def _recovered(folder: Path) -> int:
    """Episodes after a start of the same writer, which publishes what the killed one left."""
    with TrajectoryWriter(folder, {}, {}, "w0", max_episodes=PER_SHARD):
        pass
    return len(open_trajectories(folder)) if any(folder.glob("*.hdf5")) else 0


def _life(folder: Path, target: int, stop_after: int | None = None, then_s: float = 0.0) -> int:
    """One process that goes on where the last one ended. Returns how many episodes it said were safe."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        _record(folder, target, write)
    os.close(write)
    told = _listen(read, target, stop_after)
    if stop_after is not None:
        time.sleep(then_s)
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    told += len(os.read(read, 1 << 16))  # it may have said more before it died
    os.close(read)
    return told


def _listen(read: int, target: int, stop_after: int | None) -> int:
    """Until it has said enough, or has ended: one byte an episode, those of earlier lives too."""
    told, first, until = 0, None, time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        got = len(os.read(read, 1 << 16 if stop_after is None else 1))
        told += got
        first = told if first is None and got else first
        if not got or told >= target or (stop_after is not None and first is not None and told - first >= stop_after):
            break
    return told


def _record(folder: Path, target: int, told: int) -> None:
    """The child: writes the episodes that are not there. It leaves without a word on standard output."""
    code = 1
    try:
        with TrajectoryWriter(folder, {}, {}, "w0", max_episodes=PER_SHARD) as out:
            there = set()
            if any(folder.glob("*.hdf5")):
                there = {entry.seed for entry in open_trajectories(folder).entries}
            os.write(told, b"." * len(there))
            for number in range(target):
                if number not in there:
                    out.write(made_up(number, STEPS, SIZE))
                    os.write(told, b".")
        code = 0
    finally:
        os._exit(code)
