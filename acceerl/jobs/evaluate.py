"""`acceerl evaluate`: greedy episodes on the fixed evaluation states, a success table, videos. Runs in one process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from acceerl.channels.inline import Hub
from acceerl.config import Config
from acceerl.envs.controls import CONTROLS
from acceerl.jobs.build import make_env, make_policy, refuse_unasked, release
from acceerl.jobs.success import overall, write_table, write_video
from acceerl.protocols import Env, Meter, Policy
from acceerl.roles.drive import take_turns
from acceerl.roles.inference import Inference, Pace
from acceerl.roles.rollout import rollout
from acceerl.roles.tasks import EvaluationTasks
from acceerl.runtime.metrics import NullMeter
from acceerl.runtime.rundir import Run
from acceerl.types import EnvSpec, EpisodeResult, Segment


def run(config: Config, run: Run) -> int:
    """Scores `config.start`, or the scripted expert, and prints the table."""
    if config.evaluator.by == "expert":
        from acceerl.jobs import evaluate_expert

        return evaluate_expert.run(config, run)
    if not config.evaluator.policies:
        refuse_unasked(config, "acceerl evaluate")
    if config.evaluator.inside == "world_model":
        from acceerl.jobs import evaluate_imagined

        return evaluate_imagined.run(config, run)
    print(f"success {100 * score(config, run, None, 'evaluate'):.1f} %")
    return 0


def score(
    config: Config, run: Run, weights: str | Path | None, label: str, leave: Callable[[], None] = lambda: None
) -> float:
    """Success rate (0 to 1) of `weights` (None: `config.start`) over `config.evaluator.episodes` episodes.

    `leave` is called between steps, and raises when it is time to go.

    Writes RUN/evaluation/LABEL.json and RUN/videos/LABEL-*.mp4, and prints the success table.
    """
    import torch

    if config.evaluator.by == "expert" or config.evaluator.states == "training":
        raise ValueError("evaluator.by=expert is for acceerl evaluate, and evaluator.states=training for that expert")
    torch.set_num_threads(config.inference.threads)
    envs = [CONTROLS[config.evaluator.control](make_env(config)) for _ in range(config.evaluator.envs)]
    try:
        policy = make_policy(config, envs[0].spec, weights, config.inference.device)
        film = Film(run.videos, label)
        results = play(policy, envs, config, film, leave)
        del policy
        release(config.inference.device)  # a training may follow on it
        instructions = envs[0].spec.instructions
    finally:
        for env in envs:
            env.close()
    write_table(results, instructions, run.path / "evaluation" / f"{label}.json")
    return overall(results)


def play(
    policy: Policy, envs: list[Env], config: Config, film: Film | None = None, leave: Callable[[], None] = lambda: None
) -> list[EpisodeResult]:
    """Plays the evaluation episodes greedily with the ordinary rollout and inference roles, stepped in turn."""
    hub, meter = Hub(), NullMeter()
    done: list[EpisodeResult] = []
    tasks = EvaluationTasks(
        envs[0].spec,
        config.evaluator.episodes,
        finished=lambda _, results: done.extend(results),
        videos=config.evaluator.videos if film else 0,
        segment_seen=film.see if film else None,
    )
    tasks.swapped(0)
    serving = hub.ends("inference").serving()
    pace = Pace(max_batch=len(envs), lockstep=False)
    inference = Inference(policy, serving, tasks, pace, meter, version=0)
    loops = [rollout(envs, hub.ends("evaluator").requests(), meter), inference.run()]

    def over() -> bool:
        leave()
        return bool(done)

    take_turns(loops, until=over)
    return done


class Film:
    """Writes a video of each recorded episode that passes by."""

    def __init__(self, folder: Path, label: str) -> None:
        self.folder, self.label = folder, label
        self.kept: dict[int, list[Segment]] = {}

    def see(self, segment: Segment) -> None:
        if not segment.frames:
            return
        parts = self.kept.setdefault(segment.episode, [])
        parts.append(segment)
        if segment.terminated or segment.truncated:
            self._write(self.kept.pop(segment.episode))

    def _write(self, parts: list[Segment]) -> None:
        last = parts[-1]
        a, outcome = last.assignment, "success" if last.terminated else "failure"
        path = self.folder / f"{self.label}-task{a.task}-state{a.init_state}-{outcome}.mp4"
        write_video(path, _frames(parts), instruction=last.instruction, outcome=outcome)


def _frames(parts: list[Segment]) -> list[dict[str, np.ndarray]]:
    """Executed frames of an episode in order, one dictionary of cameras each; the opening observation first."""
    opening = {camera: images[0] for camera, images in parts[0].images.items()}
    return [opening] + [
        {camera: frames[t, c] for camera, frames in part.frames.items()}
        for part in parts
        for t in range(len(part))
        for c in range(part.executed[t])
    ]


class EvaluationLog:
    """Keeps the rounds that evaluators play beside a training: one table a version, one event in the metrics."""

    def __init__(self, run: Run, spec: EnvSpec, meter: Meter) -> None:
        self.run, self.spec, self.meter = run, spec, meter

    def finished(self, version: int, results: list[EpisodeResult]) -> None:
        write_table(results, self.spec.instructions, self.run.path / "evaluation" / f"version-{version:08d}.json")
        self.meter.gauge("evaluation_success", overall(results))
        self.meter.event("evaluation", version=version, success=overall(results), episodes=len(results))
