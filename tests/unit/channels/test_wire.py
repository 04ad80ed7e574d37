"""Every record survives the wire, whatever is missing, empty or odd-shaped; foreign bytes are refused by name."""

import dataclasses

import numpy as np
import pytest

from acceerl.channels import wire
from acceerl.channels.links import Ack
from acceerl.types import Act, Assignment, Observation, Observed, Segment, Weights


def random_array(rng, dtype, *shape):
    return rng.integers(0, 100, shape).astype(dtype)


def random_observed(rng):
    cameras = ["front", "wrist", "höhe"][: rng.integers(1, 4)]
    size = tuple(rng.integers(1, 20, 2))
    observation = Observation(
        {name: random_array(rng, np.uint8, *size, 3) for name in cameras},
        random_array(rng, np.float32, rng.integers(0, 9)),
        'open the "drawer"\n and größer',
    )
    frames = {name: random_array(rng, np.uint8, rng.integers(0, 8), *size, 3) for name in cameras}
    return Observed(
        slot=int(rng.integers(9)),
        assignment=Assignment(1, 2, 3, True) if rng.random() < 0.5 else None,
        observation=observation if rng.random() < 0.8 else None,
        reward=float(rng.normal()),
        executed=int(rng.integers(9)),
        terminated=bool(rng.random() < 0.5),
        frames=frames if rng.random() < 0.5 else None,
    )


def random_segment(rng):
    t, c, d = (int(n) for n in rng.integers(1, 9, 3))
    return Segment(
        assignment=Assignment(0, 1, 2),
        episode=int(rng.integers(2**40)),
        start=0,
        instruction="stack",
        images={"front": random_array(rng, np.uint8, t + 1, 5, 7, 3)},
        proprio=random_array(rng, np.float32, t + 1, 8),
        tokens=random_array(rng, np.int16, t, c, d),
        logp=random_array(rng, np.float32, t, c, d),
        values=random_array(rng, np.float32, t),
        rewards=random_array(rng, np.float32, t),
        executed=random_array(rng, np.int16, t),
        versions=random_array(rng, np.int64, t),
        terminated=True,
        truncated=False,
        frames={"front": random_array(rng, np.uint8, t, c, 5, 7, 3)} if rng.random() < 0.5 else {},
    )


def random_weights(rng):
    kinds = [np.float32, np.float16, np.uint16, np.int64, np.uint8]
    return Weights(
        int(rng.integers(2**40)),
        {f"layer.{i}": random_array(rng, rng.choice(kinds), *rng.integers(0, 5, rng.integers(0, 4))) for i in range(7)},
    )


def random_act(rng):
    return Act(3, random_array(rng, np.float32, 8, 7) if rng.random() < 0.5 else None, Assignment(1, 2, 3))


def random_ack(rng):
    return Ack(2, 7, rng.random(10) if rng.random() < 0.5 else None)


def same(a, b):
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if dataclasses.is_dataclass(a):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("make", [random_observed, random_segment, random_weights, random_act, random_ack])
def test_round_trip(make):
    rng = np.random.default_rng(0)
    for _ in range(40):
        record = make(rng)
        assert same(record, wire.decode(type(record), wire.encode(record, tag=5), tag=5))


def test_non_contiguous_arrays_travel():
    image = np.arange(600, dtype=np.uint8).reshape(10, 20, 3)[::-1, ::2]
    record = Weights(1, {"flipped": image})
    assert same(record, wire.decode(Weights, wire.encode(record, 1)))


def test_decoded_arrays_are_aligned_views_of_the_buffer():
    buffer = wire.encode(Weights(1, {"a": np.ones(3, np.uint8), "b": np.ones(5)}), 1)
    decoded = wire.decode(Weights, buffer)
    assert all(np.shares_memory(a, buffer) and a.flags.aligned for a in decoded.arrays.values())


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda b: b[:10], "shorter than its header"),
        (lambda b: b[:-1], "and has"),
        (lambda b: np.concatenate([b"\x00\x00" and np.zeros(2, np.uint8), b[2:]]), "not acceerl"),
        (lambda b: np.concatenate([b[:2], np.array([9, 0], np.uint8), b[4:]]), "wire version 9"),
    ],
)
def test_foreign_bytes_are_refused(spoil, text):
    with pytest.raises(wire.WireError, match=text):
        wire.decode(Act, spoil(wire.encode(Act(1, np.zeros((8, 7), np.float32)), 20)))


def test_wrong_tag_and_wrong_record_are_refused():
    buffer = wire.encode(Act(1), 20)
    with pytest.raises(wire.WireError, match="tag 20, expected 10"):
        wire.decode(Act, buffer, tag=10)
    with pytest.raises(wire.WireError, match="Weights cannot be read"):
        wire.decode(Weights, buffer)


def test_random_corruption_never_escapes_as_anything_but_a_wire_error():
    rng = np.random.default_rng(1)
    good = wire.encode(random_segment(rng), 30)
    for _ in range(300):
        bad = good.copy()
        bad[rng.integers(0, 400, 3)] = rng.integers(0, 256, 3)
        try:
            wire.decode(Segment, bad)
        except wire.WireError:
            continue


def test_object_arrays_are_refused():
    with pytest.raises(ValueError, match="Python objects"):
        wire.encode(Weights(1, {"x": np.array([object()])}), 1)


def test_hello_names_what_differs():
    mine = wire.Hello("rollout", 3, 1, ["observe", "act"], spec={"image_size": (64, 64), "proprio": 8})
    theirs = wire.Hello("inference", 0, 1, ["observe", "act"], spec={"image_size": [64, 64], "proprio": 8, "chunk": 8})
    assert wire.mismatch(mine, wire.Hello.from_bytes(theirs.to_bytes())) == ""
    bigger = dataclasses.replace(theirs, spec={"image_size": [128, 128]})
    assert wire.mismatch(mine, bigger) == "rollout[3] and inference[0] disagree on image_size: [64, 64] and [128, 128]"
    other = wire.VERSION + 1
    assert f"wire version: {wire.VERSION} and {other}" in wire.mismatch(mine, dataclasses.replace(theirs, wire=other))
    assert "no link in common" in wire.mismatch(mine, dataclasses.replace(theirs, links=["dreams"]))


def test_a_notice_says_what_follows():
    buffer = wire.notice(70, 3 << 20)
    assert wire.tag_of(buffer) == wire.NOTICE_TAG and wire.read_notice(buffer) == (70, 3 << 20)
    with pytest.raises(wire.WireError):
        wire.tag_of(np.zeros(40, np.uint8))
