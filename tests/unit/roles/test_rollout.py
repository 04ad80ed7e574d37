"""The rollout role against a scripted server."""

from __future__ import annotations

import numpy as np

from acceerl.channels.inline import Hub
from acceerl.channels.links import Peer
from acceerl.roles.rollout import rollout
from acceerl.runtime.metrics import ListMeter
from acceerl.types import Act, Assignment
from tests.unit.roles.doubles import CHUNK, CountingEnv

ACTIONS = np.zeros((CHUNK, 2), np.float32)


def start(envs, meter=None):
    hub = Hub()
    serving = hub.ends("inference").serving()
    loop = rollout(envs, hub.ends("rollout").requests(), meter or ListMeter())
    next(loop)
    return hub, serving, loop


def exchange(serving, loop, act):
    """Answers every waiting request with `act(observed)` and returns what comes back."""
    for peer, observed in serving.poll():
        serving.reply(peer, act(observed))
    while next(loop):
        continue
    return [observed for _, observed in serving.poll()]


def test_every_environment_asks_for_an_episode_then_opens_it():
    _, serving, loop = start([CountingEnv(), CountingEnv()])
    opened = exchange(serving, loop, lambda o: Act(o.slot, assignment=Assignment(o.slot, 7, 3)))
    assert [(o.slot, o.first, o.observation.instruction) for o in opened] == [
        (0, True, "go left"),
        (1, True, "go right"),
    ]


def play(env, assignment, chunks):
    _, serving, loop = start([env])
    for peer, _observed in serving.poll():
        serving.reply(peer, Act(0, assignment=assignment))
    outcomes = []
    for _ in range(chunks + 1):
        while next(loop):
            continue
        [(peer, observed)] = serving.poll()
        outcomes.append(observed)
        serving.reply(peer, Act(0, actions=ACTIONS))
    return outcomes[1:]


def test_a_success_inside_a_chunk_stops_it():
    first, second = play(CountingEnv(length=6), Assignment(0, 0, 0), 2)
    assert (first.executed, first.reward, first.ended) == (4, 4.0, False)
    assert (second.executed, second.reward, second.terminated, second.truncated) == (2, 2.0, True, False)


def test_a_limit_inside_a_chunk_truncates():
    *_, last = play(CountingEnv(length=99), Assignment(0, 0, 0), 3)
    assert (last.executed, last.terminated, last.truncated) == (2, False, True)


def test_success_at_the_limit_is_termination_only():
    *_, last = play(CountingEnv(length=10), Assignment(0, 0, 0), 3)
    assert (last.terminated, last.truncated) == (True, False)


def test_frames_are_rendered_once_a_decision_unless_recorded():
    plain, recorded = CountingEnv(), CountingEnv()
    play(plain, Assignment(0, 0, 0), 2)
    outcomes = play(recorded, Assignment(0, 0, 0, record=True), 2)
    assert plain.rendered == 3 and recorded.rendered == 7
    assert outcomes[1].frames["front"][:, 0, 0, 0].tolist() == [5, 6]


def test_environments_interleave():
    """While the second environment's answer is still out, the first goes on."""
    _, serving, loop = start([CountingEnv(), CountingEnv()])
    exchange(serving, loop, lambda o: Act(o.slot, assignment=Assignment(0, 0, 0)))
    peer = Peer("rollout", 0)
    for _ in range(2):
        serving.reply(peer, Act(0, actions=ACTIONS))
        while next(loop):
            continue
        assert [o.slot for _, o in serving.poll()] == [0]


def test_losing_the_server_starts_every_environment_over():
    meter = ListMeter()
    hub, serving, loop = start([CountingEnv(), CountingEnv()], meter)
    exchange(serving, loop, lambda o: Act(o.slot, assignment=Assignment(0, 0, 0)))
    hub.drop(Peer("inference", 0))
    next(loop)
    asked = [o for _, o in serving.poll()]
    assert [(o.slot, o.observation) for o in asked] == [(0, None), (1, None)] and meter.counters["failovers"] == 1
