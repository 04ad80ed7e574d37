"""`acceerl join RUN`: more rollouts for a running training, here or as jobs of their own that Slurm may take away.

This module checks and submits; what happens then is in guests.py.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from acceerl.config import Config
from acceerl.launch.guests import Guests
from acceerl.launch.leader import LED, QUEUED, state_of
from acceerl.runtime.layout import Component
from acceerl.runtime.mpiexec import find_mpiexec
from acceerl.runtime.rundir import Run
from acceerl.runtime.stop import StopFlag

PATIENCE_S = 600.0  # of a job whose training is queued again, or which starts before it
SIZES = {
    "cpus": "processes=",
    "memory": "processes=",
    "gpus": "processes=",
    "nodes": "nodes=",
}  # what makes a job large
LOCAL = "127.0.0.1"  # what the registry of a training with launch=local is called


def command(words: Sequence[str], options: Mapping[str, str]) -> int:
    """Raises ValueError, in one line, for a run that nobody can join, and for a wrong option."""
    run = Run.open(words[0])
    config = run.config()
    processes, nodes = _number("processes", options), _number("nodes", options)
    launch = options["launch"] or config.launch
    if launch not in ("local", "slurm"):
        raise ValueError(f"launch={launch}: choose local or slurm")
    _check_run(run, config, launch)
    if launch == "slurm":
        return submit(run, _for_job(config, options), processes, nodes)
    for key, wrong in (("nodes", nodes > 1), ("minutes", options["minutes"]), ("partition", options["partition"])):
        if wrong:
            raise ValueError(f"{key}= is for launch=slurm; launch=local starts all processes on this machine")
    find_mpiexec(config.site.mpiexec)
    return Guests(run, processes, StopFlag().install()).stay()


def submit(run: Run, config: Config, processes: int, nodes: int) -> int:
    """One job a node, so that Slurm may take each by itself."""
    from acceerl.launch import sbatch, slurm, submission  # loads submitit

    part = Component("cpu", 1, processes, processes * config.placement.rollout_memory, 0)
    where = "partition" if config.site.cpu.partition else "site.cpu.partition"
    slurm.check_component("join", replace(part, nodes=nodes), config.site.cpu, where, slurm.known_nodes(), SIZES)
    folder = run.path / "slurm" / "join"
    text = sbatch.guest_script(config, run.name, folder, sys.executable, part)
    argument = json.dumps([str(run.path), processes])
    jobs = [submission.submit(folder, text, lead, argument) for _ in range(nodes)]
    ids = " ".join(job.job_id for job in jobs)
    print(f"job{'s' if nodes > 1 else ''} {ids}: {processes} rollouts each for {run.path}\n"
          f"log: {', '.join(str(job.paths.stdout) for job in jobs)}\n"
          f"watch: acceerl watch {run.path}\nend: scancel {ids} (the training goes on)", flush=True)  # fmt: skip
    return 0


def lead(argument: str) -> int:
    """What the batch step of a job runs."""
    stop = StopFlag().install()
    path, processes = json.loads(argument)
    try:
        return Guests(Run.open(path), processes, stop, PATIENCE_S).stay()
    except (ValueError, FileNotFoundError) as error:
        print(f"acceerl: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return 2


def _check_run(run: Run, config: Config, launch: str) -> None:
    status = run.status()
    state = state_of(status) if status else "never started"
    if state not in (LED if launch == "local" else (*LED, QUEUED)):
        raise ValueError(f"{run.path} is not running ({state}): there is nothing to join")
    if config.channels != "mpi":
        raise ValueError(f"{run.path} has channels={config.channels}, which takes no guests: only channels=mpi does")
    if config.schedule == "sync":
        raise ValueError(f"{run.path} has schedule=sync, which waits for all rollouts: guests may vanish at any time")
    registry = run.path / "registry.json"
    if launch == "slurm" and registry.is_file() and json.loads(registry.read_text())["host"] == LOCAL:
        raise ValueError(f"{run.path} runs with launch=local, which other nodes cannot reach: join it on its machine, "
                         "with launch=local")  # fmt: skip


def _for_job(config: Config, options: Mapping[str, str]) -> Config:
    """The run's configuration with the nodes and the time of a guest's job."""
    cpu = replace(config.site.cpu, partition=options["partition"] or config.site.cpu.partition)
    minutes = _number("minutes", options) if options["minutes"] else config.slurm.minutes
    return replace(config, site=replace(config.site, cpu=cpu), slurm=replace(config.slurm, minutes=minutes))


def _number(key: str, options: Mapping[str, str]) -> int:
    if not options[key].isdecimal() or int(options[key]) < 1:
        raise ValueError(f"{key}={options[key]}: give a whole number, at least 1")
    return int(options[key])
