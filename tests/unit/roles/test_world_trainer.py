"""One update of a world and a success model: losses fall, averages follow, resuming changes nothing."""

from __future__ import annotations

import copy
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from acceerl.channels.collective import Alone, Collective
from acceerl.protocols import WorldSpec
from acceerl.roles.world_trainer import FINAL_SHARE, Rates, WorldTrainer, drawn
from acceerl.types import ClipBatch
from acceerl.world_models.success import SuccessNet
from tests.unit.roles.ranks import Threads
from tests.unit.world_models.worlds import SPEC, moving, world

RATES = Rates(lr=3e-3, weight_decay=0.01)


def trainer(seed: int = 0, collective: Collective | None = None, rates: Rates = RATES) -> WorldTrainer:
    models = world(seed=seed), SuccessNet(SPEC, members=2, channels=8, seed=seed)
    return WorldTrainer(*models, rates, seed=5, collective=collective)


def windows(seed: int = 0, n: int = 8) -> ClipBatch:
    """The square ends at the left: that is what `go left` asks for."""
    made = moving(n, seed=seed)
    at_left = made.images["front"][:, -1, 4, 0, 0] == 230
    made.succeeded[:, -1] = at_left
    return replace(made, instructions=("go left",) * n)


def tensors(trained: WorldTrainer) -> dict[str, torch.Tensor]:
    return {f"{m}.{name}": t.clone() for m, model in trained.models.items() for name, t in model.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(t, other[name]) for name, t in one.items())


def test_updates_lower_both_losses_and_tell_them():
    trained = trainer()
    told = [trained.update(windows()) for _ in range(25)]
    for name in ("picture_loss", "success_loss"):
        assert told[-1][name] < 0.7 * told[0][name], name
    assert {"luck_loss", "world_grad_norm", "success_grad_norm"} <= told[0].keys()
    assert all(np.isfinite(value) for figures in told for value in figures.values())
    assert trained.updates == 25


def test_the_body_learns_first_and_nothing_else_does():
    trained = trainer()
    before, motion = tensors(trained), replace(windows(n=32), images={})
    first = trained.models["world"].body_loss(motion, torch.full((32,), 0.5)).item()
    assert trained.fit_body(motion, 300) < 0.5 * first
    changed = {name for name, tensor in tensors(trained).items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(name.startswith("world.body.") for name in changed)
    assert equal(trained.averaged()["world"], trained.models["world"].state_dict()), "others get what was learnt"


def test_the_law_alone_learns_from_windows_without_pictures_and_its_average_follows():
    trained = trainer(rates=replace(RATES, ema=0.5))
    before, motion = tensors(trained), replace(windows(n=32), images={})
    average = copy.deepcopy(trained.averaged()["world"])
    trained.learn_body(motion)
    after = tensors(trained)
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed and all(name.startswith("world.body.") for name in changed)
    for name, tensor in trained.averaged()["world"].items():
        torch.testing.assert_close(tensor, (average[name] + after[f"world.{name}"]) / 2)


def test_averages_follow_the_weights_ever_slower():
    """The n-th update keeps n / (n + 10) of the average, at most `ema`."""
    trained = trainer(rates=replace(RATES, ema=0.1))
    expected: dict[str, torch.Tensor] = {}
    for update in range(4):
        trained.update(windows())
        keep, now = min(0.1, update / (update + 10)), tensors(trained)
        expected = {n: t if not expected else keep * expected[n] + (1 - keep) * t for n, t in now.items()}
    found = {f"{m}.{n}": t for m, state in trained.averaged().items() for n, t in state.items()}
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)
    assert not equal(found, tensors(trained))


def test_a_model_with_an_average_of_its_own_is_asked_to_keep_it():
    class Own(type(world())):
        asked = 0

        def after_update(self) -> None:
            self.asked += 1

    own = Own(SPEC, channels=8, blocks=1, condition=32)
    trained = WorldTrainer(own, SuccessNet(SPEC, members=1, channels=8), RATES, seed=0)
    trained.update(windows())
    trained.update(windows())
    assert own.asked == 2
    assert equal(trained.averaged()["world"], own.state_dict()), "others get its state as it is"


def test_the_learning_rate_has_a_share():
    still = trainer()
    before = tensors(still)
    still.update(windows(), lr_share=0.0)
    assert equal(tensors(still), before)


def test_a_resumed_training_equals_an_unbroken_one():
    unbroken, motion = trainer(), replace(windows(n=32), images={})
    for update in range(2):
        unbroken.update(windows(update))
        unbroken.learn_body(motion)
    saved = io.BytesIO()
    torch.save(unbroken.state_dict(), saved)
    for update in range(2, 4):
        unbroken.update(windows(update))
        unbroken.learn_body(motion)
    saved.seek(0)
    resumed = trainer(seed=9)
    resumed.load_state_dict(torch.load(saved, weights_only=True))
    assert resumed.updates == 2
    for update in range(2, 4):
        resumed.update(windows(update))
        resumed.learn_body(motion)
    assert equal(tensors(resumed), tensors(unbroken))
    for name, average in unbroken.averaged().items():
        assert equal(resumed.averaged()[name], average)


def test_a_loaded_state_is_a_copy():
    state = copy.deepcopy(trainer().state_dict())
    resumed = trainer(seed=9)
    resumed.load_state_dict(state)
    resumed.update(windows())
    assert equal(state["averages"]["world"], trainer().averaged()["world"])


class Watching(SuccessNet):
    """It remembers what it was trained on."""

    def __init__(self, spec: WorldSpec = SPEC) -> None:
        super().__init__(spec, members=1, channels=8)
        self.seen: list[tuple[torch.Tensor, torch.Tensor, list[str], torch.Tensor, torch.Tensor]] = []

    def loss(self, images: Any, felt: Any, instructions: Any, labels: Any, counted: Any) -> Any:
        self.seen.append((images["front"], felt, list(instructions), labels, counted))
        return super().loss(images, felt, instructions, labels, counted)


def ending(spec: WorldSpec = SPEC) -> ClipBatch:
    """Eight windows of two ticks: the first four succeed after one step, of the others every second in the end."""
    made = moving(8, ticks=2, spec=spec)
    made.executed[:4] = [1, 0]
    made.valid[:4, 2] = False
    made.succeeded[:4, 1], made.succeeded[4::2, 2] = True, True
    return replace(made, instructions=("go left", "go left", "go right", "go right") * 2)


def test_a_tick_is_played_as_long_as_it_really_lasted(monkeypatch: pytest.MonkeyPatch):
    model, asked = world(seed=0), []
    predict = model.predict

    def heard(past: Any, actions: Any, executed: torch.Tensor) -> Any:
        asked.append(executed.tolist())
        return predict(past, actions, executed)

    monkeypatch.setattr(model, "predict", heard)
    trained = WorldTrainer(model, Watching(), RATES, seed=0)
    trained.updates = 1  # in which the success model may see what was dreamt
    trained.update(ending())
    assert asked == [[1] * 4 + [2] * 4] * 2, "one step at least, where nothing happened any more"


def watched(dreamt: bool, spec: WorldSpec = SPEC) -> tuple[torch.Tensor, torch.Tensor, list[str], Any, Any]:
    """What the success model is shown in the second of two updates, in which it may see what was dreamt."""
    success = Watching(spec)
    trainer = WorldTrainer(world(spec, seed=0), success, RATES, seed=0)
    trainer.updates = 1
    trainer.update(ending(spec), dreamt=dreamt)
    [seen] = success.seen
    return seen


@pytest.mark.parametrize("dreamt", [True, False])
def test_the_success_model_learns_at_which_step_of_each_tick(dreamt: bool):
    """And of each tick what did not happen: the next window's words, and gestures elsewhere."""
    images, felt, texts, labels, counted = watched(dreamt)
    assert len(images) == 16 and felt.shape == (48, SPEC.context + SPEC.stride, SPEC.proprio)
    words = list(ending().instructions) * 2
    assert texts == words + words[1:] + words[:1] + words
    once, never, last, both = [True, False], [False, False], [False, True], [True, True]
    assert labels[:16].tolist() == [once] * 4 + [never] * 4 + [never] * 4 + [last, never] * 2
    assert labels[16:32].tolist() == [once, never] * 2 + [never] * 8 + [last, never] * 2
    assert not labels[32:].any()
    assert counted[:32].tolist() == ([once] * 4 + [both] * 4 + [never] * 4 + [both] * 4) * 2


@pytest.mark.parametrize("dreamt", [True, False])
def test_later_ticks_begin_with_what_was_dreamt_or_with_the_truth(dreamt: bool):
    images, felt, *_ = watched(dreamt)
    true = {c: torch.from_numpy(x) for c, x in ending().images.items()}["front"]
    body = torch.from_numpy(ending().proprio)
    assert torch.equal(images[:8], true[:, 0])
    assert torch.equal(felt[:8, 0], body[:, 0]) and torch.equal(felt[16:32], felt[:16])
    assert torch.equal(images[8:], true[:, 1]) != dreamt
    assert torch.equal(felt[8:16, 0], felt[:8, -1] if dreamt else body[:, 1])
    assert not torch.equal(felt[:8, -1], body[:, 1]), "the path is the world model's either way"


def test_a_true_tick_is_felt_by_the_luck_that_came_true(monkeypatch: pytest.MonkeyPatch):
    model = world(seed=0)
    monkeypatch.setattr(model, "relived", lambda past, tick: torch.full((8, 2, 2), 7.0))
    success = Watching()
    trained = WorldTrainer(model, success, RATES, seed=0)
    trained.update(moving(), dreamt=False)
    assert (success.seen[0][1][:16, 1:] == 7).all(), "one tick, and the next window's words"
    trained.update(moving(), dreamt=True)
    assert not (success.seen[1][1] == 7).any()


@pytest.mark.parametrize("dreamt", [True, False])
def test_without_a_body_the_success_model_is_shown_where_ticks_end(dreamt: bool):
    spec = replace(SPEC, proprio=0)
    images, felt, _, labels, counted = watched(dreamt, spec)
    true = torch.from_numpy(ending(spec).images["front"])
    assert felt.shape == (32, SPEC.context + 1, 0)
    assert torch.equal(images[:8], true[:, 1]) != dreamt
    assert torch.equal(images[8:], true[:, 2]) != dreamt
    assert labels[:16, 0].tolist() == [True] * 4 + [False] * 8 + [True, False] * 2
    assert counted[:, 0].tolist() == ([True] * 8 + [False] * 4 + [True] * 4) * 2


def test_the_success_model_learns_first_from_true_ticks_and_nothing_else_does():
    trained = trainer()
    before = tensors(trained)
    loss = trained.fit_success(clips(), 40)
    after = tensors(trained)
    assert {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])} == {"success"}
    assert 0 < loss < 0.7 * trainer().fit_success(clips(), 1)
    assert trained.updates == 0 and equal(trained.averaged()["success"], trained.success.state_dict())
    again = trainer()
    assert again.fit_success(clips(), 40) == loss


def clips() -> Any:
    class Drawn:
        def draw(self, size: int, rng: np.random.Generator, final_share: float) -> ClipBatch:
            assert final_share == FINAL_SHARE
            return windows(int(rng.integers(100)), size)

    return Drawn()


def test_a_single_window_is_a_batch_too():
    figures = trainer().update(windows(n=1))
    assert all(np.isfinite(value) for value in figures.values())


def test_ranks_with_equal_windows_train_as_one_does(monkeypatch: pytest.MonkeyPatch):
    """Gradients are averaged, not added: two ranks of the same windows are one rank."""
    alone = trainer(collective=Alone())
    ranks = [trainer(rank.rank, rank) for rank in Threads.of(2)]

    def work(trained: WorldTrainer) -> dict[str, torch.Tensor]:
        monkeypatch.setattr(trained, "_number", lambda: trained.updates)  # ranks leave out other frames
        trained.share()
        for update in range(2):
            trained.update(windows(update))
        return tensors(trained)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(work, ranks)
    expected = work(alone)
    assert equal(first, second)
    for name, tensor in expected.items():
        torch.testing.assert_close(first[name], tensor, rtol=1e-6, atol=1e-7)


def test_ranks_with_other_windows_stay_equal():
    def work(trained: WorldTrainer) -> dict[str, torch.Tensor]:
        trained.share()
        for update in range(2):
            trained.update(windows(10 * trained.collective.rank + update))
        return tensors(trained)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(work, [trainer(rank.rank, rank) for rank in Threads.of(2)])
    assert equal(first, second)
    assert not equal(first, tensors(trainer()))


class Named:
    """Stands for windows of one kind, and remembers what was asked of it."""

    def __init__(self, text: str) -> None:
        self.text, self.asked = text, []

    def draw(self, size: int, rng: np.random.Generator, final_share: float) -> ClipBatch:
        self.asked.append((size, final_share))
        return replace(windows(n=size), instructions=(self.text,) * size)


def test_batches_mix_recorded_and_live_windows():
    recorded, live, rng = Named("recorded"), Named("live"), np.random.default_rng(0)
    texts = [text for _ in range(50) for text in drawn(recorded, live, 0.25, 8, rng).instructions]
    assert len(texts) == 400
    assert 0.2 < texts.count("recorded") / 400 < 0.3
    assert {share for _, share in recorded.asked + live.asked} == {FINAL_SHARE}
    assert all(size for size, _ in recorded.asked + live.asked), "an empty draw is left out"


@pytest.mark.parametrize(("recorded", "live", "text"), [(Named("a"), None, "a"), (None, Named("b"), "b")])
def test_either_alone_is_a_batch(recorded: Any, live: Any, text: str):
    assert drawn(recorded, live, 0.5, 4, np.random.default_rng(0)).instructions == (text,) * 4
