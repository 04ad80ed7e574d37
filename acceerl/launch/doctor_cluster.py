"""`acceerl doctor launch=slurm`: the doctor's checks on one node of every component that a training would get.

One small job with a short step a component, and then steps that talk to each other (doctor_crossing.py). The findings
come back over srun's own output, so that a folder that a node does not see is a finding, too.
`python -m acceerl.launch.doctor_cluster FOLDER RUNS VARIABLES` is what a step runs.
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
from acceerl.launch import doctor_crossing, sbatch, slurm, slurm_queue
from acceerl.launch.compose import compose
from acceerl.launch.doctor import CHECKS, Check, Finding, examine, line
from acceerl.launch.doctor_crossing import Spot
from acceerl.launch.doctor_machine import existing
from acceerl.launch.doctor_site import put_on, variables
from acceerl.runtime.jsonfile import json_file
from acceerl.runtime.layout import Component, components, shares
from acceerl.runtime.world import here

CPUS, MEMORY_MB, MINUTES = 2, 4_000, 10
QUEUE_S = 1_800.0  # how long the job may wait and run
PLAN, CROSSING = "crossing.json", "crossing.out"
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
        doctor_crossing.plan(folder / PLAN, spots(config, small(components(config))), config.channels == "mpi")
        (folder / "job.sh").write_text(script(config, folder, existing(runs)))
        job = _sbatch(folder / "job.sh")
        print(f"job {job}: one node of each component; waiting for it", flush=True)
        _await(job)
        found = [parse(_read(folder / f"{number}.out")) for number in range(len(components(config)))]
        for component, check, finding in doctor_crossing.read(_read(folder / CROSSING), len(found)):
            found[component][1].append((check, finding))
        return found
    finally:
        if job:
            slurm_queue.cancel(job)
        shutil.rmtree(folder, ignore_errors=True)


def _read(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""


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
    """The batch script: a step on a node of every component that writes into `folder`, then those that talk."""
    parts = small(components(config))
    steps = [_examine(spot, folder, runs) for spot in spots(config, parts) if not spot.again]
    cross = [sys.executable, "-m", "acceerl.launch.doctor_crossing", "lead", str(folder / PLAN)]
    talk = f"{shlex.join(cross)} > {shlex.quote(str(folder / CROSSING))} 2>&1"
    own = ["--job-name=acceerl-doctor", f"--output={folder}/job.out", "--no-requeue"]
    return sbatch.batch(config, parts, own, MINUTES, [*steps, "wait", talk])


def small(parts: Sequence[Component]) -> list[Component]:
    """One node of each component, two of the only one, and of a node what the checks need."""
    most = 2 if len(parts) == 1 else 1
    return [replace(part, nodes=min(part.nodes, most), cpus=min(part.cpus, CPUS), memory=min(part.memory, MEMORY_MB),
                    gpus=min(part.gpus, 1)) for part in parts]  # fmt: skip


def spots(config: Config, parts: Sequence[Component]) -> list[Spot]:
    """The nodes of the doctor's job."""
    return [Spot(number, _srun(config, number, node, parts), _variables(config, number), again=node > 0)
            for number, part in enumerate(parts) for node in range(part.nodes)]  # fmt: skip


def _variables(config: Config, number: int) -> dict[str, str]:
    return variables(config, {role for share in shares(config) if share.component == number
                              for role, _ in share.processes})  # fmt: skip


def _srun(config: Config, number: int, node: int, parts: Sequence[Component]) -> list[str]:
    part = parts[number]
    group = [f"--het-group={number}"] if len(parts) > 1 else []
    gres = f"--gres={config.site.gres}:{part.gpus}" if part.gpus else "--gres=none"
    return ["srun", *group, "--exact", "--nodes=1", "--ntasks=1", f"--relative={node}", f"--cpus-per-task={part.cpus}",
            f"--mem={part.memory}M", gres, "--mpi=none", "--input=none"]  # fmt: skip


def _examine(spot: Spot, folder: Path, runs: Path) -> str:
    words = [*spot.srun, sys.executable, "-m", "acceerl.launch.doctor_cluster", str(folder), str(runs),
             json.dumps(spot.variables)]  # fmt: skip
    return f"{shlex.join(words)} > {shlex.quote(str(folder))}/{spot.component}.out 2>&1 &"


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


def main(folder: str, runs: str, given: str) -> None:
    """One step: the checks on this node, with the variables of the roles that run here."""
    put_on(json.loads(given))
    findings = [(SHARED, shared(Path(folder))), *examine(Path(runs))]
    rows = [(check.name, finding.level, finding.text) for check, finding in findings]
    print(RESULT + json.dumps({"node": here(), "findings": rows}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
