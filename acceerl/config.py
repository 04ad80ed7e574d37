"""The one schema of every job's configuration. Read `Config` first.

Hydra composes YAML into plain dictionaries (launch/compose.py); `from_dict` turns them into these records. What a key
may hold beyond its type stands in config_checks.py. No Hydra here, so that every process can read the resolved
`config.yaml` of its run with PyYAML alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Annotated, Any, Literal

from acceerl.config_checks import check
from acceerl.config_reading import read

Plugin = dict[str, Any]  # `_target_: module.Class` and its keyword arguments
Found = Annotated[int, "auto"]  # `auto`, which is 0: found out on the machine


@dataclass(frozen=True)
class Algo:
    """The objective: GIPO or PPO + value loss + KL to the behaviour policy (PAPER: AcceRL, GIPO)."""

    loss: Literal["gipo", "ppo"] = "gipo"
    sigma: float = 1.0  # GIPO's width in log-ratio
    clip: float = 0.2  # PPO's clip range
    gamma: float = 0.99  # per decision
    lam: float = 0.95
    truncation: Literal["bootstrap", "failure"] = "bootstrap"  # after a step limit: as if the task went on, or nothing
    value_coef: float = 0.5
    kl_coef: float = 0.1
    entropy_coef: float = 0.0
    normalise: Literal["lagged", "batch"] = "lagged"  # advantages by the update before, or by a pass of their own
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
    micro_batch: Found = 64  # decisions per forward pass; auto: as many as fit into memory, by doubling
    publish_every: int = 1  # updates
    max_updates: int = 1_000_000
    max_minutes: float = 1e9  # of training, over all attempts
    value_warmup: int = 0  # first updates that train the value head alone
    checkpoint_every: float = 120.0  # seconds
    keep: int = 2  # checkpoints
    ranks: int = 1  # processes that train one policy together, each with a part of the batch and of the replay
    shard: Literal["none", "zero2", "zero3"] = "none"  # ranks divide optimiser and gradients; zero3: weights too
    compile: bool = False  # the policy's blocks, by torch.compile: minutes at the start
    threads: int = 1  # of each rank
    device: str = "cpu"  # with several ranks, `cuda` gives each its own GPU


@dataclass(frozen=True)
class Replay:
    capacity: int = 1_000  # segments, over all learner ranks
    samples_per_insert: float = 1.0  # trained decisions per collected decision
    slack: int = 2_048  # decisions either side may run ahead
    order: Literal["fresh", "uniform"] = "fresh"  # least used first, or shuffled passes
    imagined_fraction: float = 1.0  # of a batch that comes from dreams, where a world_model is chosen
    imagined_until: int = 0  # environment steps after which dreams end and batches are real; 0: they never do
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
class World:
    """The world_model role: trains the world and the success model beside the policy (with world_model=none nobody)."""

    start: str = ""  # weights of both, as `acceerl pretrain world_model` writes them
    data: str = ""  # recorded trajectories that it goes on training on; they give contexts to dream from too
    recorded_share: float = 0.5  # of training batches and of contexts, where there are recorded and live episodes
    memory: int = 200  # live episodes
    updates_per_episode: float = 1.0  # of both models, for each live episode
    body_updates: int = 12  # of the law of the body alone, for each of those; 20 ms each
    success_updates: int = 0  # of the success model alone, for each of those; a fifth of the time of both
    max_updates: int = 1_000_000  # 0: both models stay as they were pretrained
    batch: int = 32
    lr: float = 1e-4
    weight_decay: float = 0.01
    publish_every: int = 20  # updates
    record_share: float = 0.5  # of live episodes that are seen at every control step, for models with shorter ticks
    threads: int = 1
    device: str = "cpu"


@dataclass(frozen=True)
class Dreamer:
    """The dreamer role: lets the policy practise inside the world model."""

    processes: int = 1
    batch: int = 64  # dreams at a time
    horizon: int = 8  # decisions of a dream
    threshold: float = 0.0  # probability of success that ends a dream; 0: the one that pretraining chose
    doubt: float = 1.0  # standard deviations of the success ensemble that are taken off its mean
    reward: Literal["potential", "success"] = "potential"  # change of the probability of success, or 1 at a success
    first_share: float = 0.5  # of dreams that begin where an episode begins, others at any decision
    check_every: float = 60.0  # seconds between two comparisons of imagined and real success
    max_gap: float = 0.0  # of them, above which dreams get shorter; 0: they never do
    max_owed: float = 0.0  # updates (world.updates_per_episode) that the world model may be behind; else dreams wait
    credits: int = 128  # dreams on the way to each learner rank
    threads: int = 1
    device: str = "cpu"


@dataclass(frozen=True)
class Rollout:
    processes: int = 2  # 0: all of them come by `acceerl join`
    envs: int = 8  # per process, interleaved
    stint: int = 1  # episodes in a row that an environment plays of a task; more where changing the task is slow


@dataclass(frozen=True)
class Evaluator:
    processes: int = 0  # of their own beside training; 0: evaluate before and after only
    envs: int = 4
    episodes: int = 200  # per round, spread evenly over tasks and evaluation states
    every: float = 0.0  # seconds between the beginnings of two rounds beside training; 0: one after the other
    before: bool = True
    after: bool = True
    videos: int = 4  # episodes recorded by the evaluations before and after
    inside: Literal["env", "world_model"] = "env"  # `acceerl evaluate in=world_model` plays in both and compares
    policies: list[str] = field(default_factory=list)  # with in=world_model: several to compare; empty: `start`
    by: Literal["policy", "expert"] = "policy"  # of `acceerl evaluate`: `start`, or the env's scripted expert
    states: Literal["evaluation", "training"] = "evaluation"  # training: for the expert only
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

    kind: Literal["auto", "laptop", "one_gpu", "one_node", "cluster", "cluster_homogeneous"] = "auto"  # Slurm: cluster
    gpu_nodes: int = 1  # for learner and inference
    cpu_nodes: int = 1  # for rollouts and evaluators; cluster_homogeneous: 0 puts them on the GPU nodes
    gpus: int = 1  # of each GPU node
    learner_memory: int = 4_000  # MB a process
    inference_memory: int = 3_000
    rollout_memory: int = 2_000  # evaluators too
    world_model_memory: int = 6_000  # its episodes beside the models
    dreamer_memory: int = 3_000
    learner_gpu: float = 0.0  # share of its GPU's memory that a process may take; 0: no limit
    inference_gpu: float = 0.0
    world_model_gpu: float = 0.0
    dreamer_gpu: float = 0.0


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
    gpu_memory: float = 0.0  # GB of each GPU, so that what cannot fit is refused; 0: what this machine shows
    setup: list[str] = field(default_factory=list)  # lines of shell before Python starts: module load ...
    mpiexec: str = ""  # of an MPI with MPICH's ABI; empty: beside Python or in PATH
    pmi: str = "pmi2"  # channels=world: what srun calls the way in which the site's MPI starts (srun --mpi=list)
    interface: str = ""  # network device for the links, as FI_TCP_IFACE
    gl: Literal["osmesa", "egl"] = "osmesa"  # how rollouts draw on GPU nodes
    het_steps: bool = True  # false: the site forbids steps in heterogeneous jobs
    requeue: bool = True  # false: a training that is interrupted submits a successor
    lead: int = 120  # seconds before the time limit at which the training is told


@dataclass(frozen=True)
class Collect:
    by: Literal["expert", "policy"] = "expert"
    expert: Plugin = field(default_factory=dict)  # the env's scripted expert, called with the env
    tasks: list[int] = field(default_factory=list)  # by number; empty: all of the suite
    episodes: int = 100  # played in all, spread evenly over tasks and workers
    successes: int = 0  # episodes wanted of each task; with any of these two, `episodes` counts no more
    failures: int = 0
    tries: int = 20  # episodes played for each that is wanted, before a task is given up
    noise: float = 0.0  # standard deviation added to some executed actions; clean ones are the labels
    noise_share: float = 1.0  # of the control steps that are disturbed
    fumbles: float = 0.0  # share of the control steps, in stretches of 4 to 12, at which the gripper does the opposite
    blind: float = 0.0  # share of the episodes in which the actor rehearses, maybe elsewhere, and plays that unseeing
    misses: float = 0.0  # share of the grips and of the releases before which a blindfolded hand is led aside
    only_successes: bool = False  # of `episodes`
    workers: int = 1
    part: int = 0  # of `parts`: jobs that fill one folder together, as with -m collect.part=0,1,2,3 collect.parts=4
    parts: int = 1
    to: str = ""  # folder of the shards; empty: data/ in the run directory
    compression: Literal["gzip", "blosc2", "none"] = "gzip"


@dataclass(frozen=True)
class Pretrain:
    what: Literal["policy", "world_model"] = "policy"
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
    held_out: float = 0.1  # world_model: share of the episodes that it is judged by and never trained on
    ranks: int = 1  # world_model: processes on this machine that train it together, each with a part of the batch
    body_steps: int = 2_000  # world_model: updates of the law of its body alone, before any picture; 30 ms each
    success_steps: int = 500  # world_model: updates of the success model alone, on true ticks; 0.5 s each
    ticks: int = 1  # world_model: of a window, beyond its context; later ones follow the model's own frames
    threads: int = 2
    device: str = "cpu"  # policy: where it is imitated; world_model: see world.device
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
    channels: Literal["mpi", "world", "inline"] = "mpi"  # MPI ports, one MPI_COMM_WORLD, or one process
    weights: Literal["auto", "host", "nccl"] = "auto"  # the policy's way to its readers; auto: nccl above 500 MB
    launch: Literal["local", "slurm"] = "local"
    tracker: Literal["none", "wandb", "mlflow"] = "none"  # beside TensorBoard, which is always written
    choices: dict[str, str] = field(default_factory=dict)  # of the groups, noted by the composition, not to be set
    env: Plugin = field(default_factory=dict)
    policy: Plugin = field(default_factory=dict)
    world_model: Plugin = field(default_factory=dict)  # empty: none, the policy learns from real episodes alone
    success_model: Plugin = field(default_factory=dict)
    algo: Algo = field(default_factory=Algo)
    learner: Learner = field(default_factory=Learner)
    replay: Replay = field(default_factory=Replay)
    inference: Inference = field(default_factory=Inference)
    rollout: Rollout = field(default_factory=Rollout)
    evaluator: Evaluator = field(default_factory=Evaluator)
    world: World = field(default_factory=World)
    dreamer: Dreamer = field(default_factory=Dreamer)
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
    config: Config = read(Config, data)
    check(config)
    return config


def to_dict(record: Any) -> dict[str, Any]:
    """The inverse of `from_dict`, ready for YAML."""
    return {f.name: _plain(getattr(record, f.name)) for f in fields(record)}


def _plain(value: Any) -> Any:
    return to_dict(value) if is_dataclass(value) else value
