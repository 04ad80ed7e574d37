"""`acceerl evaluate evaluator.by=expert`: how often the scripted expert solves each task. One process, no policy.

Nothing is rendered except for videos, so with `env.cameras=[]` an episode of LIBERO takes seconds.
"""

from __future__ import annotations

import time

import numpy as np
from rich.console import Console
from rich.progress import track

from acceerl.config import Config
from acceerl.jobs.build import make_env, make_expert
from acceerl.jobs.shares import assignment
from acceerl.jobs.success import overall, write_table, write_video
from acceerl.protocols import Env, Expert
from acceerl.roles.tasks import evaluation_plan
from acceerl.runtime.rundir import Run
from acceerl.types import Assignment, EnvSpec, EpisodeResult

Frames = list[dict[str, np.ndarray]]


def run(config: Config, run: Run) -> int:
    """Plays the evaluation states, or training ones, and prints the table; writes it and videos as for a policy."""
    env = make_env(config)
    try:
        expert, results = make_expert(config, env), []
        for now in track(plan(config, env.spec), "evaluating", console=Console(stderr=True), transient=True):
            frames: Frames = []
            results.append(play(env, expert, now, frames))
            if frames:
                outcome = "success" if results[-1].success else "failure"
                path = run.videos / f"expert-task{now.task}-state{now.init_state}-{outcome}.mp4"
                write_video(path, frames, instruction=env.spec.instructions[now.task], outcome=outcome)
        write_table(results, env.spec.instructions, run.path / "evaluation" / "expert.json")
    finally:
        env.close()
    print(f"success {100 * overall(results):.1f} %")
    return 0


def plan(config: Config, spec: EnvSpec) -> list[Assignment]:
    """The episodes, task by task, so that a simulator of many scenes changes them seldom."""
    wanted, filmed = config.evaluator.episodes, config.evaluator.videos if spec.cameras else 0
    if config.evaluator.states == "training":
        tries = [(i % spec.n_tasks, i // spec.n_tasks, i < filmed) for i in range(wanted)]
        drawn = [(assignment(spec, config.seed, task, k), film) for task, k, film in tries]
        episodes = [Assignment(a.task, a.init_state, a.seed, film) for a, film in drawn]
    else:
        episodes = evaluation_plan(spec, wanted, filmed)
    return sorted(episodes, key=lambda a: a.task)


def play(env: Env, expert: Expert, now: Assignment, frames: Frames) -> EpisodeResult:
    """One episode; `frames` takes its pictures when the assignment is to be recorded."""
    began = time.monotonic()
    env.reset(now.task, now.init_state, now.seed)
    expert.reset()
    steps, ended = 0, False
    while not ended:
        if now.record:
            frames.append(env.observe().images)
        result = env.step(expert.act())
        steps, ended = steps + 1, result.terminated or result.truncated
    if now.record:
        frames.append(env.observe().images)
    return EpisodeResult(now.task, now.init_state, env.success, steps, 0, time.monotonic() - began)
