"""Experiment trackers beside TensorBoard: `tracker=wandb` or `tracker=mlflow`. The supervisor alone writes to them.

A tracker talks to a network, so it lives in a thread of its own behind a bounded queue: when it is slow or gone,
points are dropped and counted, and the training notices nothing.
"""

from __future__ import annotations

import importlib
import math
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from acceerl.config import Config, to_dict
from acceerl.runtime.rundir import Run, read_json, replace_json

QUEUE = 256  # points (one every ten seconds) that may wait for the tracker
CLOSE_S = 15.0  # seconds that a tracker gets to send what is queued when the run ends
PATIENCE_S = 10.0  # for wandb to open or finish a run; its own exit handler waits as long for a server that is gone
PARAM_CHARS, PARAMS_A_CALL = 500, 100  # MLflow's limits


class Tracker(Protocol):
    """What a tracker must do; every call may block or raise."""

    def begin(self) -> str:
        """Opens the run, or the one that an earlier attempt began; returns where to look at it."""
        ...

    def log(self, values: Mapping[str, float], step: int, when: float) -> None: ...

    def finish(self, state: str) -> None: ...


class Wandb:
    def __init__(self, run: Run, config: Config) -> None:
        self._wandb = importlib.import_module("wandb")
        self._run, self._config = run, config

    def begin(self) -> str:
        rules, remembered = self._config.tracking, read_json(self._run.tracker_file).get("wandb")
        settings = self._wandb.Settings(
            silent=True, console="off", init_timeout=PATIENCE_S, finish_timeout=PATIENCE_S,
            **({"base_url": rules.uri} if rules.uri else {}),
        )  # fmt: skip
        self._open = self._wandb.init(
            project=rules.project, entity=rules.entity or None, name=self._run.name, dir=str(self._run.path),
            id=remembered, resume="allow", config=to_dict(self._config), settings=settings, allow_val_change=True,
        )  # fmt: skip
        _remember(self._run, wandb=self._open.id)
        self._open.define_metric("*", step_metric="updates")  # wandb's own steps may not go back; ours do after a crash
        return str(self._open.url or f"offline in {self._run.path / 'wandb'} (wandb sync sends it)")

    def log(self, values: Mapping[str, float], step: int, when: float) -> None:
        self._open.log({**values, "updates": step, "_timestamp": when})

    def finish(self, state: str) -> None:
        self._open.finish(exit_code=0 if state in ("done", "stopped") else 1)


class Mlflow:
    def __init__(self, run: Run, config: Config) -> None:
        self._mlflow = importlib.import_module("mlflow")
        self._entities = importlib.import_module("mlflow.entities")
        self._run, self._config = run, config

    def begin(self) -> str:
        rules = self._config.tracking
        self._client = self._mlflow.MlflowClient(tracking_uri=rules.uri or None)
        remembered = read_json(self._run.tracker_file).get("mlflow")
        if remembered:
            self._id = remembered
            self._client.update_run(self._id, status="RUNNING")
        else:
            self._id = self._client.create_run(self._experiment(rules.project), run_name=self._run.name).info.run_id
            _remember(self._run, mlflow=self._id)
        self._log_config()
        return f"run {self._id} of experiment {rules.project} at {self._client.tracking_uri}"

    def log(self, values: Mapping[str, float], step: int, when: float) -> None:
        make, millis = self._entities.Metric, int(1000 * when)
        self._client.log_batch(self._id, metrics=[make(name, value, millis, step) for name, value in values.items()])

    def finish(self, state: str) -> None:
        ends = {"done": "FINISHED", "stopped": "KILLED"}
        self._client.set_terminated(self._id, ends.get(state, "FAILED"))

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self._client.create_experiment(name))

    def _log_config(self) -> None:
        """MLflow never changes a parameter: a resumed run adds what is new and leaves the rest."""
        known = self._client.get_run(self._id).data.params
        params = [
            self._entities.Param(k, str(v)[:PARAM_CHARS]) for k, v in flat(to_dict(self._config)) if k not in known
        ]
        for first in range(0, len(params), PARAMS_A_CALL):
            self._client.log_batch(self._id, params=params[first : first + PARAMS_A_CALL])


TRACKERS: dict[str, Callable[[Run, Config], Tracker]] = {"wandb": Wandb, "mlflow": Mlflow}


def check(config: Config) -> None:
    """Raises ValueError, before anything is made, when the tracker's package is not there."""
    if config.tracker == "none":
        return
    try:
        importlib.import_module(config.tracker)
    except ImportError as error:
        extra = f"pip install 'acceerl[{config.tracker}]', or leave tracker= out"
        raise ValueError(f"tracker={config.tracker}: {error}: {extra}") from error
    if config.tracker == "wandb":
        _check_login(importlib.import_module("wandb"), config.tracking.uri)


def _check_login(wandb: Any, uri: str) -> None:
    """Without credentials wandb would ask for them on the terminal, in the midst of the training."""
    settings = wandb.setup(settings=wandb.Settings(silent=True, **({"base_url": uri} if uri else {}))).settings
    if settings.mode == "online" and not wandb.login(prompt=False, verify=False):
        raise ValueError("tracker=wandb: not logged in: `wandb login`, or WANDB_MODE=offline")


class Tracking:
    """The supervisor's end: never waits, never raises; without a tracker it does nothing."""

    def __init__(self, run: Run, config: Config, say: Callable[[str], None] | None = None) -> None:
        self.name, self._say = config.tracker, say or _say
        self.dropped, self._failed = 0, False
        self._points: queue.Queue[tuple[dict[str, float], int, float] | str] = queue.Queue(QUEUE)
        self._thread: threading.Thread | None = None
        if self.name != "none":
            make = lambda: TRACKERS[self.name](run, config)  # noqa: E731
            self._thread = threading.Thread(target=self._serve, args=(make,), name="tracker", daemon=True)
            self._thread.start()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """The same tags as TensorBoard's; what is no finite number is left out, since MLflow refuses all with it."""
        if self._thread is None:
            return
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        try:
            self._points.put_nowait((finite, step, time.time()))
        except queue.Full:
            self._drop("it takes no more points")

    def close(self, state: str) -> None:
        """Sends what is queued, for at most `CLOSE_S` seconds. `state` is how the run ended."""
        if self._thread is None:
            return
        deadline = time.monotonic() + CLOSE_S
        try:
            self._points.put(state, timeout=CLOSE_S)
        except queue.Full:
            self._drop("it takes no more points")
        self._thread.join(max(0.0, deadline - time.monotonic()))
        left = self.dropped + self._points.qsize()
        if self._thread.is_alive():
            self._say(f"{self.name} did not finish within {CLOSE_S:.0f} s; leaving it behind with {left} points unsent")
        elif left:
            self._say(f"{self.name} has missed {left} points; TensorBoard and metrics/ hold them")

    def _serve(self, make: Callable[[], Tracker]) -> None:
        tracker: Tracker | None = None
        while not isinstance(point := self._points.get(), str):
            try:
                tracker = tracker or self._begin(make)
                tracker.log(*point)
            except Exception as error:  # noqa: BLE001 - whatever a tracker's network does, training goes on
                self._drop(f"{type(error).__name__}: {error}")
        try:
            if tracker:
                tracker.finish(point)
        except Exception as error:  # noqa: BLE001
            self._drop(f"{type(error).__name__}: {error}")

    def _begin(self, make: Callable[[], Tracker]) -> Tracker:
        tracker = make()
        where = tracker.begin()
        self._say(f"{self.name}: {where}")
        return tracker

    def _drop(self, why: str) -> None:
        self.dropped += 1
        if not self._failed:
            self._failed = True
            self._say(f"{self.name} fails, training goes on without it ({' '.join(why.split())[:300]})")


def flat(record: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    """
    >>> list(flat({"learner": {"lr": 0.1}, "seed": 0}))
    [('learner.lr', 0.1), ('seed', 0)]
    """
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{at}{name}.")
        else:
            yield f"{at}{name}", value


def _remember(run: Run, **ids: str) -> None:
    replace_json(run.tracker_file, {**read_json(run.tracker_file), **ids})


def _say(text: str) -> None:
    print(f"acceerl: tracker {text}", file=sys.stderr, flush=True)
