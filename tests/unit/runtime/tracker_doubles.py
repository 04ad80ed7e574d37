"""Test doubles of the packages `wandb` and `mlflow`: the surface that trackers.py uses, and a log of the calls."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any


class FakeWandb:
    """Stands in for the module `wandb`. `gate` closed: every log blocks; `broken`: it raises."""

    def __init__(self) -> None:
        self.inits: list[dict[str, Any]] = []
        self.logged: list[dict[str, Any]] = []
        self.finished: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.broken: Exception | None = None
        self.mode, self.logged_in = "offline", False

    def Settings(self, **options: Any) -> SimpleNamespace:
        return SimpleNamespace(**options)

    def setup(self, settings: Any) -> SimpleNamespace:
        return SimpleNamespace(settings=SimpleNamespace(mode=self.mode))

    def login(self, prompt: bool, verify: bool) -> bool:
        assert not prompt and not verify, "a training neither asks on the terminal nor waits for a server"
        return self.logged_in

    def init(self, **options: Any) -> FakeWandb:
        self.inits.append(options)
        self.id, self.url = options["id"] or "fresh-id", "https://example.org/run"
        return self

    def define_metric(self, name: str, step_metric: str) -> None:
        assert (name, step_metric) == ("*", "updates")

    def log(self, values: dict[str, Any]) -> None:
        assert self.gate.wait(30)
        if self.broken:
            raise self.broken
        self.logged.append(values)

    def finish(self, exit_code: int) -> None:
        self.finished.append(exit_code)


class FakeMlflow:
    """Stands in for the module `mlflow` and its `MlflowClient`; parameters never change, as in the real one."""

    def __init__(self) -> None:
        self.metrics: list[Any] = []
        self.params: dict[str, str] = {}
        self.statuses: list[str] = []
        self.made: list[str] = []
        self.tracking_uri = ""

    def MlflowClient(self, tracking_uri: str | None) -> FakeMlflow:
        self.tracking_uri = tracking_uri or "sqlite:///mlflow.db"
        return self

    def get_experiment_by_name(self, name: str) -> None:
        return None

    def create_experiment(self, name: str) -> str:
        return f"number of {name}"

    def create_run(self, experiment: str, run_name: str) -> SimpleNamespace:
        self.made.append(f"{run_name} in {experiment}")
        return SimpleNamespace(info=SimpleNamespace(run_id="fresh-id"))

    def update_run(self, run_id: str, status: str) -> None:
        self.statuses.append(f"{run_id} {status}")

    def get_run(self, run_id: str) -> SimpleNamespace:
        return SimpleNamespace(data=SimpleNamespace(params=self.params))

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
        assert len(params) <= 100
        assert not self.params.keys() & {p.key for p in params}, "MLflow refuses a second value"
        self.params |= {p.key: p.value for p in params}
        self.metrics += metrics

    def set_terminated(self, run_id: str, status: str) -> None:
        self.statuses.append(f"{run_id} {status}")


ENTITIES = SimpleNamespace(
    Metric=lambda key, value, timestamp, step: SimpleNamespace(key=key, value=value, timestamp=timestamp, step=step),
    Param=lambda key, value: SimpleNamespace(key=key, value=value),
)
