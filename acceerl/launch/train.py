"""`acceerl train` from configuration to last line: make or reopen the run, score, train, score again."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from acceerl.channels.links import LINKS
from acceerl.config import Config
from acceerl.jobs import direct, gpu_memory, host_memory
from acceerl.jobs.build import check_compiled, env_spec, make_policy, read_spec, release, write_spec
from acceerl.launch.compose import compose, override
from acceerl.launch.leader import ENDED, QUEUED, SignsOfLife, refuse_led, sole_leader
from acceerl.launch.progress import LastLine, LogLines, TerminalLine, Totals
from acceerl.launch.supervisor import HERE, Place, supervise
from acceerl.runtime import placement, trackers
from acceerl.runtime.jsonfile import json_file
from acceerl.runtime.mpiexec import find_mpiexec
from acceerl.runtime.rundir import Run
from acceerl.runtime.stop import DONE, STOPPED, StopFlag

REQUEUED_S = 120.0  # seconds that an attempt may wait for the lock of the one before it, whose node was lost


def prepare(job: str, overrides: Sequence[str]) -> tuple[Config, Run | None]:
    """The configuration, and with `resume=RUN` the run that it continues (whose own configuration it then is).

    Raises FileNotFoundError for a run that is not there, ValueError for one that still runs or waits in a queue.
    """
    resumed = [text.removeprefix("resume=") for text in overrides if text.startswith("resume=")]
    if not resumed:
        return compose(job, overrides), None
    if not resumed[-1]:
        raise ValueError("resume= names no run: give its directory, or leave it out to start a new one")
    run = Run.open(resumed[-1])
    refuse_led(run)
    if run.status().get("state") == QUEUED:
        from acceerl.launch.slurm import refuse_queued  # loads submitit

        refuse_queued(run)
    return override(run.config(), [text for text in overrides if not text.startswith("resume=")]), run


def open_run(config: Config, resumed: Run | None) -> Run:
    """The run directory, new or continued, with its configuration written."""
    run = resumed or Run.create(config)
    if resumed:
        run.write_config(config)
    print(f"run directory: {_short(run.path)}", flush=True)
    return run


def start(config: Config, resumed: Run | None = None) -> int:
    """`acceerl train`: here, or with launch=slurm as a job (then 0 says that it is submitted)."""
    _refuse_gpus(config)
    if config.launch == "local":
        _refuse_cluster(config)
        return train(config, resumed)
    from acceerl.launch import slurm  # loads submitit

    trackers.check(config)
    slurm.check(config)
    slurm.warn(config)
    run = resumed or Run.create(config)
    with run.given_back_unless_begun():
        return slurm.train(config, open_run(config, run))


def train(config: Config, resumed: Run | None = None, place: Place = HERE, stop: StopFlag | None = None) -> int:
    """Returns 0 when the training is done, 75 when it was asked to stop (resume=RUN continues), 1 after a crash.

    `place` is where its processes run; `stop` takes the place of signal handlers of its own.
    """
    placement.rows(config)  # refuse what cannot work before anything is made
    trackers.check(config)
    if config.json:
        json_file(config.json)
    if config.channels == "mpi" or (config.channels == "world" and config.launch == "local"):
        find_mpiexec(config.site.mpiexec)
    run = resumed or Run.create(config)
    patience = 0.0 if place is HERE else REQUEUED_S
    with sole_leader(run, patience), run.given_back_unless_begun():
        return _lead(config, open_run(config, run), place, stop)


def _refuse_gpus(config: Config) -> None:
    """What no GPU or node could hold, compile, or send to another one."""
    gpu_memory.check(config)
    host_memory.check(config)
    check_compiled(config)
    direct.between_gpus(config)


def _refuse_cluster(config: Config) -> None:
    kind = config.placement.kind
    if kind not in ("auto", "laptop", "one_gpu"):
        raise ValueError(f"placement={kind} is for a cluster: add launch=slurm, or use placement=laptop")


def _lead(config: Config, run: Run, place: Place, stop: StopFlag | None) -> int:
    """From the first score to the last; status.json tells of each step."""
    _prepare(config, run)
    code = _serial(config, run) if config.channels == "inline" else _supervised(config, run, place, stop)
    if code == STOPPED:
        print(f"stopped; to continue: acceerl train resume={_short(run.path)}", flush=True)
    if code != DONE:
        return code
    if config.evaluator.after:
        with _told_to_leave() as leave, SignsOfLife(run, "scoring", "the policy after RL", ends_as="done"):
            _score_once(config, run, "after", run.weights, leave)
    _write_figures(config, run)
    print(last_line(run), flush=True)
    return DONE


def _prepare(config: Config, run: Run) -> None:
    """What can be refused in one line is found out here, before any process starts."""
    with _told_to_leave() as leave, SignsOfLife(run, "starting", attempt=run.attempt + 1) as signs:
        write_spec(run, env_spec(config))
        if config.evaluator.before:
            signs.now("scoring", "the policy before RL")
            _score_once(config, run, "before", None, leave)
        else:
            _check_start(config, run)
        leave()


def describe(config: Config) -> str:
    """What `--dry-run` prints: processes and the links between them. Raises ValueError for what no GPU can hold."""
    _refuse_gpus(config)
    roles = placement.processes(config)
    rows = [(link, _present(link.senders, roles), _present(link.receivers, roles)) for link in LINKS.values()]
    lines = [f"{link.name:<15} {a} -> {b}  (when full: {link.when_full})" for link, a, b in rows if a and b]
    head = f"{config.schedule} training of {config.suite}, channels={config.channels}, launch={config.launch}"
    lines = [head, "", placement.table(config), *gpu_memory.lines(config), *host_memory.lines(config), "", *lines]
    if config.launch == "slurm":
        from acceerl.launch import slurm  # loads submitit

        lines += ["", slurm.describe(config)]
    return "\n".join(lines)


def _present(ends: Sequence[str], roles: Container[str]) -> str:
    return "+".join(role for role in ends if role in roles)


def last_line(run: Run) -> str:
    """`success before RL 52.0 %, after RL 71.5 %`, from what this run and its earlier attempts have measured."""
    scores = run.scores()
    parts = [f"{label} RL {100 * scores[label]:.1f} %" for label in ("before", "after") if label in scores]
    return f"success {', '.join(parts)}" if parts else f"trained; the weights: {_short(run.weights)}"


def _check_start(config: Config, run: Run) -> None:
    """Makes the policy once: weights that do not fit end here, in one line, not in a process that restarts."""
    if config.start or config.policy.get("checkpoint"):
        make_policy(config, read_spec(run))
        release("cpu")


def _score_once(config: Config, run: Run, label: str, weights: Path | None, leave: Callable[[], None]) -> None:
    """Measures a score unless an earlier attempt of the run did; `after` belongs to the weights, so it is anew."""
    from acceerl.jobs.evaluate import score  # loads torch

    if label not in run.scores() or label == "after":
        run.write_score(label, score(config, run, weights, label, leave))


def _supervised(config: Config, run: Run, place: Place, stop: StopFlag | None) -> int:
    with TerminalLine() if sys.stderr.isatty() else LogLines() as show:
        return supervise(run, config, show, stop=stop, place=place)


def _serial(config: Config, run: Run) -> int:
    from acceerl.jobs import serial

    totals = Totals(run.status().get("counters", {}))
    with SignsOfLife(run, "running", attempt=run.begin_attempt(), began=time.time()) as signs:
        code = serial.run(config, run, StopFlag().install())
        totals.take({(role, 0): LastLine(run.metrics(role, 0)) for role in ("learner", "inference", "rollout")})
        signs.status["counters"] = totals.counters()
        signs.ends_as = next((state for state, number in ENDED.items() if number == code), "failed")
    return code


def _write_figures(config: Config, run: Run) -> None:
    if config.json:
        Path(config.json).write_text(json.dumps({"job": "train", "figures": figures(run)}, indent=1) + "\n")


def figures(run: Run) -> dict[str, float]:
    """Scores and counters of a run, flat: what `json=PATH` writes, and what a sweep may ask for."""
    scores = {f"train.success_{label}": value for label, value in run.scores().items()}
    return scores | {f"train.{name}": value for name, value in run.status().get("counters", {}).items()}


@contextmanager
def _told_to_leave() -> Iterator[Callable[[], None]]:
    """Between the scores nothing needs saving: yields what raises SystemExit(75) once a signal has come.

    Not from the handler: an exception raised in there is lost where Python happens to run a callback. Only the second
    signal is that impatient.
    """
    told = StopFlag()

    def hear(number: int, _frame: FrameType | None) -> None:
        if told.is_set():
            raise SystemExit(STOPPED)
        print(f"acceerl: {signal.Signals(number).name}: leaving", file=sys.stderr, flush=True)
        told.set(signal.Signals(number).name)

    def leave() -> None:
        if told.is_set():
            raise SystemExit(STOPPED)

    before = {number: signal.signal(number, hear) for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)}
    try:
        yield leave
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _short(path: Path) -> str:
    """Relative to where the user stands, when it is below."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
