"""What Slurm says about jobs, nodes and partitions, read from scontrol, sacct and sinfo. Every call has a deadline.

`scontrol` answers with and without accounting, but forgets a job some minutes after its end; `sacct`, where a site
has it, remembers.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from acceerl.runtime.world import expand

CALL_S = 30.0
QUICK_S = 5.0  # where the supervisor waits meanwhile
ALIVE = ("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "REQUEUED", "RESIZING", "STAGE_OUT", "SIGNALING", "STOPPED",
         "COMPLETING", "UNKNOWN")  # fmt: skip
GONE = "GONE"  # Slurm has forgotten the job: it has ended, how is not known


class Unanswered(OSError):
    """Slurm's controller did not answer; nothing is known."""


def call(*argv: str, seconds: float = CALL_S) -> str:
    """The output of one of Slurm's commands. Raises Unanswered, with its words, when it fails."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds, check=False)
    except FileNotFoundError as error:
        raise ValueError(f"no Slurm on this machine ({argv[0]} is not in PATH): log in to the cluster, or use "
                         "launch=local") from error  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise Unanswered(f"{argv[0]} did not answer within {seconds:g} s") from error
    if done.returncode:
        raise Unanswered(f"{argv[0]}: {' '.join((done.stderr or done.stdout).split())}")
    return done.stdout


def job_state(job: str) -> str:
    """The state of a job, of all its het components together; GONE when it is past knowing.

    Raises Unanswered when the controller does not answer.
    """
    try:
        return merged(scontrol_states(call("scontrol", "show", "job", "-o", job)))
    except Unanswered as error:
        if "Invalid job id" not in str(error):
            raise
    return merged(_remembered(job)) or GONE


def still_there(job: str) -> bool:
    """Has the job not ended yet? True as well while the controller does not answer."""
    try:
        return job_state(job) in ALIVE
    except Unanswered:
        return True


def cancel(job: str) -> None:
    """Nothing happens to a job that has ended; one that cannot be reached has a time limit."""
    with suppress(Unanswered):
        call("scancel", job)


def all_run(job: str, restarts: int) -> bool:
    """Does every component run, in this life of the job? Not once Slurm has begun to end it, for whatever reason."""
    said = call("scontrol", "show", "job", "-o", job)
    lives = {int(number) for number in re.findall(r"\bRestarts=(\d+)", said)}
    return set(scontrol_states(said)) == {"RUNNING"} and lives <= {restarts}


def _remembered(job: str) -> list[str]:
    if shutil.which("sacct") is None:
        return []
    try:
        return sacct_states(call("sacct", "-X", "-n", "-P", "-o", "JobID,State", "-j", job), job)
    except Unanswered:  # no accounting on this site
        return []


def scontrol_states(text: str) -> list[str]:
    """States of the components, the leader's first.

    >>> scontrol_states("JobId=7 HetJobId=7 HetJobOffset=0 JobState=RUNNING Reason=None\\n"
    ...                 "JobId=8 HetJobId=7 HetJobOffset=1 JobState=COMPLETING Reason=None")
    ['RUNNING', 'COMPLETING']
    """
    return re.findall(r"\bJobState=(\S+)", text)


def sacct_states(text: str, job: str) -> list[str]:
    """The same from `sacct -X -n -P -o JobID,State`, where components are called `7+0`, `7+1`.

    >>> sacct_states("7+1|CANCELLED by 1000\\n7+0|FAILED\\n70|RUNNING", "7")
    ['FAILED', 'CANCELLED']
    """
    rows = [line.split("|") for line in text.splitlines() if "|" in line]
    ours = sorted((name, state) for name, state in rows if name.split("+")[0] == job)
    return [state.split()[0] for _, state in ours]


def merged(states: Sequence[str]) -> str:
    """One state for a het job: it lives as long as any component does, and ended as its leader did.

    >>> merged(["COMPLETED", "CANCELLED"]), merged(["FAILED", "RUNNING"]), merged(["PENDING", "PENDING"])
    ('COMPLETED', 'RUNNING', 'PENDING')
    """
    alive = [state for state in states if state in ALIVE]
    for state in ("RUNNING", *alive):
        if state in alive:
            return state
    return states[0] if states else ""


@dataclass(frozen=True)
class Node:
    """One node in one partition, as sinfo has it."""

    name: str
    partition: str
    cpus: int
    memory: int  # MB
    gpus: int
    state: str
    features: tuple[str, ...]

    @property
    def up(self) -> bool:
        return not re.match(r"down|drain|fail|inval|unk|power|reboot|maint", self.state) and not self.state.endswith(
            "*"
        )


def nodes() -> list[Node]:
    """Every node of every partition. Raises Unanswered, or ValueError where there is no Slurm."""
    return parse_nodes(call("sinfo", "-h", "-N", "-o", "%N|%P|%c|%m|%G|%T|%f"))


def limits() -> dict[str, float]:
    """The longest job of each partition in minutes; '' is the site's default one. Raises as `nodes` does."""
    return parse_limits(call("scontrol", "show", "partition", "-o"))


def parse_limits(text: str) -> dict[str, float]:
    """
    >>> parse_limits("PartitionName=a Default=YES MaxTime=2-00:30:00 State=UP\\nPartitionName=b MaxTime=UNLIMITED")
    {'a': 2910.0, '': 2910.0, 'b': inf}
    """
    found: dict[str, float] = {}
    for line in text.splitlines():
        said = dict(word.split("=", 1) for word in line.split() if "=" in word)
        names = [said.get("PartitionName", ""), *([""] if said.get("Default") == "YES" else [])]
        found |= dict.fromkeys(names, minutes(said.get("MaxTime", "UNLIMITED")))
    return found


def minutes(limit: str) -> float:
    """
    >>> minutes("04:00:00"), minutes("1-12:00:00"), minutes("30:00"), minutes("UNLIMITED")
    (240.0, 2160.0, 30.0, inf)
    """
    if not limit[:1].isdigit():
        return float("inf")
    days, _, clock = limit.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    hours, mins, secs = [0] * (3 - len(parts)) + parts
    return int(days or 0) * 1440 + hours * 60 + mins + secs / 60


def parse_nodes(text: str) -> list[Node]:
    """`*` after a partition's name marks the site's default, which is also called ''.

    >>> [node] = parse_nodes("gpu1|gpu|8|16000|gpu:a100:4(S:0-1)|mixed|big,new")
    >>> (node.gpus, node.up, node.features)
    (4, True, ('big', 'new'))
    """
    found = []
    for line in text.splitlines():
        name, partition, cpus, memory, gres, state, features = line.split("|")
        one = (
            name,
            int(cpus),
            int(re.sub(r"\D", "", memory).strip()),
            count_gpus(gres),
            state,
            tuple(features.split(",")),
        )
        names = ["", partition[:-1]] if partition.endswith("*") else [partition]
        found += [Node(one[0], p, *one[1:]) for p in names]
    return found


def count_gpus(gres: str) -> int:
    """
    >>> count_gpus("gpu:2,nvme:1"), count_gpus("gpu:a100:4(S:0-1)"), count_gpus("(null)")
    (2, 4, 0)
    """
    return sum(int(n) for n in re.findall(r"(?:^|,)gpu(?::[^:,(]+)?:(\d+)", gres))


def node_is_up(name: str) -> bool:
    """Is the node there? True when nobody answers: a step that is tried tells more than a guess."""
    try:
        state = re.search(r"\bState=(\S+)", call("scontrol", "show", "node", "-o", name, seconds=QUICK_S))
    except Unanswered:
        return True
    return state is None or not re.search(r"DOWN|FAIL|NOT_RESPONDING|POWER", state.group(1))


def job_has(job: str, node: str) -> bool:
    """Can steps of a job run on a node? With --no-kill a lost node leaves the job for good.

    Raises Unanswered when the controller does not answer.
    """
    text = call("scontrol", "show", "job", "-o", job, seconds=QUICK_S)
    lists = [nodes for nodes in re.findall(r"\bNodeList=(\S+)", text) if nodes != "(null)"]
    return any(node in expand(nodes) for nodes in lists) and node_is_up(node)


def node_address(name: str) -> str:
    """How others reach a node; node names need not resolve everywhere."""
    address = re.search(r"\bNodeAddr=(\S+)", call("scontrol", "show", "node", "-o", name))
    return address.group(1) if address else name


def requeue(job: str) -> str:
    """Puts a running job back into the queue; returns why Slurm refuses, empty when it is (or already was) done."""
    try:
        call("scontrol", "requeue", job)
        return ""
    except Unanswered as error:
        return "" if "pending execution" in str(error) else str(error)
