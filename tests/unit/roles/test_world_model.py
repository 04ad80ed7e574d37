"""The world_model role: it hands out contexts, trains at the pace of live episodes, publishes, and resumes."""

from __future__ import annotations

from dataclasses import replace

import torch

from acceerl.channels.inline import Hub
from acceerl.config import World as Numbers
from acceerl.roles.contexts import kept
from acceerl.roles.world_model import OWED, WorldModelRole, load_world
from acceerl.roles.world_trainer import Rates, WorldTrainer
from acceerl.runtime.metrics import ListMeter
from acceerl.stores.memory import Memory
from acceerl.types import ClipBatch
from tests.unit.roles.imagining import ALPHABET, Bright, Counting, episode

NUMBERS = Numbers(batch=4, updates_per_episode=0.5, publish_every=2, recorded_share=0.5, memory=5)


class Desk:
    """The role, and the other ends of its links."""

    def __init__(self, numbers: Numbers = NUMBERS, recorded=(), state=None, world=None) -> None:
        hub, self.meter, self.saved = Hub(), ListMeter(), []
        mine = hub.ends("world_model")
        self.contexts = hub.ends("dreamer").receiver("contexts", 3)
        self.weights = hub.ends("dreamer").reader("world_weights")
        self.role = WorldModelRole(
            WorldTrainer(world or Counting(), Bright(), Rates(0.1, 0.0, ema=0.0), seed=0),
            Memory([kept(e, ALPHABET) for e in recorded], numbers.memory), ALPHABET, mine.receiver("reality", 32),
            [mine.sender("contexts")], mine.publisher("world_weights"), numbers, self.meter, self.saved.append,
            checkpoint_every=1e9, seed=0,
        )  # fmt: skip
        if state is not None:
            self.role.load(state)
        self.reality = hub.ends("inference").sender("reality")
        self.loop = self.role.run()

    def turns(self, count: int) -> int:
        return sum(bool(next(self.loop)) for _ in range(count))


def test_models_are_published_before_anything_was_learnt():
    desk = Desk()
    desk.turns(1)
    assert desk.weights.poll().version == 0


def test_without_any_episode_there_is_nothing_to_hand_out():
    desk = Desk()
    desk.turns(3)
    assert desk.contexts.poll() == []


def test_recorded_episodes_are_contexts_from_the_first_moment():
    desk = Desk(recorded=[episode(1), episode(2)])
    desk.turns(1)
    handed = desk.contexts.poll()
    assert len(handed) == 3, "every credit is used"
    assert all(int(segment.versions[0]) == -1 and segment.frames == {} for segment in handed)


def test_updates_are_paced_by_live_episodes_that_ended():
    desk = Desk()
    desk.turns(2)
    for i in range(4):
        desk.reality.try_send(episode(i))
    desk.reality.try_send(replace(episode(9), terminated=False))  # goes on
    desk.turns(20)
    assert desk.role.trainer.updates == 2 and desk.role.episodes == 4
    assert desk.weights.poll().version == 2


def test_a_law_of_the_body_goes_on_learning_from_windows_without_pictures():
    class Feeling(Counting):
        def body_loss(self, windows: ClipBatch, luck: torch.Tensor) -> torch.Tensor:
            asked.append(windows)
            levels.append(luck)
            return 0 * self.weight

    asked: list[ClipBatch] = []
    levels: list[torch.Tensor] = []
    desk = Desk(replace(NUMBERS, recorded_share=0.0, body_updates=3), recorded=[episode(1)], world=Feeling())
    for i in range(4):
        desk.reality.try_send(episode(i))
    desk.turns(20)
    assert len(asked) == 3 * desk.role.trainer.updates == 6
    assert all(luck.shape == (len(windows),) for windows, luck in zip(asked, levels, strict=True))
    assert len(torch.cat(levels).unique()) > 100, "each window at a level of its own"
    assert all(windows.images == {} and windows.proprio.shape[1:] == (2, 3) for windows in asked)


def test_the_success_model_learns_more_often_than_both_where_that_is_asked_for():
    desk = Desk(replace(NUMBERS, success_updates=3))
    learnt, both = [], desk.role.trainer.learn_success

    def counted(*args: object, **kwargs: object) -> dict[str, float]:
        learnt.append(desk.role.trainer.updates)
        return both(*args, **kwargs)  # type: ignore[arg-type]

    desk.role.trainer.learn_success = counted  # type: ignore[method-assign]
    for i in range(4):
        desk.reality.try_send(episode(i))
    desk.turns(20)
    assert learnt == [0, 1, 1, 1, 1, 2, 2, 2], "once within an update of both, then three times"


def test_whoever_waits_for_the_world_model_hears_when_it_has_caught_up():
    desk = Desk(replace(NUMBERS, publish_every=100, updates_per_episode=1.0))
    desk.turns(1)
    assert float(desk.weights.poll().arrays[OWED]) == 0
    for i in range(3):
        desk.reality.try_send(episode(i))
    desk.role._take()
    desk.role._publish()
    assert float(desk.weights.poll().arrays[OWED]) == 3
    desk.turns(10)
    last = desk.weights.poll()
    assert last.version == 3 and float(last.arrays[OWED]) == 0


def test_models_that_shall_stay_as_pretrained_do():
    desk = Desk(replace(NUMBERS, max_updates=0))
    for i in range(8):
        desk.reality.try_send(episode(i))
    desk.turns(10)
    assert desk.role.trainer.updates == 0 and len(desk.contexts.poll()) == 3


def test_the_oldest_live_episodes_leave():
    desk = Desk()
    for i in range(9):
        desk.reality.try_send(episode(i))
    desk.turns(3)
    assert [e.init_state for e in desk.role.memory.live] == [4, 5, 6, 7, 8]


def test_a_resumed_role_goes_on():
    desk = Desk(recorded=[episode(1)])
    for i in range(6):
        desk.reality.try_send(episode(i))
    desk.turns(10)
    desk.role.checkpoint()
    again = Desk(recorded=[episode(1)], state=desk.saved[-1])
    assert again.role.trainer.updates == desk.role.trainer.updates == 3 and again.role.episodes == 6
    again.turns(1)
    assert again.weights.poll().version == 3


def test_a_published_version_becomes_the_two_models():
    desk = Desk(recorded=[episode(1)])
    for i in range(4):
        desk.reality.try_send(episode(i))
    desk.turns(10)
    world, success = Counting(), Bright()
    load_world(world, success, desk.weights.poll())
    assert torch.equal(world.weight, desk.role.trainer.averaged()["world"]["weight"])
    assert float(success.weight.detach()) != 0


def test_the_first_updates_of_a_fresh_optimiser_are_short():
    """With its full rate of 0.1 Adam would move the weight by 0.1 at once, whatever the gradient."""
    desk = Desk(recorded=[episode(1)])
    for i in range(2):
        desk.reality.try_send(episode(i))
    desk.turns(6)
    assert desk.role.trainer.updates == 1
    assert 0 < float(desk.role.trainer.world.weight.detach()) < 0.01
