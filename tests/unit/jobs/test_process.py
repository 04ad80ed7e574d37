"""What keeps a process in touch with its supervisor."""

from __future__ import annotations

import logging
from types import SimpleNamespace

from acceerl.jobs import process
from acceerl.runtime.stop import StopFlag


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
