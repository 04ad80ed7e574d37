"""The one schema of every job's configuration, and the check that names a wrong key. Read `Config` first.

Hydra composes YAML into plain dictionaries (launch/compose.py); `from_dict` turns them into these records. No
Hydra here, so that every process can read the resolved `config.yaml` of its run with PyYAML alone.
"""

from __future__ import annotations

import difflib
import types
import typing
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

Plugin = dict[str, Any]  # `_target_: module.Class` and its keyword arguments


@dataclass(frozen=True)
class Algo:
    """The objective: GIPO or PPO + value loss + KL to the behaviour policy (PAPER: AcceRL, GIPO)."""

    loss: Literal["gipo", "ppo"] = "gipo"
    sigma: float = 1.0  # GIPO's width in log-ratio
    clip: float = 0.2  # PPO's clip range
    gamma: float = 0.99  # per decision
    lam: float = 0.95
    value_coef: float = 0.5
    kl_coef: float = 0.1
    entropy_coef: float = 0.0
    shuffle_advantages: bool = False  # control experiment: learning must stop when advantages are shuffled


@dataclass(frozen=True)
class Learner:
    lr: float = 1e-4
    value_lr: float = 1e-3
    warmup: int = 20  # updates
    decay: int = 0  # updates until the cosine reaches `lr_floor`; 0: constant after the warm-up
    lr_floor: float = 0.1  # share of lr
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    batch: int = 256  # decisions per update
    micro_batch: int = 64  # decisions per forward pass
    publish_every: int = 1  # updates
    max_updates: int = 1_000_000
    max_minutes: float = 1e9  # of training, over all attempts
    value_warmup: int = 0  # first updates that train the value head alone
    checkpoint_every: float = 120.0  # seconds
    keep: int = 2  # checkpoints
    ranks: int = 1  # processes that train one policy together, each with a part of the batch and of the replay
    threads: int = 1  # of each rank
    device: str = "cpu"  # with several ranks, `cuda` gives each its own GPU


@dataclass(frozen=True)
class Replay:
    capacity: int = 1_000  # segments, over all learner ranks
    samples_per_insert: float = 1.0  # trained decisions per collected decision
    slack: int = 2_048  # decisions either side may run ahead
    order: Literal["fresh", "uniform"] = "fresh"  # least used first, or shuffled passes
    max_uses: int = 0  # draws after which a segment leaves; 0: only when the replay is full
    on_resume: Literal["keep", "drop"] = "keep"


@dataclass(frozen=True)
class Inference:
    instances: int = 1
    max_batch: int = 16
    max_wait_ms: float = 5.0  # from the first queued request
    threads: int = 1
    device: str = "cpu"
    credits: int = 256  # segments on the way to the learner, over all its ranks


@dataclass(frozen=True)
class Rollout:
    processes: int = 2  # 0: all of them come by `acceerl join`
    envs: int = 8  # per process, interleaved


@dataclass(frozen=True)
class Evaluator:
    processes: int = 0  # of their own beside training; 0: evaluate before and after only
    envs: int = 4
    episodes: int = 200  # per round, spread evenly over tasks and evaluation states
    before: bool = True
    after: bool = True
    videos: int = 4  # episodes recorded by the evaluations before and after
    control: Literal["none", "blind", "deaf"] = "none"  # what a policy scores without eyes, or misinformed


@dataclass(frozen=True)
class Deadlines:
    """Seconds. The deadlines of single links stand in the link table (channels/links.py)."""

    connect: float = 60.0
    heartbeat: float = 30.0  # silent for longer: the process counts as dead and is replaced
    watchdog: float = 90.0  # an MPI thread without a beat ends its process with a stack dump
    drain: float = 60.0
    collective: float = 60.0  # a learner rank that another waits for longer is lost, and all ranks start again


@dataclass(frozen=True)
class Supervisor:
    backoff: float = 1.0  # seconds before a restart, doubled up to a minute; none after a life of 10 s or more
    crash_limit: int = 5  # crashes of one process within `crash_window` end the run
    crash_window: float = 60.0


@dataclass(frozen=True)
class Tracking:
    """Where `tracker=wandb` and `tracker=mlflow` write; empty: what the package's own environment variables say."""

    project: str = "acceerl"  # wandb's project, MLflow's experiment
    entity: str = ""  # wandb's user or team
    uri: str = ""  # of the server; MLflow also takes a folder: file:///path


@dataclass(frozen=True)
class Placement:
    """Which nodes hold which roles, and what a process may use there. Laptops need none of these numbers."""

    kind: Literal["auto", "laptop", "one_node", "cluster", "cluster_homogeneous"] = "auto"  # with launch=slurm: cluster
    gpu_nodes: int = 1  # for learner and inference
    cpu_nodes: int = 1  # for rollouts and evaluators; cluster_homogeneous: 0 puts them on the GPU nodes
    gpus: int = 1  # of each GPU node
    learner_memory: int = 4_000  # MB a process
    inference_memory: int = 3_000
    rollout_memory: int = 2_000  # evaluators too


@dataclass(frozen=True)
class Slurm:
    """One training on a cluster."""

    minutes: int = 240  # time limit of one attempt; a training that needs longer goes on in the next
    wait: bool = False  # stay, show progress and end with the training's exit code
    attempts: int = 3  # in a row that bring no new checkpoint end the training
    start: float = 60.0  # seconds in which a keeper step must report


@dataclass(frozen=True)
class Sweep:
    """`acceerl train -m launch=slurm`: one job a point."""

    objective: Literal["train.success_after", "train.success_before", "train.updates", "train.env_steps",
                       "train.decisions"] = "train.success_after"  # what is reported to the sweeper  # fmt: skip
    direction: Literal["maximize", "minimize"] = "maximize"
    parallel: int = 0  # points in Slurm's queue at once; 0: all
    strict: bool = False  # a failed point makes the exit code 1; false: only when all have failed


@dataclass(frozen=True)
class Nodes:
    """How a site calls one kind of node; empty: its default."""

    partition: str = ""
    constraint: str = ""
    qos: str = ""
    flags: list[str] = field(default_factory=list)  # further options of sbatch: ["--exclude=n7", "--licenses=a"]


@dataclass(frozen=True)
class Site:
    """What differs between clusters; one YAML a site (configs/site/example.yaml explains each)."""

    account: str = ""
    cpu: Nodes = field(default_factory=Nodes)
    gpu: Nodes = field(default_factory=Nodes)
    gres: str = "gpu"  # or gpu:a100
    setup: list[str] = field(default_factory=list)  # lines of shell before Python starts: module load ...
    mpiexec: str = ""  # of an MPI with MPICH's ABI; empty: beside Python or in PATH
    interface: str = ""  # network device for the links, as FI_TCP_IFACE
    gl: Literal["osmesa", "egl"] = "osmesa"  # how rollouts draw on GPU nodes
    het_steps: bool = True  # false: the site forbids steps in heterogeneous jobs
    requeue: bool = True  # false: a training that is interrupted submits a successor
    lead: int = 120  # seconds before the time limit at which the training is told


@dataclass(frozen=True)
class Collect:
    by: Literal["expert", "policy"] = "expert"
    expert: Plugin = field(default_factory=dict)  # the env's scripted expert, called with the env
    episodes: int = 100  # in all, spread evenly over tasks and workers
    noise: float = 0.0  # standard deviation added to some executed actions; clean ones are the labels
    noise_share: float = 1.0  # of the control steps that are disturbed
    only_successes: bool = False
    workers: int = 1
    to: str = ""  # folder of the shards; empty: data/ in the run directory
    compression: Literal["gzip", "blosc2", "none"] = "gzip"


@dataclass(frozen=True)
class Pretrain:
    what: Literal["policy"] = "policy"
    data: str = ""  # folder or file of trajectories
    steps: int = 1_000
    batch: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.01
    warmup: int = 100
    label_sigma: float = 2.0  # bins; width of the softened action labels
    shift: int = 2  # pixels of random-shift augmentation
    first_share: float = 0.33  # of the samples are first steps of episodes, the others any
    ema: float = 0.99
    threads: int = 2
    to: str = ""  # weights file; empty: policy.pt in the run directory


@dataclass(frozen=True)
class Config:
    """Everything that a job needs. Groups of the same names stand in `configs/`."""

    name: str = ""  # of the run directory; empty: date and time
    runs: str = "runs"
    resume: str = ""  # a run directory to continue
    seed: int = 0
    suite: str = "spatial"
    start: str = ""  # starting weights: a file, one of the package by name (tabletop_spatial), or empty: random ones
    json: str = ""  # where `acceerl train` writes its figures as JSON too
    schedule: Literal["async", "sync", "sync_update"] = "async"
    channels: Literal["mpi", "inline"] = "mpi"
    launch: Literal["local", "slurm"] = "local"
    tracker: Literal["none", "wandb", "mlflow"] = "none"  # beside TensorBoard, which is always written
    env: Plugin = field(default_factory=dict)
    policy: Plugin = field(default_factory=dict)
    algo: Algo = field(default_factory=Algo)
    learner: Learner = field(default_factory=Learner)
    replay: Replay = field(default_factory=Replay)
    inference: Inference = field(default_factory=Inference)
    rollout: Rollout = field(default_factory=Rollout)
    evaluator: Evaluator = field(default_factory=Evaluator)
    deadlines: Deadlines = field(default_factory=Deadlines)
    supervisor: Supervisor = field(default_factory=Supervisor)
    tracking: Tracking = field(default_factory=Tracking)
    placement: Placement = field(default_factory=Placement)
    slurm: Slurm = field(default_factory=Slurm)
    sweep: Sweep = field(default_factory=Sweep)
    site: Site = field(default_factory=Site)
    collect: Collect = field(default_factory=Collect)
    pretrain: Pretrain = field(default_factory=Pretrain)


def from_dict(data: dict[str, Any]) -> Config:
    """Validates plain data against the schema and the rules that span keys.

    Raises ValueError naming the full key, what it holds and what it may hold.
    """
    config = _record(Config, data, "")
    _check_plugins(config)
    _check_numbers(config)
    _check_schedule(config)
    _check_replay(config)
    _check_guests(config)
    _check_tracking(config)
    _check_inline(config)
    _check_ranks(config)
    _check_deadlines(config)
    _check_cluster(config)
    return config


def to_dict(record: Any) -> dict[str, Any]:
    """The inverse of `from_dict`, ready for YAML."""
    return {f.name: _plain(getattr(record, f.name)) for f in fields(record)}


def _plain(value: Any) -> Any:
    return to_dict(value) if is_dataclass(value) else value


def _record(cls: type, data: Any, at: str) -> Any:
    if not isinstance(data, dict):
        raise ValueError(f"{at.rstrip('.')} must be a group of keys, got {data!r}")
    hints = typing.get_type_hints(cls)
    for key in data:
        if key not in hints:
            raise ValueError(unknown_key(f"{at}{key}", [f"{at}{name}" for name in hints]))
    return cls(**{key: _value(hints[key], value, f"{at}{key}") for key, value in data.items()})


def unknown_key(key: str, choices: list[str]) -> str:
    close = difflib.get_close_matches(key, choices, n=1)
    hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(sorted(choices))}"
    return f"unknown configuration key {key}: {hint}"


def _value(hint: Any, value: Any, key: str) -> Any:
    if is_dataclass(hint):
        return _record(typing.cast(type, hint), value, f"{key}.")
    if typing.get_origin(hint) is Literal:
        return _choice(typing.get_args(hint), value, key)
    if typing.get_origin(hint) is list:
        return [_typed(str, text, f"{key}[{i}]") for i, text in enumerate(_typed(list, value, key))]
    if hint == Plugin or isinstance(hint, types.GenericAlias):
        return _typed(dict, value, key)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return _typed(hint, value, key)


def _choice(choices: tuple[Any, ...], value: Any, key: str) -> Any:
    if value not in choices:
        raise ValueError(f"{key}={value} is not known: choose from {', '.join(map(str, choices))}")
    return value


_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false", dict: "a group of keys",
          list: "a list of texts"}  # fmt: skip


def _typed(cls: type, value: Any, key: str) -> Any:
    if not isinstance(value, cls) or (cls is int and isinstance(value, bool)):
        raise ValueError(f"{key} must be {_NAMES.get(cls, cls.__name__)}, got {value!r}")
    return value


def _check_plugins(config: Config) -> None:
    for group in ("env", "policy", "collect.expert"):
        plugin = look_up(config, group)
        if plugin and "_target_" not in plugin:
            raise ValueError(f"{group} needs _target_: module.Class (or pick a file of configs/{group}/)")


_AT_LEAST: dict[str, float] = {
    "learner.batch": 1, "learner.micro_batch": 1, "learner.publish_every": 1, "learner.keep": 1,
    "learner.ranks": 1, "learner.threads": 1, "replay.capacity": 1, "replay.slack": 1, "inference.instances": 1,
    "inference.max_batch": 1, "inference.max_wait_ms": 0, "inference.credits": 1, "rollout.processes": 0,
    "rollout.envs": 1, "evaluator.processes": 0, "evaluator.envs": 1, "evaluator.episodes": 1,
    "collect.episodes": 1, "collect.workers": 1, "collect.noise": 0, "pretrain.steps": 1, "pretrain.batch": 1,
    "supervisor.crash_limit": 1, "seed": 0, "algo.gamma": 0, "algo.lam": 0, "learner.max_updates": 1,
    "learner.warmup": 0, "learner.decay": 0, "learner.value_warmup": 0, "replay.max_uses": 0, "evaluator.videos": 0,
    "placement.gpu_nodes": 1, "placement.cpu_nodes": 0, "placement.gpus": 0, "placement.learner_memory": 1,
    "placement.inference_memory": 1, "placement.rollout_memory": 1, "slurm.minutes": 1, "slurm.attempts": 1,
    "site.lead": 1, "sweep.parallel": 0,
}  # fmt: skip
_ABOVE_ZERO = (
    "learner.lr", "learner.value_lr", "learner.grad_clip", "learner.max_minutes", "replay.samples_per_insert",
    "algo.sigma", "pretrain.lr", "deadlines.connect", "deadlines.heartbeat", "deadlines.watchdog",
    "deadlines.collective", "slurm.start",
)  # fmt: skip


def _check_numbers(config: Config) -> None:
    for key, least in _AT_LEAST.items():
        if look_up(config, key) < least:
            raise ValueError(f"{key} must be at least {least:g}, got {look_up(config, key)}")
    for key in _ABOVE_ZERO:
        if look_up(config, key) <= 0:
            raise ValueError(f"{key} must be above 0, got {look_up(config, key)}")


def _check_replay(config: Config) -> None:
    """A pace that the replay cannot hold would leave the learner waiting for ever."""
    numbers = config.replay
    if 0 < numbers.max_uses < numbers.samples_per_insert:
        raise ValueError(
            f"replay.max_uses={numbers.max_uses} is below replay.samples_per_insert={numbers.samples_per_insert:g}: "
            "raise it, or set it to 0"
        )
    for key in ("algo.gamma", "algo.lam"):
        if look_up(config, key) > 1:
            raise ValueError(f"{key} must be at most 1, got {look_up(config, key)}")


def _check_schedule(config: Config) -> None:
    if config.schedule != "async" and config.replay.samples_per_insert != 1:
        raise ValueError(f"schedule={config.schedule} trains on each decision once: set replay.samples_per_insert=1")
    if config.schedule != "async" and config.inference.instances > 1:
        # after a fail-over one of two would wait for environments, or for its part of a turn, that the other has
        raise ValueError(f"schedule={config.schedule} takes turns with one inference: set inference.instances=1")


def _check_guests(config: Config) -> None:
    """A training without rollouts of its own needs a way for others to come."""
    if config.rollout.processes == 0 and config.channels == "inline":
        raise ValueError("rollout.processes=0 leaves the rollouts to `acceerl join`, which needs channels=mpi")
    if config.rollout.processes == 0 and config.schedule == "sync":
        raise ValueError("rollout.processes=0: schedule=sync waits for rollouts of its own; raise it")


def _check_inline(config: Config) -> None:
    """One process plays each role once."""
    for key in ("learner.ranks", "inference.instances"):
        if config.channels == "inline" and look_up(config, key) > 1:
            raise ValueError(f"channels=inline has one process: set {key}=1, or channels=mpi")


def _check_ranks(config: Config) -> None:
    """A rank without a decision of its own in a batch would only wait."""
    if config.learner.ranks > config.learner.batch:
        raise ValueError(
            f"learner.ranks={config.learner.ranks} is more than learner.batch={config.learner.batch}: lower it"
        )


def _check_deadlines(config: Config) -> None:
    """A rank that waits for another in vain must get to say so before its watchdog ends it without a name."""
    deadlines = config.deadlines
    if config.learner.ranks > 1 and deadlines.collective >= deadlines.watchdog:
        raise ValueError(
            f"deadlines.collective={deadlines.collective:g} must be below deadlines.watchdog={deadlines.watchdog:g}"
        )


def _check_cluster(config: Config) -> None:
    """What no cluster could do; what this one cannot is found out at submission."""
    if config.launch != "slurm":
        return
    if config.channels == "inline":
        raise ValueError("channels=inline is one process on this machine: use launch=local")
    kind = config.placement.kind
    if kind == "laptop":
        raise ValueError("placement=laptop is this machine: choose one_node, cluster or cluster_homogeneous")
    if kind in ("auto", "cluster") and not config.site.het_steps:
        raise ValueError(f"placement={kind} needs heterogeneous steps, which this site forbids (site.het_steps=false): "
                         "use placement=cluster_homogeneous")  # fmt: skip
    if kind in ("auto", "cluster") and not config.rollout.processes + config.evaluator.processes:
        raise ValueError("rollout.processes=0 leaves the CPU nodes of placement=cluster empty: use placement=one_node, "
                         "or cluster_homogeneous with placement.cpu_nodes=0")  # fmt: skip
    if kind in ("auto", "cluster") and not config.placement.cpu_nodes:
        raise ValueError(f"placement.cpu_nodes=0 leaves the rollouts of placement={kind} without a node: raise it")
    least = config.site.lead + 60 + config.learner.checkpoint_every  # Slurm may signal a minute early
    if 60 * config.slurm.minutes <= least:
        raise ValueError(
            f"slurm.minutes={config.slurm.minutes} is over before the first checkpoint: it must exceed "
            f"site.lead + 60 s + learner.checkpoint_every = {least:g} s"
        )


def _check_tracking(config: Config) -> None:
    if config.tracker != "none" and config.channels == "inline":
        raise ValueError(
            f"tracker={config.tracker} is the supervisor's, and channels=inline has none: use channels=mpi"
        )
    if config.tracker != "none" and not config.tracking.project:
        raise ValueError("tracking.project must not be empty")
    if config.tracker == "mlflow" and config.tracking.entity:
        raise ValueError("tracking.entity is wandb's: leave it out with tracker=mlflow")


def look_up(config: Any, key: str) -> Any:
    """`look_up(config, "learner.lr")`."""
    for part in key.split("."):
        config = getattr(config, part)
    return config
