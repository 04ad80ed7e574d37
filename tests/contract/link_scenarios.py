"""What every transport must do, told once per role: generators that yield while they wait for the other side."""

import time
from collections.abc import Callable, Generator

import numpy as np

from acceerl.channels.links import Ends
from acceerl.types import Act, Assignment, Observation, Observed, Segment, Weights

Play = Generator[None, None, None]
SIDES = (48, 96, 320)  # pixels: a small message, one that may lie in lent memory, one that is announced otherwise
IMAGES = [np.arange(side * side * 3, dtype=np.uint32).astype(np.uint8).reshape(side, side, 3) for side in SIDES]


def observed(slot: int, seed: int) -> Observed:
    image = IMAGES[slot % len(IMAGES)] + np.uint8(seed % 256)
    return Observed(slot, Assignment(1, 2, seed), Observation({"front": image}, np.ones(8, np.float32), "stack"))


def segment(episode: int, steps: int = 3) -> Segment:
    return Segment(
        assignment=Assignment(0, 1, 2), episode=episode, start=0, instruction="stack",
        images={"front": np.full((steps + 1, 90, 90, 3), episode, np.uint8)},
        proprio=np.ones((steps + 1, 8), np.float32),
        tokens=np.ones((steps, 8, 7), np.int16), logp=np.ones((steps, 8, 7), np.float32),
        values=np.ones(steps, np.float32), rewards=np.ones(steps, np.float32), executed=np.full(steps, 8, np.int16),
        versions=np.ones(steps, np.int64), terminated=True, truncated=False,
    )  # fmt: skip


def weights(version: int, size: int) -> Weights:
    return Weights(version, {"a": np.full(size, version, np.float32), "b": np.arange(5)})


def until(look: Callable[[], object], seconds: float = 15.0) -> Generator[None, None, object]:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"nothing came in {seconds} s"
        yield
    return found


def rest(ends: Ends, seconds: float = 0.2) -> Play:
    """Keeps pumping, so that what must not come has time to come, and what was sent leaves."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ends.pump()
        yield


# Requests and replies keep their slots and their payload; a reply to nobody is dropped.


def requests_rollout(ends: Ends) -> Play:
    requests = ends.requests()
    assert requests.poll() == [] and requests.in_flight == 0
    for turn in range(5):
        for slot in range(3):
            requests.send(observed(slot, seed=10 * turn + slot))
        assert requests.in_flight == 3
        acts: list[Act] = []
        while len(acts) < 3:
            acts += yield from until(requests.poll)
        assert sorted(act.slot for act in acts) == [0, 1, 2] and requests.in_flight == 0
        for act in acts:
            assert act.actions is not None and act.actions.shape == (8, 7)
            assert act.actions[0, 0] == 10 * turn + act.slot
            assert act.assignment == Assignment(3, 4, 5)


def requests_inference(ends: Ends) -> Play:
    serving, answered, peers = ends.serving(), 0, set()
    while answered < 15:
        for peer, asked in (yield from until(serving.poll)):
            seed = asked.assignment.seed
            assert asked.observation.instruction == "stack"
            np.testing.assert_array_equal(
                asked.observation.images["front"], observed(asked.slot, seed).observation.images["front"]
            )
            serving.reply(peer, Act(asked.slot, np.full((8, 7), seed, np.float32), Assignment(3, 4, 5)))
            answered += 1
            peers.add(peer)
    assert [(peer.role, peer.index) for peer in peers] == [("rollout", 0)]
    yield from rest(ends)


# A receiver that grants nothing stops the sender after its credits; grants let it go on; task weights come back.


def experience_inference(ends: Ends) -> Play:
    sender = ends.sender("experience")
    yield from until(lambda: sender.try_send(segment(0)))
    assert sender.try_send(segment(1)) and sender.try_send(segment(2))
    assert not sender.try_send(segment(3))
    yield from until(lambda: sender.try_send(segment(3)))
    yield from until(lambda: sender.task_weights is not None or sender.pump())
    np.testing.assert_array_equal(sender.task_weights, [0.25, 0.75])
    yield from until(lambda: sender.try_send(segment(4)))
    yield from rest(ends)
    assert sender.dropped == 0


def experience_learner(ends: Ends) -> Play:
    receiver = ends.receiver("experience", credits=3)
    receiver.set_task_weights(np.array([0.5, 0.5]))
    got: list[Segment] = []
    while len(got) < 3:
        got += yield from until(receiver.poll)
    yield from rest(ends)
    assert receiver.poll() == [] and receiver.depth == 0
    receiver.set_task_weights(np.array([0.25, 0.75]))
    receiver.grant(2)
    while len(got) < 5:
        got += yield from until(receiver.poll)
    assert [s.episode for s in got] == [0, 1, 2, 3, 4]
    assert all((s.images["front"] == s.episode).all() and len(s) == 3 for s in got)


# A link that drops never says no, and counts.


def reality_inference(ends: Ends) -> Play:
    sender = ends.sender("reality")
    deadline = time.monotonic() + 3.0  # the receiver may come later
    episode = 0
    while episode < 50 or time.monotonic() < deadline:
        assert sender.try_send(segment(episode % 250))
        episode += 1
        yield
    yield from rest(ends, 1.0)
    assert sender.dropped > 20


def reality_world_model(ends: Ends) -> Play:
    receiver = ends.receiver("reality", credits=2)
    got = yield from until(receiver.poll)
    receiver.grant(len(got))
    more = yield from until(receiver.poll)
    assert more[-1].episode > got[0].episode
    yield from rest(ends, 1.0)


# Latest wins: a slow reader skips versions, gets each at most once, whole; going back is delivered too.


def weights_learner(ends: Ends) -> Play:
    publisher = ends.publisher("policy_weights")
    for version in (1, 2, 3):
        publisher.publish(weights(version, 3_000_000))
    yield from rest(ends, 1.0)
    publisher.publish(weights(2, 10))
    yield from rest(ends, 1.0)


def weights_inference(ends: Ends) -> Play:
    reader = ends.reader("policy_weights")
    seen = []
    while 2 not in seen[1:]:
        new = yield from until(reader.poll)
        assert (new.arrays["a"] == new.version).all() and (new.arrays["b"] == np.arange(5)).all()
        seen.append(new.version)
    assert seen[-2:] == [3, 2] and len(seen) <= 4
    for _ in range(100):
        assert reader.poll() is None


SCENARIOS: dict[str, dict[str, Callable[[Ends], Play]]] = {
    "requests": {"rollout": requests_rollout, "inference": requests_inference},
    "experience": {"inference": experience_inference, "learner": experience_learner},
    "reality": {"inference": reality_inference, "world_model": reality_world_model},
    "weights": {"learner": weights_learner, "inference": weights_inference},
}
LINKS_OF = {
    "requests": ["observe", "act"],
    "experience": ["experience"],
    "reality": ["reality"],
    "weights": ["policy_weights"],
}
