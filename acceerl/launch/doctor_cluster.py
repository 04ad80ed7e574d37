"""`acceerl doctor launch=slurm`: the doctor's checks on one node of every component that a training would get.

One small job with a short step a component. The findings come back over srun's own output, so that a folder that a
node does not see is a finding, too. `python -m acceerl.launch.doctor_cluster RUNS` is what a step runs.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from acceerl.config import Config
from acceerl.launch import sbatch, slurm, slurm_queue
from acceerl.launch.compose import compose
from acceerl.launch.doctor import CHECKS, Check, Finding, examine, line
from acceerl.launch.doctor_machine import existing
from acceerl.runtime.jsonfile import json_file
from acceerl.runtime.layout import Component, components, shares
from acceerl.runtime.world import here

CPUS, MEMORY_MB, MINUTES = 2, 4_000, 10
QUEUE_S = 1_800.0  # how long the job may wait and run
RESULT = "acceerl doctor: "  # before the JSON in a step's output
Findings = list[tuple[Check, Finding]]


def doctor(overrides: Sequence[str], runs: Path, json_path: str = "") -> int:
    """Prints the findings of every component. Returns 1 when something needed fails in any, else 0.

    Raises ValueError for a configuration that this cluster cannot place, and for a job that Slurm refuses.
    """
    config = compose("train", [*overrides, f"runs={runs}"])
    if config.launch != "slurm":
        raise ValueError("acceerl doctor takes a training's overrides together with launch=slurm only")
    slurm.check(config)
    target = json_file(json_path) if json_path else None
    found = _ask(config, runs)
    failed = [fault for number, seen in enumerate(found) for fault in _tell(config, number, *seen)]
    print(f"\nfailed: {'; '.join(failed)}" if failed else "\nnothing that is needed fails in any component", flush=True)
    if target is not None:
        rows = [
            {"component": number, "node": node, "check": check.name, "level": finding.level, "text": finding.text}
            for number, (node, findings) in enumerate(found)
            for check, finding in findings
        ]
        target.write_text(json.dumps({"healthy": not failed, "checks": rows}, indent=1) + "\n")
    return 1 if failed else 0


def _tell(config: Config, number: int, node: str, findings: Findings) -> list[str]:
    """Prints one component; returns what of it fails."""
    roles = roles_of(config, number)
    print(f"\ncomponent {number}: {roles} on {node}", flush=True)
    for check, finding in findings:
        print(line(check, finding), flush=True)
    return [f"{roles} on {node}: {check.name}" for check, finding in findings if finding.level == "FAIL"]


def roles_of(config: Config, number: int) -> str:
    return ", ".join(sorted({share.group for share in shares(config) if share.component == number}))


def _ask(config: Config, runs: Path) -> list[tuple[str, Findings]]:
    """Submits, waits, and returns node and findings of each component."""
    folder = Path(tempfile.mkdtemp(prefix=".doctor-", dir=existing(runs)))
    job = ""
    try:
        (folder / "job.sh").write_text(script(config, folder, existing(runs)))
        job = _sbatch(folder / "job.sh")
        print(f"job {job}: one node of each component; waiting for it", flush=True)
        _await(job)
        said = [folder / f"{number}.out" for number in range(len(components(config)))]
        return [parse(path.read_text(errors="replace") if path.exists() else "") for path in said]
    finally:
        if job:
            slurm_queue.cancel(job)
        shutil.rmtree(folder, ignore_errors=True)


def _sbatch(file: Path) -> str:
    try:
        return slurm_queue.call("sbatch", "--parsable", str(file)).split(";")[0].strip()
    except slurm_queue.Unanswered as error:
        raise ValueError(f"Slurm refused the doctor's job: {error} (site.* names accounts and partitions)") from error


def _await(job: str) -> None:
    """Until the job has ended."""
    until = time.monotonic() + QUEUE_S
    while slurm_queue.still_there(job):
        if time.monotonic() > until:
            raise ValueError(f"the doctor waited {QUEUE_S:g} s for job {job}, which is {slurm_queue.job_state(job)}: "
                             f"squeue --job {job} --start says why")  # fmt: skip
        time.sleep(1.0)


def script(config: Config, folder: Path, runs: Path) -> str:
    """The batch script: every component with one node, and a step on each that writes into `folder`."""
    parts = [small(part) for part in components(config)]
    het = len(parts) > 1
    steps = [_step(config, number, part, het, folder, runs) for number, part in enumerate(parts)]
    own = ["--job-name=acceerl-doctor", f"--output={folder}/job.out", "--no-requeue"]
    return sbatch.batch(config, parts, own, MINUTES, [*steps, "wait"])


def small(part: Component) -> Component:
    """One node of a component, and of that what the checks need."""
    return replace(part, nodes=1, cpus=min(part.cpus, CPUS), memory=min(part.memory, MEMORY_MB), gpus=min(part.gpus, 1))


def _step(config: Config, number: int, part: Component, het: bool, folder: Path, runs: Path) -> str:
    group = [f"--het-group={number}"] if het else []
    gres = f"--gres={config.site.gres}:{part.gpus}" if part.gpus else "--gres=none"
    words = ["srun", *group, "--exact", "--nodes=1", "--ntasks=1", f"--cpus-per-task={part.cpus}",
             f"--mem={part.memory}M", gres, "--mpi=none", "--input=none", sys.executable, "-m",
             "acceerl.launch.doctor_cluster", str(folder), str(runs)]  # fmt: skip
    return f"{shlex.join(words)} > {shlex.quote(str(folder))}/{number}.out 2>&1 &"


def parse(text: str) -> tuple[str, Findings]:
    """Node and findings from a step's output; a step without findings is one, with its last words."""
    lines = text.strip().splitlines()
    for said in lines:
        if said.startswith(RESULT):
            result = json.loads(said.removeprefix(RESULT))
            known = {check.name: check for check in (*CHECKS, SHARED)}
            return result["node"], [(known[name], Finding(level, words)) for name, level, words in result["findings"]]
    step = Check("step", "every run", "", advice="the job's own log and squeue tell more")
    last = lines[-1] if lines else "no word; is runs= a folder that the first node sees, too?"
    return "?", [(step, Finding("FAIL", f"the step did not run to its end: {last}"))]


SHARED = Check("shared folder", "every run", "")


def shared(folder: Path) -> Finding:
    """Does this node see the folder that the submitting machine has just made?"""
    if (folder / "job.sh").is_file():
        return Finding("ok", f"{folder.parent} is visible here")
    return Finding("FAIL", f"{folder.parent} is not visible here: runs= must name a folder that all nodes share")


def main(folder: str, runs: str) -> None:
    """One step: the checks on this node."""
    findings = [(SHARED, shared(Path(folder))), *examine(Path(runs))]
    rows = [(check.name, finding.level, finding.text) for check, finding in findings]
    print(RESULT + json.dumps({"node": here(), "findings": rows}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
