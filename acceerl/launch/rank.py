"""One rank of a world (channels=world): a keeper step that holds one process, which it starts as a rank of MPI.

`python -m acceerl.launch.rank RUN ATTEMPT LIFE`, started by the launcher of world.py, once for each process. The rank
number decides which one. The process inherits the line to the launcher's PMI, so that a death ends no world before
the supervisor knows whose it was.
"""

from __future__ import annotations

import os
import sys

from acceerl.config import Config
from acceerl.launch.machine import Command, Key, Machine
from acceerl.launch.step import NOT_HERE, Step, belongings, connect, lent, visible
from acceerl.runtime.layout import Share, ahead, ranks, shares
from acceerl.runtime.rundir import Run
from acceerl.runtime.stop import StopFlag
from acceerl.runtime.world import rank


def main(path: str, attempt: int, life: int) -> int:
    stop = StopFlag().install()
    if (run := visible(path)) is None:
        return NOT_HERE
    config = run.config()
    key = ranks(config)[rank()]
    step = Step(_machine(run, config, attempt, key), connect(f"{key[0]}.{key[1]}", life), config, stop)
    return step.hold()


def _machine(run: Run, config: Config, attempt: int, key: Key) -> Machine:
    pmi = [int(os.environ["PMI_FD"])] if "PMI_FD" in os.environ else []
    machine = Machine(run, attempt, _command(run), inherited=dict, pass_fds=pmi)
    if config.launch == "slurm":
        share = next(share for share in shares(config) if key in share.processes)
        machine.own = belongings(share, config, _part(share, config))
    return machine


def _part(share: Share, config: Config) -> tuple[list[int], list[str]]:
    """This share's CPUs and GPUs of those that the job has on this node: shares take them in order."""
    (cpus, gpus), (first_cpu, first_gpu) = lent(), ahead(share, config)
    return cpus[first_cpu : first_cpu + share.cpus], gpus[first_gpu : first_gpu + share.gpus]


def _command(run: Run) -> Command:
    return lambda role, index: [sys.executable, "-m", "acceerl.jobs.process", str(run.path), role, str(index)]


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
