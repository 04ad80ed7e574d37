"""Which processes share a GPU, what each needs there, and whether it fits: computed before anything is started.

Only a policy that can tell from its settings (`memory_plan`) is checked; others find out when they run.
"""

from __future__ import annotations

from typing import Any

from acceerl.config import Config
from acceerl.jobs import direct
from acceerl.jobs.build import locate
from acceerl.jobs.gpus import by_gpu
from acceerl.roles.segments import MAX_DECISIONS, longest
from acceerl.roles.segments import rows as rows_of
from acceerl.runtime.placement import limits, rows

GB = 1e9
CONTEXT = 0.5e9  # bytes that CUDA takes of each process, beside what torch may be limited to
FIXES = {
    "learner": "lower learner.micro_batch, set policy.checkpointing=true where it is not, or divide it: "
    "learner.shard=zero3 with more learner.ranks",
    "inference": "lower inference.max_batch",
    "dreamer": "lower dreamer.batch",
}


def lines(config: Config) -> list[str]:
    """What `--dry-run` prints, with what the GPU has where that is known."""
    sizes, memory = plan(config), gpu_bytes(config)
    has = f", of {memory / GB:.1f} GB" if memory else ""
    return [f"memory of {role} on its GPU{has}: {needs}" for role, needs in sizes.items()]


def check(config: Config) -> None:
    """Raises ValueError naming a process that cannot fit, what it needs, what there is, and the fix."""
    _check_count(config)
    memory = gpu_bytes(config)
    if not memory:
        return
    sizes, shares = plan(config), limits(config)
    for role in [role for role in sizes if shares[role]]:
        if sizes[role].total > shares[role] * memory:
            raise ValueError(
                _says(role, sizes[role].total, shares[role] * memory, f"placement.{role}_gpu", sizes[role])
            )
    for together in by_gpu(config).values():
        needed = sum(sizes[role].total + CONTEXT for role in together if role in sizes)
        if needed > memory:
            role = max((role for role in together if role in sizes), key=lambda role: float(sizes[role].total))
            whose = "+".join(dict.fromkeys(together))
            raise ValueError(_says(whose, needed, memory, "the GPU", sizes[role], role))


def _check_count(config: Config) -> None:
    """A GPU for each learner rank, which NCCL asks for, and none that is not there."""
    found = by_gpu(config)
    if any(roles.count("learner") > 1 for roles in found.values()):
        ranks, gpus = config.learner.ranks, sum("learner" in roles for roles in found.values())
        raise ValueError(f"placement row learner: learner.ranks={ranks} need a GPU each and get {gpus}: raise "
                         "placement.gpus or placement.gpu_nodes, or lower learner.ranks")  # fmt: skip
    if config.launch != "local" or not found:
        return
    import torch

    last, there = max(found, key=int), torch.cuda.device_count()
    if int(last) >= there:
        raise ValueError(
            f"placement row {'+'.join(found[last])}: needs GPU {last}, counted from 0, but "
            f"torch {torch.__version__} sees {there} here: lower learner.ranks, or choose another device"
        )


def _says(whose: str, needed: float, memory: float, what: str, needs: Any, role: str = "") -> str:
    fix = FIXES[role or whose] + (", or set weights=host" if getattr(needs, "copies", 0) else "")
    apart = ", or give each a GPU of its own" if "+" in whose else ""
    return f"placement row {whose}: needs {needed / GB:.1f} GB, {what} allows {memory / GB:.1f} GB: {fix}{apart}"


def plan(config: Config) -> dict[str, Any]:
    """Bytes of each role that computes on a GPU, by the policy's own plan; empty where it has none."""
    present = {row.role for row in rows(config) if row.device != "cpu"} & FIXES.keys()
    if not present or not config.policy:
        return {}
    tell = getattr(locate(config.policy["_target_"]), "memory_plan", None)
    if tell is None:
        return {}
    cameras = max(1, len(config.env.get("cameras", ())))
    learner = config.learner
    own: dict[str, Any] = {"ranks": learner.ranks, "shard": learner.shard}
    if direct.between_gpus(config):
        own["copies"] = direct.COPIES
    own["learner_rows"] = rows_of(max(1, learner.micro_batch), longest_segment(config))
    serving = {"inference": config.inference.max_batch, "dreamer": config.dreamer.batch}
    found = {role: tell(config.policy, cameras, serving_rows=batch, **own) for role, batch in serving.items()}
    sizes = {"learner": found["inference"]["learner"]} | {role: found[role]["inference"] for role in serving}
    return {role: sizes[role] for role in FIXES if role in present}


def longest_segment(config: Config) -> int:
    """Decisions of a segment: of an environment that cannot tell the longest episode, the most that there are."""
    tell = getattr(locate(config.env["_target_"]), "longest_episode", None) if config.env else None
    own = {key: value for key, value in config.env.items() if key != "_target_"}
    return MAX_DECISIONS if tell is None else longest(tell(**own), config.policy["chunk"])


def gpu_bytes(config: Config) -> float:
    """Of each GPU: `site.gpu_memory`, else what is visible here; 0 where nobody can know."""
    if config.site.gpu_memory or config.launch != "local" or not any(row.device != "cpu" for row in rows(config)):
        return config.site.gpu_memory * GB
    import torch

    count = torch.cuda.device_count()
    return float(min((torch.cuda.get_device_properties(i).total_memory for i in range(count)), default=0))


def limit(config: Config, role: str) -> None:
    """Keeps this process to its share of the GPU's memory, where the placement says one."""
    share = limits(config).get(role, 0.0)
    device = {row.role: row.device for row in rows(config)}.get(role, "cpu")
    if not share or device == "cpu":
        return
    import torch

    torch.cuda.set_per_process_memory_fraction(share, torch.device(device).index or 0)
