"""`acceerl train launch=slurm` on the login node: check, submit, and with slurm.wait=true stay until the end."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from acceerl.config import Config, Nodes
from acceerl.launch import attempts, batch, queued, sbatch
from acceerl.launch.leader import FAILED, QUEUED, whoami
from acceerl.launch.progress import LogLines, Progress, TerminalLine, Totals
from acceerl.launch.slurm_queue import ALIVE, Node, Unanswered, job_state, limits, nodes
from acceerl.launch.submission import Job
from acceerl.runtime.layout import HEAVY, Component, components, idle_gpus, kind, shares
from acceerl.runtime.placement import rows
from acceerl.runtime.rundir import Run
from acceerl.runtime.stop import STOPPED

LOOK_S = 1.0
Answer = TypeVar("Answer")


def train(config: Config, run: Run) -> int:
    """Submits; returns 0, or with slurm.wait=true the training's own exit code.

    Raises ValueError, naming the row, for what this cluster cannot place.
    """
    job = queue(config, run)
    log = job.paths.stdout
    print(f"job {job.job_id}: {', '.join(_says(c, config) for c in components(config))}\n"
          f"log: {log}\nwatch: squeue --job {job.job_id}; acceerl watch {run.path}\n"
          f"end: acceerl stop {run.path} (with a checkpoint), or scancel {job.job_id}", flush=True)  # fmt: skip
    return wait(run, job) if config.slurm.wait else 0


def queue(config: Config, run: Run) -> Job:
    """Submits a run; raises ValueError, and leaves everything as it was, when Slurm refuses."""
    before = run.status()
    counters = before.get("counters", Totals({}).counters())
    run.write_status({**before, "state": QUEUED, "reason": "", "error": "", "attempt": run.attempt, "processes": [],
                      "counters": counters, "supervisor": whoami()})  # fmt: skip
    try:
        return batch.submit(config, run)
    except ValueError:
        _put_back(run, before)
        raise


def _put_back(run: Run, status: dict[str, object]) -> None:
    if status:
        run.write_status(status)
    else:
        run.status_file.unlink(missing_ok=True)
        shutil.rmtree(attempts.folder(run), ignore_errors=True)  # nothing of it began


def refuse_queued(run: Run) -> None:
    """Raises ValueError when a job of the run is still in the queue."""
    job = attempts.record(run)["job"]
    if job and run.status().get("state") == QUEUED:
        try:
            state = job_state(job)
        except Unanswered:
            state = "UNKNOWN"
        except ValueError:  # no Slurm on this machine: a copy of the run, or its lock will tell
            return
        if state in ALIVE:
            raise ValueError(f"{run.path} is queued as job {job} ({state}): scancel {job} first")


def wait(run: Run, job: Job) -> int:
    """Until the run's last job has ended, over requeues and successors. Ctrl-C leaves the job alone."""
    with TerminalLine() if sys.stderr.isatty() else LogLines() as show:
        while True:
            while not job.done():
                status = run.status()
                show(Progress(str(status.get("state", QUEUED)), int(status.get("attempt", 0)),
                              status.get("counters", {}), status.get("rates", {}), status.get("success"),
                              status.get("lag")))  # fmt: skip
                time.sleep(LOOK_S)
            newest = attempts.record(run)["job"]
            if newest == job.job_id:
                return _outcome(run, job)
            job = Job(attempts.folder(run), newest)


def _outcome(run: Run, job: Job) -> int:
    deadline = time.monotonic() + 15.0  # a shared file system may show the result a little later
    while (code := job.exit_code()) is None and job.state == "COMPLETED" and time.monotonic() < deadline:
        time.sleep(LOOK_S)
    if code is None:
        queued.ended(run, job.job_id, job.state)
    said = run.status().get("error") or run.status().get("reason") or ""
    print(f"job {job.job_id} ended: {job.state}{': ' if said else ''}{said}", flush=True)
    if code == 0:
        from acceerl.launch.train import last_line

        print(last_line(run), flush=True)
    if code is None:
        code = STOPPED if job.state.startswith(("CANCELLED", "TIMEOUT", "PREEMPTED")) else FAILED
    return code


def check(config: Config, known: Sequence[Node] | None = None, longest: Mapping[str, float] | None = None) -> None:
    """Can the cluster hold every component, and for so long? Raises ValueError naming row, need and what there is.

    `known` and `longest` (minutes by partition) are asked of Slurm when `known` is not given.
    """
    if known is None:
        known, longest = known_nodes(), _of_slurm(limits)
    for number, part in enumerate(components(config)):
        site: Nodes = config.site.gpu if part.kind == "gpu" else config.site.cpu
        row, key = _row(config, number), f"site.{part.kind}.partition"
        check_component(row, part, site, key, known, _sizes(config, number))
        limit = (longest or {}).get(site.partition, float("inf"))
        if config.slurm.minutes > limit:
            raise ValueError(f"{row}: slurm.minutes={config.slurm.minutes} is more than the {limit:g} minutes that "
                             f"{key}={site.partition or '(default)'} allows a job; lower it: a longer training goes on "
                             "in the next attempt")  # fmt: skip


def tried(config: Config) -> str:
    """What the last line of a dry run says of this cluster. Raises as `check` does."""
    if shutil.which("sinfo") is None:
        return "not checked: no Slurm on this machine (sinfo is not in PATH)"
    try:
        known, longest = nodes(), limits()
    except Unanswered as error:
        return f"not checked: Slurm does not answer ({error})"
    check(config, known, longest)
    return "checked: this cluster has such nodes; sbatch itself has the last word (account, QOS, features)"


def warn(config: Config) -> None:
    """One line on stderr about what works, and wastes what others wait for."""
    if idle_gpus(config):
        print(f"acceerl: placement.gpus={config.placement.gpus} books GPUs that nobody uses: set learner.device=cuda "
              "inference.device=cuda, or placement.gpus=0", file=sys.stderr, flush=True)  # fmt: skip


def known_nodes() -> list[Node]:
    """Raises ValueError when Slurm does not say which nodes there are."""
    return _of_slurm(nodes)


def _of_slurm(question: Callable[[], Answer]) -> Answer:
    try:
        return question()
    except Unanswered as error:
        raise ValueError(f"Slurm does not answer, so nothing was submitted ({error})") from error


def _row(config: Config, number: int) -> str:
    roles = {share.group for share in shares(config) if share.component == number}
    return "placement row " + ", ".join(sorted(roles))


def _sizes(config: Config, number: int) -> dict[str, str]:
    """Which keys make a component as large as it is."""
    roles = [row.role for row in rows(config) if row.role in {
        role for share in shares(config) if share.component == number for role, _ in share.processes}]  # fmt: skip
    heavy = [role for role in roles if role in HEAVY]
    light = [f"{role}.processes" for role in roles if role not in heavy]
    memory = [f"placement.{role}_memory" for role in heavy] + (["placement.rollout_memory", *light] if light else [])
    counts = [f"placement.{name}_nodes" for name, there in (("gpu", heavy), ("cpu", light)) if there]
    return {"cpus": " or ".join([f"{role}.threads" for role in heavy] + light), "memory": " or ".join(memory),
            "gpus": "placement.gpus", "nodes": " or ".join(counts)}  # fmt: skip


def check_component(
    row: str, part: Component, site: Nodes, key: str, known: Sequence[Node], sizes: Mapping[str, str]
) -> None:
    """Are there enough such nodes? Raises ValueError naming `row`, or the site's `key` for a wrong partition.

    `sizes`: the keys by which a user makes it smaller, for cpus, memory, gpus and nodes.
    """
    partitions = sorted({node.partition for node in known} - {""})
    ours = [node for node in known if node.partition == site.partition]
    if not ours and site.partition:
        raise ValueError(f"{row}: {key}={site.partition} is no partition here: choose from {', '.join(partitions)}")
    if not ours:
        raise ValueError(f"{row}: this site has no default partition: set {key} to one of {', '.join(partitions)}")
    tests = (
        ("cpus", part.cpus, "CPUs"), ("memory", part.memory, "MB"), ("gpus", part.gpus, "GPUs"),
    )  # fmt: skip
    fit = [node for node in ours if all(getattr(node, name) >= need for name, need, _ in tests)]
    if len({node.name for node in fit}) < part.nodes:
        need = ", ".join(f"{need} {unit}" for _, need, unit in tests if need)
        large = [name for name, need, _ in tests if need > max(getattr(node, name) for node in ours)]
        best = ", ".join(f"{max(getattr(node, name) for node in ours)} {unit}" for name, _, unit in tests)
        raise ValueError(f"{row}: needs {part.nodes} nodes with {need} each, but only {len({n.name for n in fit})} of "
                         f"partition {site.partition or '(default)'} have that (the largest: {best}); lower "
                         f"{' and '.join(dict.fromkeys(sizes[name] for name in large or ['nodes']))}")  # fmt: skip
    up = {node.name for node in fit if node.up}
    if len(up) < part.nodes:
        print(f"acceerl: {row}: only {len(up)} of the {part.nodes} nodes that it needs are up; the job will wait",
              file=sys.stderr)  # fmt: skip


def _says(part: Component, config: Config) -> str:
    site: Nodes = config.site.gpu if part.kind == "gpu" else config.site.cpu
    gpus = f", {part.gpus} GPU" if part.gpus else ""
    return f"{part.nodes} x {site.partition or part.kind} ({part.cpus} CPUs, {part.memory} MB{gpus})"


def describe(config: Config) -> str:
    """What `--dry-run` adds: the batch script and the steps. Node names are known when the job runs."""
    folder = Path(config.runs).absolute() / (config.name or "NAME")
    text = sbatch.script(config, config.name or "NAME", folder / "slurm", sys.executable)
    head = f"placement {kind(config)}: {', '.join(_says(part, config) for part in components(config))}"
    return "\n".join([head, "", text, sbatch.steps(config, folder, sys.executable)])
