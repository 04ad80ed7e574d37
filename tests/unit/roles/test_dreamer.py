"""The dreamer on a world that can be computed by hand: what a dream earns, when it ends, what the learner gets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from acceerl.channels.inline import Hub
from acceerl.config import Dreamer as Numbers
from acceerl.policies.tiny import TinyPolicy
from acceerl.protocols import PolicySpec
from acceerl.roles.contexts import start_at
from acceerl.roles.dreamer import Dreamer, fair_threshold
from acceerl.roles.learner import pack, unpack
from acceerl.roles.world_model import OWED
from acceerl.runtime.metrics import ListMeter
from acceerl.types import Weights
from acceerl.world_models.imagined import Imagination
from tests.unit.roles.imagining import ALPHABET, ENV, Bright, Counting, episode

NUMBERS = Numbers(batch=4, horizon=3, threshold=0.5, doubt=0.0, check_every=1e9, credits=8)


def policy(seed: int = 0) -> TinyPolicy:
    spec = PolicySpec(chunk=2, action_dim=2, bins=16, cameras=("front",), image_size=(16, 16), proprio=3)
    return TinyPolicy(spec, width=16, layers=1, heads=2, channels=8, waves=6, seed=seed)


class Night:
    """A dreamer, and the other ends of its links."""

    def __init__(self, numbers: Numbers = NUMBERS) -> None:
        hub, self.meter = Hub(), ListMeter()
        self.dreams = hub.ends("learner").receiver("dreams", numbers.credits)
        mine, world = hub.ends("dreamer"), hub.ends("world_model")
        self.loaded: list[int] = []
        self.dreamer = Dreamer(
            policy(), Imagination(Counting(), Bright(), ENV, numbers.threshold, numbers.doubt, numbers.reward),
            ALPHABET, mine.receiver("contexts", 64), mine.sender("dreams"), mine.reader("policy_weights"),
            mine.reader("world_weights"), unpack, lambda weights: self.loaded.append(weights.version), numbers,
            self.meter, seed=0,
        )  # fmt: skip
        self.contexts = world.sender("contexts")
        self.policy_weights = hub.ends("learner").publisher("policy_weights")
        self.world_weights = world.publisher("world_weights")
        self.loop = self.dreamer.run()

    def ready(self, *episodes) -> Night:
        self.policy_weights.publish(Weights(7, pack(policy(3))))
        self.world_weights.publish(Weights(4, {}))
        for segment in episodes:
            assert self.contexts.try_send(segment)
        return self

    def turns(self, count: int) -> list[bool]:
        return [next(self.loop) for _ in range(count)]

    def segments(self):
        return self.dreams.poll()


def test_it_waits_for_both_models_and_a_context():
    night = Night()
    assert night.turns(3) == [False] * 3
    night.ready()
    assert night.turns(2) == [False] * 2
    assert night.dreamer.version == 7 and night.loaded == [4]


def test_dreams_are_segments_that_say_what_made_them():
    night = Night().ready(episode(1))
    night.turns(4)
    dreams = night.segments()
    assert len(dreams) == 4
    for dream in dreams:
        assert dream.imagined and dream.world_version == 4 and set(dream.versions) == {7}
        assert dream.images["front"].shape[0] == len(dream) + 1 and dream.tokens.shape[1:] == (2, 2)
        assert dream.instruction == "go" and dream.assignment.task == 0
    assert len({dream.episode for dream in dreams}) == 4


def test_a_cut_dream_bootstraps_and_earns_the_change_of_probability():
    """Three ticks of ten levels from black: 0.1 each, neither ended nor out of time."""
    night = Night(replace(NUMBERS, first_share=1.0)).ready(episode(1))
    night.turns(4)
    for dream in night.segments():
        assert len(dream) == 3 and not dream.terminated and not dream.truncated
        np.testing.assert_allclose(dream.rewards, 0.1, atol=1e-6)


def test_what_the_context_shows_earns_nothing_and_success_ends_the_dream():
    """From level 45 the first tick reaches 0.55: only the change of 0.1 is earned, and the episode is over."""
    night = Night(replace(NUMBERS, first_share=1.0)).ready(episode(1, level=45))
    night.turns(4)
    for dream in night.segments():
        assert len(dream) == 1 and dream.terminated and not dream.truncated
        np.testing.assert_allclose(dream.rewards, [0.1], atol=1e-6)


def test_a_decision_is_as_long_as_its_success_took():
    """From level 48 the first of its two control steps reaches 0.53."""
    night = Night(replace(NUMBERS, first_share=1.0)).ready(episode(1, level=48))
    night.turns(2)
    dreams = night.segments()
    assert [dream.executed.tolist() for dream in dreams] == [[1]] * 4
    for dream in dreams:
        assert dream.terminated and not dream.truncated
        np.testing.assert_allclose(dream.rewards, [0.05], atol=1e-6)


def test_paid_as_in_reality_only_the_decision_that_succeeds_earns():
    night = Night(replace(NUMBERS, first_share=1.0, reward="success")).ready(episode(1, level=36))
    night.turns(4)
    dreams = night.segments()
    assert [dream.executed.tolist() for dream in dreams] == [[2, 1]] * 4
    assert [dream.rewards.tolist() for dream in dreams] == [[0.0, 1.0]] * 4


def test_the_step_limit_counts_from_the_episodes_begin():
    """Decision 5 of an episode of 12 control steps, two a decision: one is left."""
    night = Night(replace(NUMBERS, first_share=0.0)).ready(episode(1, decisions=6))
    night.turns(8)
    for dream in night.segments():
        left = 6 - dream.start
        assert len(dream) == min(left, 3)
        assert dream.truncated == (left <= 3) and not dream.terminated


def test_it_rests_while_the_learner_has_enough():
    night = Night().ready(episode(1))
    worked = night.turns(40)
    assert not worked[-1], "it dreams on although nobody takes its dreams"
    taken = night.segments()
    night.dreams.grant(len(taken))
    assert night.turns(1) == [True]


def test_tasks_that_fail_are_dreamt_of_more():
    night = Night(replace(NUMBERS, batch=64)).ready(episode(1, task=0), episode(2, task=1))
    night.dreams.set_task_weights(np.array([1.0, 99.0]))
    night.turns(4)
    tasks = [dream.assignment.task for dream in night.segments()]
    assert np.mean(tasks) > 0.8


def test_the_gap_to_reality_is_measured_on_the_same_contexts_and_shortens_dreams():
    """All real episodes failed; imagined ones brighten by 0.1 a decision, and end in success after six."""
    numbers = replace(NUMBERS, check_every=0.0, max_gap=0.1, horizon=8)
    night = Night(numbers).ready(*(episode(i, level=20, success=False, decisions=6) for i in range(20)))
    while not night.meter.events:
        night.turns(1)
    [told] = night.meter.events
    assert told["imagined"] == 1.0 and told["real"] == 0.0 and told["contexts"] == 20
    assert night.meter.gauges["gap"] == [1.0]
    assert night.dreamer.horizon == 4


def test_reality_decides_what_counts_as_success_in_a_dream():
    """A quarter of the real episodes succeed. Their dreams peak at 0.8 and the others' at 0.6: all above one half."""
    numbers = replace(NUMBERS, threshold=0.0, check_every=0.0, horizon=8)
    levels = [(20, True)] * 5 + [(0, False)] * 15
    night = Night(numbers).ready(*(episode(i, 6, level, won) for i, (level, won) in enumerate(levels)))
    assert night.dreamer.imagination.threshold == 0.5, "no success model says more"
    while not night.meter.events:
        night.turns(1)
    [told] = night.meter.events
    assert told["threshold"] == 0.5 and told["imagined"] == 1.0 and told["real"] == 0.25
    assert 0.6 <= night.meter.gauges["threshold"][0] < 0.8
    assert fair_threshold([0.5] * 4, [False] * 4) > 0.49 and fair_threshold([0.0] * 4, [True] * 4) > 0


def test_dreams_wait_while_the_world_model_has_episodes_to_learn_from():
    night = Night(replace(NUMBERS, max_owed=8.0)).ready(episode(1))
    night.world_weights.publish(Weights(5, {OWED: np.array(9.0)}))
    assert night.turns(3) == [False, False, False]
    night.world_weights.publish(Weights(10, {OWED: np.array(0.5)}))
    assert night.turns(1) == [True]


def test_recorded_episodes_say_nothing_about_this_policys_success():
    numbers = replace(NUMBERS, check_every=0.0)
    night = Night(numbers).ready(*(episode(i, success=False, version=-1) for i in range(20)))
    night.turns(6)
    assert not night.meter.events


@pytest.mark.parametrize("doubt", [0.0, 2.0])
def test_doubt_takes_the_spread_of_opinions_off(doubt: float):
    class Divided(Bright):
        def probability(self, images, felt, instructions):
            return torch.tensor([0.2, 0.6]).expand(len(felt), felt.shape[1] - self.spec.context, -1)

    dream = Imagination(Counting(), Divided(), ENV, 0.5, doubt)
    dream.reset([start_at(episode(1), 0, Counting().spec, ALPHABET)])
    assert dream.probability[0] == pytest.approx(max(0.0, 0.4 - doubt * 0.2))
