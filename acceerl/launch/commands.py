"""The table of commands: to add one, give it a row here and a function in verbs.py."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from acceerl.bench.catalogue import BENCHES
from acceerl.launch import verbs


@dataclass(frozen=True)
class Command:
    """`keys`: the groups of the schema that its help lists; `words`: positional words before the overrides.

    A command that is no job takes `options` (KEY=VALUE) in place of overrides.
    """

    help: str
    handler: Callable[[argparse.Namespace], int]
    example: str
    keys: tuple[str, ...] = ()
    words: tuple[tuple[str, tuple[str, ...]], ...] = ()  # (name, choices; none: anything)
    job: bool = True  # takes overrides
    options: tuple[tuple[str, str, str], ...] = ()  # (key, default, meaning)
    optional: bool = False  # its words may be left out
    own_keys: bool = False  # parses its KEY=VALUE words itself
    paths: bool = False  # takes any number of paths before or between them
    others: tuple[tuple[str, str], ...] = ()  # (first word, example of that)


_TRAINING = ("algo", "learner", "replay", "inference", "rollout", "evaluator", "world_model", "success_model", "world",
             "dreamer", "deadlines", "supervisor", "tracking",
             "placement", "slurm", "sweep", "site")  # fmt: skip
COMMANDS: dict[str, Command] = {
    "train": Command(
        "reinforcement learning: rollouts, inference and learner as processes of this machine or of a Slurm job",
        verbs.train, "acceerl train experiment=tabletop_spatial", _TRAINING,
    ),
    "evaluate": Command(
        "success table and videos of a policy on the evaluation states",
        verbs.evaluate, "acceerl evaluate env=tabletop start=tabletop_spatial",
        ("evaluator", "inference", "world_model", "success_model", "world", "dreamer"),
    ),
    "collect": Command(
        "episodes of the scripted expert or a policy into HDF5 shards",
        verbs.plain_job, "acceerl collect env=tabletop collect.episodes=100 collect.to=data/spatial", ("collect",),
    ),
    "pretrain": Command(
        "from HDF5 shards: a starting policy by behaviour cloning, or a world and a success model",
        verbs.pretrain, "acceerl pretrain policy pretrain.data=data/spatial",
        ("pretrain", "world_model", "success_model", "world", "dreamer"),
        words=(("what", ("policy", "world_model")),),
        others=(("world_model", "acceerl pretrain world_model experiment=tabletop_world pretrain.data=data/tabletop"),),
    ),
    "data": Command(
        "HDF5 trajectories: import, check, count, cut, join, convert and look at them",
        verbs.data, "acceerl data import downloads/libero_spatial to=data/libero_spatial recipe=libero_spatial",
        words=(("verb", ("import", "inspect", "validate", "stats", "split", "merge", "convert", "view", "verify")),),
        job=False, own_keys=True, paths=True,
    ),
    "bench": Command(
        "how fast this machine runs: links, training, environments, weights, trajectories; JSON with json=PATH",
        verbs.bench, "acceerl bench links json=links.json", words=(("name", tuple(BENCHES)),), job=False, own_keys=True,
    ),
    "report": Command(
        "one HTML page about a run", verbs.report, "acceerl report runs/NAME", words=(("run", ()),), job=False,
        options=(("versus", "", "other runs, comma-separated, beside it where success is drawn over real steps"),),
    ),
    "export": Command(
        "a trained openvla_oft policy in the Hugging Face layout that it came from, adapters merged",
        verbs.export, "acceerl export runs/NAME to=checkpoints/NAME", words=(("run", ()),), job=False,
        options=(("to", "", "folder to write"), ("adapter", "", "folder for the adapters alone, as peft writes them"),
                 ("checkpoint", "", "the one that it was made from; empty: where that was")),
    ),
    "watch": Command(
        "a live table of a training's processes; ends with it, with 0 done, 75 stopped, 1 failed or lost",
        verbs.beside, "acceerl watch runs/NAME", words=(("run", ()),), job=False,
        options=(("once", "false", "true: one table, then end"), ("every", "2", "seconds between two looks")),
    ),
    "ps": Command(
        "one line per training below runs/",
        verbs.beside, "acceerl ps", words=(("runs", ()),), job=False, optional=True,
        options=(("runs", "runs", "the folder"),),
    ),
    "stop": Command(
        "ask a training for a checkpoint and to leave, and wait for both", verbs.beside, "acceerl stop runs/NAME",
        words=(("run", ()),), job=False,
    ),
    "join": Command(
        "more rollouts for a running training, which may come and go at any time",
        verbs.beside, "acceerl join runs/NAME processes=8 nodes=2 partition=preempt", words=(("run", ()),), job=False,
        options=(("processes", "2", "rollouts on each node"), ("nodes", "1", "one job each, with launch=slurm"),
                 ("launch", "", "local or slurm; empty: as the training"),
                 ("minutes", "", "time limit of the jobs; empty: the training's slurm.minutes"),
                 ("partition", "", "empty: the training's site.cpu.partition")),
    ),
    "doctor": Command(
        "check this machine, or with launch=slurm each node type of a job, and say what to do; exit code 1: a failure",
        verbs.doctor, "acceerl doctor", job=False, own_keys=True,
        options=(("runs", "runs", "where runs will be written"), ("json", "", "file for the findings as JSON")),
    ),
}  # fmt: skip
