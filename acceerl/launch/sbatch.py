"""The text that Slurm reads: the batch script of a training and the command of each keeper step; see slurm/examples.

Both come from the same layout, so that what a step asks for is always there. Nothing here runs anything.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from acceerl.config import Config, Nodes
from acceerl.runtime.layout import Component, Share, components, shares

SIGNAL = "USR2"  # NCCL may catch USR1


def script(config: Config, name: str, folder: Path, python: str, after: str = "") -> str:
    """The batch script. `folder` gets the log, and holds what submitit needs; `after`: id of a job to wait for.

    `B:` sends the signal to the batch process alone, and `exec` makes that the supervisor.
    """
    layout = components(config)
    own = [f"--job-name=acceerl-{name}", f"--output={folder}/%j_0_log.out", "--open-mode=append",
           f"--signal=B:{SIGNAL}@{config.site.lead}",
           "--requeue" if config.site.requeue else "--no-requeue"]  # fmt: skip
    own += [f"--dependency=afterany:{after}"] if after else []
    return batch(config, layout, own, config.slurm.minutes, _submitted(python, folder))


def guest_script(config: Config, name: str, folder: Path, python: str, part: Component) -> str:
    """The batch script of one node of guests (launch/guests.py). It saves nothing, so it needs no early signal."""
    own = [f"--job-name=acceerl-{name}-join", f"--output={folder}/%j_0_log.out", "--open-mode=append",
           "--requeue" if config.site.requeue else "--no-requeue"]  # fmt: skip
    return batch(config, [part], own, config.slurm.minutes, _submitted(python, folder))


def _submitted(python: str, folder: Path) -> list[str]:
    """`exec` makes Python the batch process, which gets Slurm's signals."""
    command = shlex.join([python, "-u", "-m", "acceerl.launch.submission", str(folder)])
    return ["export SUBMITIT_EXECUTOR=slurm", f"exec {command}"]


def batch(config: Config, layout: Sequence[Component], own: list[str], minutes: int, lines: Sequence[str]) -> str:
    """A batch script over het components; `own` are the flags of the job as a whole."""
    keep = sum(part.nodes for part in layout) > 1 and config.channels != "world"  # which needs every node
    parts = [_flags(config, component, keep, minutes) for component in layout]
    parts[0] = own + parts[0]
    head = "\n#SBATCH hetjob\n".join("\n".join(f"#SBATCH {shlex.quote(flag)}" for flag in flags) for flags in parts)
    return "\n".join(["#!/bin/bash", head, "", *config.site.setup, *lines, ""])


def _flags(config: Config, part: Component, keep: bool, minutes: int) -> list[str]:
    """`keep`: a lost node does not end the job. Slurm (22.05) keeps a het job only where its leader is told so too.

    And only where the leader has a second node: with one GPU node Slurm requeues the job when a CPU node is lost.
    """
    site: Nodes = config.site.gpu if part.kind == "gpu" else config.site.cpu
    given = {"account": config.site.account, "partition": site.partition, "constraint": site.constraint,
             "qos": site.qos}  # fmt: skip
    flags = [f"--{key}={value}" for key, value in given.items() if value]
    flags += [f"--nodes={part.nodes}", "--ntasks-per-node=1", f"--cpus-per-task={part.cpus}", f"--mem={part.memory}M"]
    flags += [f"--gres={config.site.gres}:{part.gpus}"] if part.gpus else []
    flags += [f"--time={minutes}", *(["--no-kill"] if keep else []), *site.flags]
    return flags


def step(config: Config, share: Share, node: str, het: bool, command: Sequence[str]) -> list[str]:
    """The srun of one keeper step.

    Without --exact, --mem and --gres of its own a step may take all of the node, and the next one waits silently.
    """
    group = [f"--het-group={share.component}"] if het else []
    gres = f"--gres={config.site.gres}:{share.gpus}" if share.gpus else "--gres=none"
    return ["srun", *group, "--exact", "--nodes=1", "--ntasks=1", f"--nodelist={node}", f"--job-name={share.group}",
            f"--cpus-per-task={share.cpus}", f"--mem={share.memory}M", gres, "--mpi=none", "--input=none",
            "--unbuffered", *command]  # fmt: skip


def world(config: Config, nodes: Sequence[Sequence[str]], command: Sequence[str]) -> list[str]:
    """channels=world: one srun over all components, `nodes[component][node]` by name.

    Ranks stand on nodes in the order of layout.ranks. Each step may use all that the job has on a node; what of it is
    whose, the ranks know.
    """
    words = ["srun", f"--mpi={config.site.pmi}", "--kill-on-bad-exit=1", "--input=none", "--unbuffered"]
    for number, part in enumerate(components(config)):
        ours = [share for share in shares(config) if share.component == number]
        places = [nodes[number][share.node] for share in ours for _ in share.processes]
        group = [f"--het-group={number}"] if len(components(config)) > 1 else []
        gres = [f"--gres={config.site.gres}:{part.gpus}"] if part.gpus else ["--gres=none"]
        words += [":"] if number else []
        words += [*group, f"--ntasks={len(places)}", "--distribution=arbitrary", f"--nodelist={','.join(places)}",
                  "--job-name=world", "--overlap", "--mem=0", "--cpu-bind=none", *gres, *command]  # fmt: skip
    return words


def rank(run: Path, python: str, attempt: int | str, life: int | str) -> list[str]:
    """What each rank of a world runs."""
    return [python, "-m", "acceerl.launch.rank", str(run), str(attempt), str(life)]


def keeper(run: Path, share: Share, python: str, attempt: int | str, life: int | str) -> list[str]:
    """What a step runs."""
    return [python, "-m", "acceerl.launch.step", str(run), share.name, str(attempt), str(life)]


def steps(config: Config, run: Path, python: str) -> str:
    """All steps for a reader. The nodes are known when the job runs."""
    if config.channels == "world":
        nodes = [[f"$NODE_{number}_{k}" for k in range(part.nodes)] for number, part in enumerate(components(config))]
        return " ".join(world(config, nodes, rank(run, python, "$ATTEMPT", "$LIFE"))) + "\n"
    het, lines = len(components(config)) > 1, []
    for share in shares(config):
        lines.append(f"# {share.inside} on node {share.node} of component {share.component}")
        words = step(config, share, "$NODE", het, keeper(run, share, python, "$ATTEMPT", "$LIFE"))
        lines += [" ".join(words), ""]
    return "\n".join(lines)
