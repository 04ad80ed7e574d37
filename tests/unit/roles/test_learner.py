"""The learner role on made-up segments: pace, publishing, task weights, and that a resumed learner is the same one."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from acceerl.algo.batch import micro_batches
from acceerl.channels.inline import Hub
from acceerl.config import Algo
from acceerl.config import Learner as Numbers
from acceerl.policies.tiny import TinyPolicy
from acceerl.protocols import PolicySpec
from acceerl.roles.learner import Dreams, Learner, pack, unpack
from acceerl.roles.tasks import TaskWeights
from acceerl.roles.trainer import Trainer
from acceerl.runtime.metrics import ListMeter
from acceerl.stores.replay import RateLimiter, Replay
from acceerl.types import Assignment, ObservationBatch, Segment, Weights

SPEC = PolicySpec(chunk=2, action_dim=2, bins=16, cameras=("front",), image_size=(16, 16), proprio=3)


def policy(seed: int = 0) -> TinyPolicy:
    return TinyPolicy(SPEC, width=16, layers=1, heads=2, channels=8, waves=6, seed=seed)


def segment(number: int, acting: TinyPolicy, decisions: int = 4, success: bool = True) -> Segment:
    """What `acting` would have done in a world of noise; later decisions are worth nothing unless it succeeds."""
    rng = np.random.default_rng(number)
    images = {"front": rng.integers(0, 256, (decisions + 1, 16, 16, 3), np.uint8)}
    proprio = rng.standard_normal((decisions + 1, 3)).astype(np.float32)
    seen = ObservationBatch({"front": images["front"][:-1]}, proprio[:-1], ("go",) * decisions)
    chosen = acting.act(seen, greedy=False)
    rewards = np.zeros(decisions, np.float32)
    rewards[-1] = success
    return Segment(
        assignment=Assignment(number % 2, 0, number),
        episode=number,
        start=0,
        instruction="go",
        images=images,
        proprio=proprio,
        tokens=chosen.tokens,
        logp=chosen.logp,
        values=chosen.values,
        rewards=rewards,
        executed=np.full(decisions, 2, np.int16),
        versions=np.zeros(decisions, np.int64),
        terminated=success,
        truncated=not success,
    )


class World:
    """A learner, and the inference ends of its links."""

    def __init__(self, folder: Path, numbers: Numbers | None = None, pace: float = 1.0, credits: int = 100) -> None:
        self.hub, self.meter, self.saved = Hub(), ListMeter(), []
        numbers = numbers or Numbers(batch=8, micro_batch=4, warmup=1, lr=1e-3)
        inference, mine = self.hub.ends("inference"), self.hub.ends("learner")
        receiver, publisher = mine.receiver("experience", credits), mine.publisher("policy_weights")
        self.sender, self.reader = inference.sender("experience"), inference.reader("policy_weights")
        limiter = RateLimiter(pace, slack_decisions=8, min_size=8)
        self.learner = Learner(
            trainer=Trainer(policy(), Algo(), numbers, seed=0),
            segments=receiver,
            weights=publisher,
            replay=Replay(50, folder / "replay", seed=0, limiter=limiter, order="fresh"),
            tasks=TaskWeights(2),
            numbers=numbers,
            meter=self.meter,
            save=self.saved.append,
        )
        self.loop = self.learner.run()

    def feed(self, count: int, **kwargs) -> int:
        """How many of `count` segments were taken."""
        acting = policy()
        return sum(self.sender.try_send(segment(i, acting, **kwargs)) for i in range(count))

    def turns(self, count: int) -> int:
        return sum(next(self.loop) for _ in range(count))


@pytest.fixture
def world(tmp_path: Path) -> World:
    torch.manual_seed(0)
    return World(tmp_path)


def test_it_publishes_before_it_has_learned_anything(world: World):
    world.turns(1)
    assert world.reader.poll().version == 0


def test_it_trains_at_the_pace_of_what_comes_in(world: World):
    world.feed(2)
    assert world.turns(30) == 2  # 8 decisions in, and the slack allows 8 more
    world.feed(4)
    assert world.turns(30) == 2
    assert world.learner.counters.decisions == 24 and world.learner.counters.sampled == 32


def test_every_update_is_a_version_that_readers_get(world: World):
    world.feed(2)
    world.turns(10)
    published = world.reader.poll()
    assert published.version == world.learner.counters.updates == 2
    copy = policy(seed=5)
    unpack(copy, published)
    for name, tensor in world.learner.trainer.policy.state_dict().items():
        assert torch.equal(tensor, copy.state_dict()[name]), name


def test_a_published_version_does_not_follow_the_training(world: World):
    live = world.learner.trainer.policy
    world.learner.weights.publish(Weights(7, pack(live)))
    before = live.queries.detach().clone()
    with torch.no_grad():
        live.queries.add_(1.0)
    assert torch.equal(torch.from_numpy(world.reader.poll().arrays["queries"]), before)


def test_unpacking_copies_no_parameter():
    given = Weights(0, {name: array.copy() for name, array in pack(policy()).items()})
    other = policy(seed=5)
    unpack(other, given)
    at = {name: array.__array_interface__["data"][0] for name, array in given.arrays.items()}
    assert all(p.data_ptr() == at[name] for name, p in other.named_parameters())
    assert all(b.data_ptr() != at[name] for name, b in other.named_buffers() if name in at)
    assert all(np.array_equal(array, given.arrays[name]) for name, array in pack(other).items())


def test_versions_of_another_policy_are_refused_by_name():
    arrays = pack(policy())
    arrays["other"] = arrays.pop("queries")
    with pytest.raises(RuntimeError, match="other"):
        unpack(policy(), Weights(0, arrays))


def test_a_learner_that_is_behind_stops_giving_credit(tmp_path: Path):
    world = World(tmp_path, Numbers(batch=8, micro_batch=8), credits=4)
    assert world.feed(9) == 4
    world.learner._exchange()
    assert world.feed(9) == 4  # 16 decisions in: still within the slack
    world.learner._exchange()
    assert world.feed(9) == 0  # 32 in and none trained: held back
    assert world.turns(10) >= 1
    assert world.feed(9) > 0


def test_a_replay_too_small_for_a_batch_is_refused_by_name(tmp_path: Path):
    world = World(tmp_path, Numbers(batch=512, micro_batch=8))
    world.feed(60)
    with pytest.raises(ValueError, match=r"raise replay\.capacity"):
        world.turns(3)


def test_a_learner_short_of_a_batch_takes_more_whatever_the_pace_says(tmp_path: Path):
    world = World(tmp_path, Numbers(batch=64, micro_batch=8), credits=4)
    for _ in range(3):  # 48 decisions are more than the slack, and less than a batch
        assert world.feed(4) == 4
        assert world.turns(1) == 0
    assert world.feed(4) == 4
    assert world.turns(3) >= 1


def test_failing_tasks_weigh_more(world: World):
    for i, success in enumerate((True, False, True, False)):
        world.sender.try_send(segment(i, policy(), success=success))
    world.turns(1)
    assert world.sender.task_weights.tolist() == [1.0, 3.0]
    assert world.learner.tasks.success_rate() == 0.5


def test_a_resumed_learner_makes_the_same_updates(tmp_path: Path):
    whole = World(tmp_path / "whole")
    whole.feed(6)
    whole.turns(2)
    whole.learner.checkpoint()
    [state] = whole.saved
    saved = {name: tensor.clone() for name, tensor in state["trainer"]["policy"].items()}
    state["trainer"] = dict(state["trainer"], policy=saved)
    resumed = World(tmp_path / "whole")
    resumed.learner.load(_deep(state), keep_replay=True)
    assert resumed.learner.replay.decisions == whole.learner.replay.decisions
    before = pack(resumed.learner.trainer.policy)
    assert all(np.array_equal(before[name], saved[name].numpy()) for name in saved)
    assert resumed.learner.counters == whole.learner.counters


def _deep(value):
    """A copy through the form that a checkpoint has on disk."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def test_it_ends_at_its_limit_with_a_checkpoint(tmp_path: Path):
    world = World(tmp_path, Numbers(batch=8, micro_batch=8, max_updates=1))
    world.feed(2)
    assert list(world.loop)[-1] is True
    assert [state["counters"]["updates"] for state in world.saved] == [1]


def train_alone(shuffle: bool, loss: str = "gipo", updates: int = 40) -> float:
    """Rewards low tokens on fixed observations; returns their probability afterwards (0.5 before)."""
    learned = policy()
    trainer = Trainer(
        learned,
        Algo(loss=loss, shuffle_advantages=shuffle, kl_coef=0.0),
        Numbers(batch=64, micro_batch=64, lr=3e-3, value_lr=3e-3, warmup=1),
        seed=0,
    )
    rng = np.random.default_rng(0)
    for update in range(updates):
        segments = [segment(int(rng.integers(8)), learned, decisions=1) for _ in range(64)]
        paid = [_paid(s) for s in segments]
        trainer.update(micro_batches(paid, 64), update)
    seen = ObservationBatch({"front": segments[0].images["front"][:1]}, segments[0].proprio[:1], ("go",))
    low = torch.zeros((1, 2, 2), dtype=torch.int64)
    logits = learned.evaluate(seen, low).logits
    return float(torch.softmax(logits.detach(), -1)[..., :8].sum(-1).mean())


def _paid(given: Segment) -> Segment:
    return replace(given, rewards=np.array([np.mean(given.tokens < 8)], np.float32))


@pytest.mark.parametrize("loss", ["gipo", "ppo"])
def test_updates_make_rewarded_tokens_likelier(loss: str):
    torch.manual_seed(0)
    assert train_alone(shuffle=False, loss=loss) > 0.8


def test_shuffled_advantages_teach_nothing():
    torch.manual_seed(0)
    assert train_alone(shuffle=True) < 0.7


class Dreaming(World):
    """A learner whose batches are imagined for a share."""

    def __init__(self, folder: Path, share: float, pace: float = 1.0, until: int = 0) -> None:
        super().__init__(folder, pace=pace)
        dreams = self.hub.ends("learner").receiver("dreams", 100)
        held = Replay(50, None, seed=0, limiter=RateLimiter(), order="fresh", max_uses=1)
        self.learner.dreams = Dreams(dreams, held, share, until)
        self.learner.__post_init__()
        self.learner.replay.limiter.min_size = max(1, round(8 * (1 - share)))
        self.dreamer = self.hub.ends("dreamer").sender("dreams")

    def dream(self, count: int) -> None:
        acting = policy()
        for i in range(count):
            self.dreamer.try_send(replace(segment(i, acting), imagined=True, world_version=3))


def test_batches_are_mixed_by_the_imagined_fraction(tmp_path: Path):
    world = Dreaming(tmp_path, share=0.5)
    world.feed(2)
    assert world.turns(10) == 0, "half of the batch is still to be dreamt"
    world.dream(2)
    assert world.turns(10) == 2
    counters = world.learner.counters
    assert counters.dreamt == 8 and counters.decisions == 8 and counters.sampled == 16
    assert world.meter.gauges["imagined_share"][-1] == 0.5


def test_with_imagination_alone_real_episodes_only_pace_and_count(tmp_path: Path):
    world = Dreaming(tmp_path, share=1.0, pace=4.0)
    world.dream(40)
    assert world.turns(10) == 0, "no real decision yet"
    world.feed(1)
    assert world.turns(40) == 3  # (4 - 1) * 4 trained ones for 4 real ones, and the slack of 8: begun at 0, 8, 16
    assert world.learner.replay.decisions == 0, "real segments are not held"
    assert world.learner.counters.decisions == 4 and world.learner.counters.episodes == 1
    world.feed(2)
    assert world.turns(40) > 0


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_policy_that_wakes_up_learns_from_reality_alone(tmp_path: Path, share: float):
    world = Dreaming(tmp_path, share=share, pace=4.0, until=16)
    world.dream(40)
    world.feed(1)
    assert world.turns(20) > 0
    dreams = world.learner.dreams
    assert dreams is not None, "eight steps of sixteen"
    world.feed(3)
    world.turns(20)
    assert world.learner.dreams is None
    left, practised = dreams.replay.decisions, world.learner.counters.sampled
    world.feed(10)
    world.turns(80)
    assert dreams.replay.decisions == left, "no dream is drawn"
    learnt = world.learner.counters.sampled - practised
    assert abs(learnt - 40) <= 16, "once from each of 40 decisions, give or take the slack of 8 and the batch at hand"


@pytest.mark.parametrize("warmup", [0, 5])
def test_values_that_warm_up_on_dreams_cost_no_real_episodes(tmp_path: Path, warmup: int):
    world = Dreaming(tmp_path, share=0.5, pace=4.0)
    world.learner.trainer.numbers = replace(world.learner.trainer.numbers, value_warmup=warmup)
    world.dream(40)
    world.feed(1)
    assert world.turns(40) == warmup + 2, "one real Segment of 4 pays for two batches, begun at 0 and 8"
    assert world.learner.counters.sampled == 8 * (warmup + 2)


def test_imagined_successes_are_not_counted_as_the_policys(tmp_path: Path):
    world = Dreaming(tmp_path, share=1.0)
    world.feed(1, success=False)
    world.dream(4)
    world.turns(3)
    assert world.learner.tasks.success_rate() == 0.0
    assert world.learner.counters.env_steps == 8


def test_a_learner_that_has_dreams_enough_asks_for_no_more(tmp_path: Path):
    world = Dreaming(tmp_path, share=1.0, pace=0.01)
    world.turns(1)
    world.dream(100)
    world.turns(2)
    assert world.dreamer.full
    world.feed(2)
    world.turns(1)
    assert world.learner.dreams.owed == 100
