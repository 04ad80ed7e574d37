"""What a process tells: the links that it has ends of to its peers, its counters to its supervisor."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from acceerl.config import from_dict
from acceerl.jobs import process
from acceerl.jobs.process import links_of
from acceerl.runtime.stop import StopFlag


@pytest.mark.parametrize(
    ("role", "index", "links"),
    [
        ("rollout", 0, ["observe", "act"]),
        ("evaluator", 0, ["observe", "act"]),
        ("learner", 0, ["experience", "policy_weights"]),
        ("inference", 1, ["observe", "act", "experience", "policy_weights"]),
        ("inference", 2, ["observe", "act", "policy_weights"]),  # the evaluators'
    ],
)
def test_a_process_names_the_links_that_it_has_ends_of(role, index, links):
    config = from_dict({"inference": {"instances": 2}, "evaluator": {"processes": 1}})
    assert links_of(config, role, index) == links


def test_a_report_that_cannot_be_made_is_logged_and_the_next_one_is_sent(caplog, monkeypatch):
    sent, stop = [], StopFlag()

    def snapshot():
        if not caplog.records:
            raise TypeError("a counter is no number")
        stop.set("enough")
        return {"counters": {"updates": 1}}

    registry = SimpleNamespace(heartbeat=sent.append, refused=None, disconnected_s=0.0)
    meter = SimpleNamespace(snapshot=snapshot)
    monkeypatch.setattr(StopFlag, "wait", lambda self, seconds: self.is_set())
    with caplog.at_level(logging.ERROR):
        process._heartbeats(SimpleNamespace(role="rollout", index=3, registry=registry, meter=meter, stop=stop))
    assert sent == [{"counters": {"updates": 1}}]
    assert "rollout[3] could not report its counters" in caplog.text
    assert "a counter is no number" in caplog.text
