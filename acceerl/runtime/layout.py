"""Where on a cluster each process of a training runs: het components, nodes, and the share of a node that a step gets.

Pure arithmetic over the configuration; sbatch's text, the steps and the checks before submission all read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from acceerl.config import Config
from acceerl.runtime.placement import Row, rows

HEAVY = ("learner", "inference", "world_model", "dreamer")  # on nodes with GPUs, the others on CPU nodes
SUPERVISOR_CPUS, SUPERVISOR_MB = 1, 2_000  # on the first node; it also scores the policy before and after
Process = tuple[str, int]  # role, index
Spot = tuple[int, int]  # component, node within it


@dataclass(frozen=True)
class Component:
    """One het component: `nodes` equal nodes and what the job takes of each."""

    kind: str  # gpu or cpu: which of the site's nodes
    nodes: int
    cpus: int
    memory: int  # MB
    gpus: int


@dataclass(frozen=True)
class Share:
    """One keeper step: the processes of a role group on one node, and what they may use together."""

    group: str
    component: int
    node: int
    processes: tuple[Process, ...]
    cpus: int
    memory: int  # MB
    gpus: int

    @property
    def name(self) -> str:
        return f"{self.group}.{self.component}.{self.node}"

    @property
    def inside(self) -> str:
        """`rollout[8-15]`, for people."""
        roles = {role: [i for r, i in self.processes if r == role] for role, _ in self.processes}
        return ", ".join(f"{role}[{i[0]}{f'-{i[-1]}' if len(i) > 1 else ''}]" for role, i in roles.items())


def kind(config: Config) -> str:
    return "cluster" if config.placement.kind == "auto" else config.placement.kind


def shares(config: Config) -> tuple[Share, ...]:
    """Every keeper step, those of the first node first.

    Raises ValueError, naming the row, when there are more nodes than processes or no GPU for one that wants it.
    """
    table = rows(config)
    heavy, light = _spots(config)
    if not any(row.role in ("rollout", "evaluator") for row in table) and set(light) <= set(heavy):
        light = []  # the rollouts come by `acceerl join`, with nodes of their own
    placed = _deal(table, HEAVY, heavy, "placement.gpu_nodes")
    for process, spot in _deal(table, ("rollout", "evaluator"), light, "placement.cpu_nodes").items():
        placed[process] = spot
    spots = sorted(set(placed.values()))
    return tuple(s for spot in spots for s in _on(spot, [p for p in placed if placed[p] == spot], table, config))


def idle_gpus(config: Config) -> bool:
    """Does the job book GPUs on which nobody computes, and nobody draws?"""
    steps = [share for share in shares(config) if share.component == 0]
    roles = {role for share in steps for role, _ in share.processes}
    computes = any(row.device != "cpu" for row in rows(config))
    draws = config.site.gl == "egl" and bool(roles & {"rollout", "evaluator"})
    return config.placement.gpus > 0 and not computes and not draws


def ranks(config: Config) -> tuple[Process, ...]:
    """With channels=world: who is which rank of MPI_COMM_WORLD, component after component, node after node."""
    if config.launch == "slurm":
        return tuple(process for share in shares(config) for process in share.processes)
    return tuple((row.role, i) for row in rows(config) for i in range(row.count))


def ahead(share: Share, config: Config) -> tuple[int, int]:
    """CPUs and GPUs of the shares that come before this one on its node."""
    node = [other for other in shares(config) if (other.component, other.node) == (share.component, share.node)]
    before = node[: node.index(share)]
    return sum(other.cpus for other in before), sum(other.gpus for other in before)


def components(config: Config) -> tuple[Component, ...]:
    """What the job asks for. Nodes of a component are equal, so the fullest of them decides."""
    steps = shares(config)
    heavy, light = _spots(config)
    count = max(component for component, _ in [*heavy, *light]) + 1
    return tuple(_component(number, config, steps, {*heavy, *light}) for number in range(count))


def _component(number: int, config: Config, steps: Sequence[Share], spots: set[Spot]) -> Component:
    nodes = [node for component, node in spots if component == number]
    ours = [[s for s in steps if (s.component, s.node) == (number, node)] for node in nodes]
    cpus = [sum(s.cpus for s in step) for step in ours]
    memory = [sum(s.memory for s in step) for step in ours]
    first = nodes.index(0)
    if number == 0:
        cpus[first], memory[first] = cpus[first] + SUPERVISOR_CPUS, memory[first] + SUPERVISOR_MB
    gpus = config.placement.gpus if number == 0 else 0
    return Component("gpu" if number == 0 else "cpu", len(nodes), max(cpus), max(memory), gpus)


def _spots(config: Config) -> tuple[list[Spot], list[Spot]]:
    """The nodes of learner and inference, and those of rollouts and evaluators."""
    placement = config.placement
    gpus, cpus = placement.gpu_nodes, placement.cpu_nodes
    match kind(config):
        case "one_node" | "one_gpu":
            return [(0, 0)], [(0, 0)]
        case "cluster_homogeneous":
            together = [(0, n) for n in range(gpus + cpus)]
            return together[:gpus], together[gpus:] or together
        case _:
            return [(0, n) for n in range(gpus)], [(1, n) for n in range(cpus)]


def _deal(table: Sequence[Row], roles: Sequence[str], spots: Sequence[Spot], key: str) -> dict[Process, Spot]:
    """Neighbours share a node, so that learner ranks are near each other."""
    processes = [(row.role, i) for role in roles for row in table if row.role == role for i in range(row.count)]
    if len(processes) < len(spots):
        raise ValueError(f"placement row {roles[0]}: {key}={len(spots)} nodes for {len(processes)} processes; "
                         f"lower {key}")  # fmt: skip
    return {process: spots[k * len(spots) // len(processes)] for k, process in enumerate(processes)}


def _on(spot: Spot, processes: Sequence[Process], table: Sequence[Row], config: Config) -> list[Share]:
    """The steps of one node. Roles that must share its GPUs share a step, since a GPU belongs to one step."""
    by_role = {row.role: [p for p in processes if p[0] == row.role] for row in table}
    wanting = _wanting(table, by_role, config)
    number = sum(len(by_role[role]) for role in wanting)
    gpus = config.placement.gpus if spot[0] == 0 else 0
    if wanting and not gpus and any(row.device != "cpu" for row in table if row.role in wanting):
        raise ValueError(f"placement row {wanting[0]}: {wanting[0]}.device=cuda, but placement.gpus=0; raise it")
    apart = number <= gpus
    groups = [[role] for role in by_role if by_role[role] and (apart or role not in wanting)]
    groups = groups if apart or not wanting else [wanting, *groups]
    return [_share(spot, group, by_role, table, config, _gpus(group, wanting, by_role, gpus)) for group in groups]


def _wanting(table: Sequence[Row], by_role: dict[str, list[Process]], config: Config) -> list[str]:
    """The roles that get the node's GPUs: those on `cuda`, and those that draw.

    Where nobody is on `cuda`, learner and inference hold what was asked for (stand-in GPUs of a dev cluster).
    """
    here = [row for row in table if by_role[row.role]]
    heavy = [row for row in here if row.role in HEAVY]
    drawing = [row.role for row in here if row not in heavy and config.site.gl == "egl"]
    computing = [row.role for row in heavy if row.device != "cpu"]
    return (computing or [row.role for row in heavy]) + drawing if config.placement.gpus else computing


def _gpus(group: list[str], wanting: list[str], by_role: dict[str, list[Process]], gpus: int) -> int:
    if not set(group) & set(wanting):
        return 0
    return gpus if len(group) > 1 else min(gpus, len(by_role[group[0]]))


def _share(
    spot: Spot, group: list[str], by_role: dict[str, list[Process]], table: Sequence[Row], config: Config, gpus: int
) -> Share:
    threads = {row.role: row.threads for row in table}
    processes = tuple(process for role in group for process in by_role[role])
    cpus = sum(threads[role] for role, _ in processes)
    memory = sum(_memory(config, role) for role, _ in processes)
    return Share("+".join(group), *spot, processes, cpus, memory, gpus)


def _memory(config: Config, role: str) -> int:
    placement = config.placement
    given = {
        "learner": placement.learner_memory,
        "inference": placement.inference_memory,
        "world_model": placement.world_model_memory,
        "dreamer": placement.dreamer_memory,
    }
    return given.get(role, placement.rollout_memory)


def pins(share: Share, table: Sequence[Row], cpus: Sequence[int]) -> dict[Process, list[int]]:
    """CPUs of its own for each process of a step that has `cpus`; none where they do not suffice.

    >>> share = Share("rollout", 1, 0, (("rollout", 4), ("rollout", 5)), 2, 0, 0)
    >>> pins(share, [Row("rollout", 6, 1)], [8, 9])
    {('rollout', 4): [8], ('rollout', 5): [9]}
    """
    threads = {row.role: row.threads for row in table}
    if len(cpus) < sum(threads[role] for role, _ in share.processes):
        return {process: [] for process in share.processes}
    left, given = list(cpus), {}
    for process in share.processes:
        given[process], left = left[: threads[process[0]]], left[threads[process[0]] :]
    return given


def gpus_of(share: Share, gpus: Sequence[str]) -> dict[Process, list[str]]:
    """GPUs of each process of a step that sees `gpus`: one of its own, or shared in turn where there are fewer.

    >>> gpus_of(Share("inference", 0, 0, (("inference", 0), ("inference", 1)), 2, 0, 1), ["3"])
    {('inference', 0): ['3'], ('inference', 1): ['3']}
    """
    return {p: [gpus[k % len(gpus)]] if gpus else [] for k, p in enumerate(share.processes)}
