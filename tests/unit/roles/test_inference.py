"""The inference role: when batches fire, what Segments look like, what happens to those that are lost."""

from __future__ import annotations

import numpy as np
import pytest

from acceerl.channels.inline import Hub
from acceerl.channels.links import Peer
from acceerl.roles.drive import take_turns
from acceerl.roles.inference import Inference, Pace
from acceerl.roles.rollout import rollout
from acceerl.roles.tasks import EvaluationTasks, TrainingTasks
from acceerl.runtime.metrics import ListMeter
from acceerl.types import Observation, Observed, Weights
from tests.unit.roles.doubles import SPEC, CountingEnv, EchoPolicy


class Clock:
    """Stands still until told otherwise."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class World:
    """One inference instance in a hub, with a clock of its own and an experience inbox."""

    def __init__(self, pace: Pace | None = None, tasks=None, credits: int = 1_000, version: int = 0) -> None:
        self.hub, self.clock, self.policy, self.meter = Hub(), Clock(), EchoPolicy(), ListMeter()
        self.learner = self.hub.ends("learner")
        self.inbox = self.learner.receiver("experience", credits)
        self.publisher = self.learner.publisher("policy_weights")
        self.loaded: list[int] = []
        ends = self.hub.ends("inference")
        self.role = Inference(
            self.policy,
            ends.serving(),
            tasks or TrainingTasks(SPEC, seed=1),
            pace or Pace(),
            self.meter,
            segments=ends.sender("experience"),
            weights=ends.reader("policy_weights"),
            load=lambda policy, weights: self.loaded.append(weights.version),
            version=version,
            clock=self.clock,
        )

    def client(self, index: int):
        return self.hub.ends("rollout", index).requests()

    def opened(self, index: int):
        """A client whose single environment has been given an episode and has not shown it yet."""
        client = self.client(index)
        client.send(Observed(0, None, None))
        self.role.step()
        [act] = client.poll()
        return client, act.assignment


def seen(step: int = 0) -> Observation:
    return Observation({"front": np.full((2, 2, 3), step, np.uint8)}, np.array([step], np.float32), "go left")


def show(client, assignment, slot: int = 0) -> None:
    client.send(Observed(slot, assignment, seen(), first=True))


def test_a_lone_request_waits_for_others_measured_from_its_own_arrival():
    world = World(Pace(max_batch=8, max_wait=1.0))
    (a, task), _ = world.opened(0), world.opened(1)
    world.clock.now += 50  # a long idle time before it must not count
    show(a, task)
    world.role.step()
    assert not a.poll()
    world.clock.now += 0.5
    world.role.step()
    assert not a.poll()
    world.clock.now += 0.6
    world.role.step()
    assert len(a.poll()) == 1 and world.policy.batches == [1]


def test_a_batch_fires_when_it_is_full_or_everybody_has_asked():
    world = World(Pace(max_batch=2, max_wait=1e9))
    clients = [world.opened(i) for i in range(3)]
    for client, task in clients[:2]:
        show(client, task)
    world.role.step()
    show(*clients[2])
    world.role.step()
    assert world.policy.batches == [2]  # the third waits: the first two are still stepping
    for client, task in clients[:2]:
        client.poll()
        client.send(Observed(0, task, seen(4), reward=0.0, executed=4))
    world.role.step()
    assert world.policy.batches == [2, 2]


def serve(world: World, envs, until) -> None:
    take_turns([rollout(envs, world.client(0), ListMeter()), world.role.run()], until)


def test_segments_hold_what_happened():
    world = World()
    got = []
    serve(world, [CountingEnv(length=6)], lambda: got.extend(world.inbox.poll()) or len(got) >= 2)
    segment = got[0]
    assert len(segment) == 2 and segment.terminated and not segment.truncated
    assert segment.proprio[:, 0].tolist() == [0, 4, 6]
    assert segment.images["front"][:, 0, 0, 0].tolist() == [0, 4, 6]
    assert segment.tokens[:, 0, 0].tolist() == [0, 4] and segment.values.tolist() == [0, 4]
    assert segment.rewards.tolist() == [4, 2] and segment.executed.tolist() == [4, 2]
    assert segment.versions.tolist() == [0, 0] and got[1].episode != segment.episode


def test_truncation_is_not_termination():
    world = World()
    got = []
    serve(world, [CountingEnv(length=99)], lambda: got.extend(world.inbox.poll()) or len(got) >= 1)
    assert got[0].truncated and not got[0].terminated and got[0].executed.tolist() == [4, 4, 2]


def test_a_full_learner_holds_inference_back():
    world = World(credits=1)
    rounds = iter(range(200))
    serve(world, [CountingEnv()], lambda: next(rounds) >= 150)
    assert len(world.inbox.poll()) == 1
    served = sum(world.policy.batches)
    world.inbox.grant(1)
    rounds = iter(range(100))
    serve(world, [CountingEnv()], lambda: next(rounds) >= 50)
    assert sum(world.policy.batches) > served


def test_new_weights_are_swapped_between_batches():
    world = World()
    got = []

    def until() -> bool:
        got.extend(world.inbox.poll())
        if len(got) == 1 and not world.loaded:
            world.publisher.publish(Weights(7, {}))
        return len(got) >= 3

    serve(world, [CountingEnv()], until)
    assert world.loaded == [7] and got[-1].versions.tolist() == [7, 7]


def test_lost_environments_leave_no_trace():
    world = World()
    client, task = world.opened(0)
    show(client, task)
    world.role.step()
    world.hub.drop(Peer("rollout", 0))
    world.role.step()
    assert not world.role.known and not world.role.makers and world.meter.counters["segments_lost"] == 1


def test_a_turn_ends_with_cut_segments_and_waits_for_the_next_version():
    world = World(Pace(lockstep=True, expected=2, turn=2))
    rounds = iter(range(50))
    serve(world, [CountingEnv(99), CountingEnv(99)], lambda: next(rounds) >= 40)
    got = world.inbox.poll()
    assert [len(s) for s in got] == [1, 1] and world.policy.batches == [2]
    assert not any(s.terminated or s.truncated for s in got)
    assert [s.proprio[:, 0].tolist() for s in got] == [[0, 4], [0, 4]]


def test_lockstep_waits_for_every_environment():
    world = World(Pace(lockstep=True, expected=2, max_wait=0.0))
    a, task = world.opened(0)
    show(a, task)
    world.clock.now += 100
    world.role.step()
    assert not a.poll()
    b, task = world.opened(1)
    show(b, task)
    world.role.step()
    assert a.poll() and b.poll() and world.policy.batches == [2]


def evaluation(episodes: int = 4):
    rounds: list[tuple[int, list]] = []
    return rounds, EvaluationTasks(SPEC, episodes, lambda version, results: rounds.append((version, list(results))))


def test_an_evaluation_round_belongs_to_one_version():
    rounds, tasks = evaluation()
    world = World(tasks=tasks, version=-1)
    for version in (3, 4):
        world.publisher.publish(Weights(version, {}))
        serve(world, [CountingEnv(), CountingEnv()], lambda version=version: rounds[-1:] and rounds[-1][0] == version)
    assert [version for version, _ in rounds] == [3, 4] and set(world.policy.greedy) == {True}
    assert [(r.task, r.init_state) for r in sorted(rounds[0][1], key=lambda r: (r.init_state, r.task))] == [
        (0, 50), (1, 50), (0, 51), (1, 51),
    ]  # fmt: skip


def test_an_evaluation_episode_that_is_lost_is_played_again():
    rounds, tasks = evaluation(2)
    world = World(tasks=tasks, version=-1)
    world.publisher.publish(Weights(1, {}))
    client, task = world.opened(5)
    show(client, task)
    world.role.step()
    world.hub.drop(Peer("rollout", 5))
    serve(world, [CountingEnv()], lambda: bool(rounds))
    assert sorted(r.task for r in rounds[0][1]) == [0, 1]


def test_an_evaluator_that_dies_while_resetting_does_not_hold_up_the_round():
    rounds, tasks = evaluation(2)
    world = World(tasks=tasks, version=-1)
    world.publisher.publish(Weights(1, {}))
    world.opened(5)
    world.hub.drop(Peer("rollout", 5))
    serve(world, [CountingEnv()], lambda: bool(rounds))
    assert sorted(r.task for r in rounds[0][1]) == [0, 1]


def test_evaluation_never_touches_training_states():
    _, tasks = evaluation(20)
    assert {a.init_state for a in tasks.plan} <= set(SPEC.eval_states)
    training = TrainingTasks(SPEC, seed=0)
    assert {training.next(0).init_state for _ in range(200)} <= set(SPEC.train_states)
    with pytest.raises(ValueError, match=r"evaluator\.episodes=21"):
        evaluation(21)
