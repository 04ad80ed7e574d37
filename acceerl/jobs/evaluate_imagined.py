"""`acceerl evaluate in=world_model`: success inside the dream beside real success, of one policy or several."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from acceerl.config import Config
from acceerl.jobs.build import make_env, make_policy
from acceerl.jobs.evaluate import play
from acceerl.jobs.success import overall
from acceerl.jobs.world_parts import make_world
from acceerl.protocols import Env, Policy, WorldSpec
from acceerl.roles.tasks import evaluation_plan
from acceerl.runtime.rundir import Run
from acceerl.types import Assignment
from acceerl.world_models.imagined import Imagination, Start

BATCH = 64


def run(config: Config, run: Run) -> int:
    """Plays the evaluation states greedily in the world model and in the env, and prints both for each policy."""
    if not config.world.start:
        raise ValueError("world.start is empty: give the file that `acceerl pretrain world_model` wrote")
    torch.set_num_threads(config.inference.threads)
    envs = [make_env(config) for _ in range(config.evaluator.envs)]
    try:
        rows = _rows(config, envs)
    finally:
        for env in envs:
            env.close()
    correlation = pearson([row["imagined"] for row in rows], [row["real"] for row in rows])
    _print(rows, correlation)
    path = run.path / "evaluation" / "imagined.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"policies": rows, "pearson": correlation}, indent=1) + "\n")
    return 0


def _rows(config: Config, envs: list[Env]) -> list[dict[str, Any]]:
    spec, numbers = envs[0].spec, config.dreamer
    world, success = make_world(config, spec, device=numbers.device)
    imagination = Imagination(world, success, spec, numbers.threshold, numbers.doubt)
    starts = first_frames(envs[0], evaluation_plan(spec, config.evaluator.episodes), world.spec)
    rows: list[dict[str, Any]] = []
    for where in config.evaluator.policies or [config.start]:
        policy = make_policy(config, spec, where, config.inference.device)
        imagined, steps = dreamt(imagination, policy, starts)
        real = play(policy, envs, config)
        rows.append({"policy": where or "fresh weights", "imagined": float(imagined.mean()), "real": overall(real),
                     "imagined_steps": float(steps.mean()), "real_steps": float(np.mean([r.steps for r in real])),
                     "episodes": len(starts)})  # fmt: skip
        print(f"{where}: imagined {100 * imagined.mean():.1f} %, real {100 * overall(real):.1f} %", flush=True)
    return rows


def first_frames(env: Env, plan: Sequence[Assignment], spec: WorldSpec) -> list[Start]:
    """The real first frame of each episode, repeated as far as the world model looks back."""
    k, starts = spec.context, []
    for assignment in plan:
        env.reset(assignment.task, assignment.init_state, assignment.seed)
        seen = env.observe()
        starts.append(
            Start(
                {c: np.repeat(seen.images[c][None], k, axis=0) for c in spec.cameras},
                np.repeat(seen.proprio[None], k, axis=0),
                np.zeros((k - 1, spec.stride, spec.action_dim), np.float32),
                assignment,
                seen.instruction,
            )
        )
    return starts


def dreamt(imagination: Imagination, policy: Policy, starts: Sequence[Start]) -> tuple[np.ndarray, np.ndarray]:
    """Plays whole episodes greedily in imagination: success bool [N], and control steps int64 [N]."""
    won, steps = [], []
    for i in range(0, len(starts), BATCH):
        imagination.reset(starts[i : i + BATCH])
        while not imagination.over.all():
            imagination.step(policy.act(imagination.observe(), True).actions)
        won.append(imagination.succeeded)
        steps.append(imagination.steps)
    return np.concatenate(won), np.concatenate(steps)


def pearson(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Pearson's correlation; None for fewer than three pairs, or where one side does not vary.

    >>> pearson([0.1, 0.5, 0.9], [0.2, 0.4, 0.6])
    1.0
    """
    if len(a) < 3 or min(np.ptp(a), np.ptp(b)) == 0:
        return None
    return round(float(np.corrcoef(a, b)[0, 1]), 6)


def _print(rows: Sequence[dict[str, Any]], correlation: float | None) -> None:
    width = max(len(str(row["policy"])) for row in rows)
    print(f"{'policy':<{width}}  imagined    real  imagined steps  real steps")
    for row in rows:
        print(f"{row['policy']:<{width}}  {row['imagined']:>8.1%}  {row['real']:>6.1%}  {row['imagined_steps']:>14.1f}"
              f"  {row['real_steps']:>10.1f}")  # fmt: skip
    if correlation is not None:
        print(f"Pearson correlation of imagined and real success over {len(rows)} policies: {correlation:.3f}")
