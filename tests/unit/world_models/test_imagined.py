"""Dreams over models whose answers are known: rewards, endings, limits, doubt, and one dream as an environment."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from acceerl.world_models.imagined import Imagination
from acceerl.world_models.imagined_env import ImaginedEnv
from acceerl.world_models.success import SuccessNet
from tests.unit.world_models.worlds import ENV, SPEC, Brighter, Flickering, Reading, moving, start, world


def dreams(*shades: int, spread: float = 0.0, **numbers: Any) -> Imagination:
    """Dreams of task 0, whose pixels and body begin at these shades; success at 65 of 128."""
    made = Imagination(Brighter(), Reading(spread), ENV, **numbers)
    made.reset([start(shade) for shade in shades])
    return made


def idle(n: int, steps: int = 4) -> np.ndarray:
    return np.zeros((n, steps, 2), np.float32)


def test_a_chunk_earns_what_it_gains_and_not_what_the_context_shows():
    dream = dreams(0, 40)
    outcomes = dream.step(idle(2))
    assert outcomes.rewards.tolist() == [4 / 128, 4 / 128]
    assert outcomes.executed.tolist() == [4, 4]
    assert not outcomes.terminated.any() and not outcomes.truncated.any()
    assert dream.probability.tolist() == [4 / 128, 44 / 128]


def test_rewards_add_up_to_the_last_probability_less_the_first():
    dream = dreams(3, 50)
    total = sum(dream.step(idle(2)).rewards for _ in range(5))
    assert total.tolist() == (dream.probability - np.array([3, 50]) / 128).tolist()
    assert dream.probability.tolist() == [13 / 128, 60 / 128]  # the limit of 10 steps, not 20


def test_a_context_that_shows_success_earns_nothing_for_it():
    dream = dreams(100)
    assert dream.step(idle(1, 2)).rewards.tolist() == [1 / 128], "of its first step, which ends it"
    assert dream.succeeded.tolist() == [True]


def test_paid_for_success_alone_a_dream_earns_one_at_its_end():
    dream = dreams(50, 62, reward="success")
    assert [dream.step(idle(2)).rewards.tolist() for _ in range(3)] == [[0, 1], [0, 0], [0, 0]]


def test_a_dream_ends_at_the_step_that_succeeds_and_stays_as_it_is():
    dream = dreams(62, 0)
    outcomes = dream.step(idle(2))
    assert outcomes.executed.tolist() == [3, 4]
    assert outcomes.rewards.tolist() == [3 / 128, 4 / 128]
    assert outcomes.terminated.tolist() == [True, False]
    assert not outcomes.truncated.any()
    seen = dream.observe()
    outcomes = dream.step(idle(2))
    assert outcomes.rewards.tolist() == [0.0, 4 / 128]
    assert outcomes.executed.tolist() == [0, 4]
    assert not outcomes.terminated.any() and not outcomes.truncated.any(), "it ended before"
    after = dream.observe()
    assert np.array_equal(after.images["front"][0], seen.images["front"][0])
    assert np.array_equal(after.proprio[0], seen.proprio[0])
    assert after.images["front"][1, 0, 0, 0] == 8


def test_success_in_the_first_tick_of_a_chunk_leaves_the_second_out():
    outcomes = dreams(63).step(idle(1))
    assert outcomes.executed.tolist() == [2]
    assert outcomes.rewards.tolist() == [2 / 128]
    assert outcomes.terminated.tolist() == [True]


def test_success_at_the_first_step_of_a_tick_leaves_the_second_out():
    dream = dreams(64)
    outcomes = dream.step(idle(1, 2))
    assert dream.world.asked == [[2]], "which was meant to be played"
    assert outcomes.executed.tolist() == dream.steps.tolist() == [1]
    assert outcomes.rewards.tolist() == [1 / 128]
    assert (outcomes.terminated.tolist(), outcomes.truncated.tolist()) == ([True], [False])


class Saying(Reading):
    """It says this of the steps of every tick, and nothing of a context."""

    def __init__(self, *opinions: float) -> None:
        super().__init__()
        self.opinions = torch.tensor(opinions)

    def probability(self, images, felt, instructions):
        steps = felt.shape[1] - self.spec.context
        said = self.opinions if steps == len(self.opinions) else torch.zeros(steps)
        return said[:, None].expand(len(felt), -1, 2)


@pytest.mark.parametrize(
    ("opinions", "done", "probability", "executed", "succeeds"),
    [
        ((0.75, 0.875), 0, 0.75, 1, True),  # the first above the threshold, not the likeliest
        ((0.75, 0.125), 0, 0.75, 1, True),  # what would have come next takes nothing back
        ((0.25, 0.75), 0, 0.75, 2, True),
        ((0.25, 0.125), 0, 0.25, 2, False),  # the likeliest of those that are not
        ((0.25, 0.75), 6, 0.25, 1, False),  # the limit of 7 comes first
        ((0.75, 0.875), 6, 0.75, 1, True),
    ],
)
def test_a_tick_lasts_to_its_first_step_above_the_threshold(
    opinions: tuple[float, float], done: int, probability: float, executed: int, succeeds: bool
):
    dream = Imagination(Brighter(), Saying(*opinions), ENV)
    dream.reset([start(0, task=1, steps=done)])
    outcomes = dream.step(idle(1, 2))
    assert dream.probability.tolist() == dream.peak.tolist() == outcomes.rewards.tolist() == [probability]
    assert outcomes.executed.tolist() == [executed]
    assert outcomes.terminated.tolist() == dream.succeeded.tolist() == [succeeds]
    assert outcomes.truncated.tolist() == [done == 6 and not succeeds]


def test_without_a_body_the_end_of_a_tick_is_judged():
    """By its frames. Success tells no step then: the tick lasts as long as it was meant to."""
    spec = replace(SPEC, proprio=0)
    dream = Imagination(Brighter(spec), Reading(spec=spec), ENV)
    dream.reset([start(63, spec=spec), start(62, spec=spec), start(64, task=1, steps=6, spec=spec)])
    outcomes = dream.step(idle(3, 2))
    assert outcomes.executed.tolist() == [2, 2, 1]
    assert outcomes.rewards.tolist() == [2 / 128, 2 / 128, 1 / 128]
    assert (outcomes.terminated.tolist(), outcomes.truncated.tolist()) == ([True, False, True], [False] * 3)
    assert dream.observe().proprio.shape == (3, 0)


def test_the_step_limit_cuts_a_tick_short():
    dream = Imagination(Brighter(), Reading(), ENV)
    dream.reset([start(0, task=1), start(0, task=0), start(0, task=1, steps=6)])  # limits 7, 10, and 7 of which 6 done
    outcomes = [dream.step(idle(3)) for _ in range(3)]
    assert [o.executed.tolist() for o in outcomes] == [[4, 4, 1], [3, 4, 0], [0, 2, 0]]
    assert [o.truncated.tolist() for o in outcomes] == [
        [False, False, True], [True, False, False], [False, True, False],
    ]  # fmt: skip
    assert not any(o.terminated.any() for o in outcomes)
    assert dream.steps.tolist() == [7, 10, 7]
    assert dream.observe().images["front"][:, 0, 0, 0].tolist() == [7, 10, 1], "the model is told how much is executed"


def test_success_at_the_limit_is_no_truncation():
    dream = Imagination(Brighter(), Reading(), ENV)
    dream.reset([start(63, task=1, steps=5)])
    outcomes = dream.step(idle(1))
    assert dream.steps.tolist() == dream.limits.tolist()
    assert (outcomes.terminated.tolist(), outcomes.truncated.tolist()) == ([True], [False])


def test_doubt_takes_the_spread_off():
    assert dreams(64, spread=0.25).probability.tolist() == [0.5]
    assert dreams(64, spread=0.25, doubt=1.0).probability.tolist() == [0.25]
    assert dreams(10, spread=0.25, doubt=2.0).probability.tolist() == [0.0], "a probability is never below 0"


def test_the_threshold_decides_the_end():
    assert dreams(64, threshold=0.9).step(idle(1)).terminated.tolist() == [False]


def test_a_dream_sees_what_is_played_and_how_long():
    dream = dreams(0, 5)
    dream.step(idle(2))
    assert dream.world.asked == [[2, 2], [2, 2]]
    seen = dream.observe()
    assert seen.images["front"].dtype == np.uint8
    assert seen.images["front"][:, 3, 3, 1].tolist() == [4, 9]
    assert seen.proprio[:, 0].tolist() == [4.0, 9.0]
    assert seen.instructions == ("go left",) * 2


def test_later_frames_of_the_past_are_the_dreams_own():
    spec = replace(SPEC, context=3)
    dream = Imagination(Brighter(spec), Reading(spec=spec), ENV)
    dream.reset([start(7, spec=spec)])
    dream.tick(np.full((1, 2, 2), 0.5, np.float32))
    assert dream.past.images["front"][0, :, 0, 0, 0].tolist() == [7, 7, 9]
    assert dream.past.actions[0, :, 0, 0].tolist() == [0.0, 0.5]


def test_many_dreams_are_as_many_single_ones():
    """Regression, float32: what one dream is must not depend on its neighbours."""
    models, windows = (world(seed=1), SuccessNet(SPEC, members=2, channels=8, seed=2)), moving(4)
    starts = [start(0, images={"front": windows.images["front"][i, :1]}) for i in range(4)]
    actions = np.random.default_rng(0).uniform(-1, 1, (4, 6, 2)).astype(np.float32)
    together = Imagination(*models, ENV, threshold=0.99, lucky=False)
    together.reset(starts)
    outcomes, seen = together.step(actions), together.observe()
    for i in range(4):
        alone = Imagination(*models, ENV, threshold=0.99, lucky=False)
        alone.reset(starts[i : i + 1])
        np.testing.assert_allclose(alone.step(actions[i : i + 1]).rewards[0], outcomes.rewards[i], atol=1e-5)
        frames = alone.observe().images["front"][0].astype(int)
        assert np.abs(frames - seen.images["front"][i]).max() <= 1  # a sum in another order rounds otherwise
        np.testing.assert_allclose(alone.observe().proprio[0], seen.proprio[i], atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": {"side": np.zeros((1, 16, 16, 3), np.uint8)}}, r"has no camera front \(it has side\)"),
        ({"images": {"front": np.zeros((1, 32, 32, 3), np.uint8)}}, r"\(1, 32, 32, 3\) of camera front: .* \(16, 16\)"),
        ({"images": {"front": np.zeros((2, 16, 16, 3), np.uint8)}}, "the world model needs 1 of"),
        ({"actions": np.zeros((0, 2, 7), np.float32)}, r"actions \(0, 2, 7\): the world model needs \(0, 2, 2\)"),
        ({"actions": np.zeros((0, 8, 2), np.float32)}, r"actions \(0, 8, 2\): the world model needs \(0, 2, 2\)"),
        ({"proprio": np.zeros((1, 1), np.float32)}, "1 entries of proprioception: the world model needs 2"),
    ],
)
def test_a_context_of_another_kind_is_refused(changes: dict, message: str):
    dream = Imagination(Brighter(), Reading(), ENV)
    with pytest.raises(ValueError, match=message):
        dream.reset([start(0), start(0, **changes)])


def test_a_second_camera_of_another_size_is_refused():
    spec = replace(SPEC, cameras=("front", "wrist"))
    images = start(0, spec=spec).images | {"wrist": np.zeros((1, 8, 8, 3), np.uint8)}
    with pytest.raises(ValueError, match="of camera wrist"):
        Imagination(Brighter(spec), Reading(), ENV).reset([start(0, images=images)])


def test_each_tick_of_each_dream_draws_its_luck():
    world = Brighter()
    draws = []
    for seed in (0, 0, 1):
        dream = Imagination(world, Reading(), ENV, threshold=2.0, seed=seed)
        dream.reset([start(0) for _ in range(50)])
        told = []
        for _ in range(4):
            dream.step(np.zeros((50, 2, 2), np.float32))
            assert world.luck is not None and world.luck.shape == (50,)
            told.append(world.luck)
        draws.append(torch.stack(told))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert len(draws[0].unique()) == 200, "none is drawn twice"
    assert draws[0].min() >= 0 and draws[0].max() < 1 and 0.4 < draws[0].mean() < 0.6


def test_where_luck_is_not_drawn_the_middle_outcome_follows():
    world = Brighter()
    dream = Imagination(world, Reading(), ENV, lucky=False)
    dream.reset([start(0)])
    dream.step(np.zeros((1, 2, 2), np.float32))
    assert world.luck is None


# One dream as an environment; the contract suite holds what every Env promises.


def imagined(noisy: bool = False, contexts: tuple[int, ...] = (3, 2), **numbers: Any) -> ImaginedEnv:
    imagination = Imagination(Flickering() if noisy else Brighter(), Reading(), ENV, **numbers)
    starts = [[start(10 * task + i, task) for i in range(n)] for task, n in enumerate(contexts)]
    return ImaginedEnv(imagination, starts)


def first_pixel(env: ImaginedEnv) -> int:
    return int(env.observe().images["front"][0, 0, 0])


def test_rewards_come_with_the_tick_that_a_step_completes():
    env = imagined()
    env.reset(0, 0, seed=0)
    results = [env.step(np.zeros(2)) for _ in range(10)]
    assert [result.reward for result in results] == [0.0, 2 / 128] * 5
    assert [result.truncated for result in results] == [False] * 9 + [True]


def test_an_environment_pays_as_its_imagination_does():
    env = imagined(threshold=3 / 128, reward="success")
    env.reset(0, 0, seed=0)
    results = [env.step(np.zeros(2)) for _ in range(5)]
    assert [result.reward for result in results] == [0.0, 0.0, 0.0, 1.0, 0.0]
    assert [result.terminated for result in results] == [False] * 3 + [True] * 2


def test_a_limit_inside_a_tick_is_kept_to():
    env = imagined()
    env.reset(1, 0, seed=0)
    results = [env.step(np.zeros(2)) for _ in range(7)]
    assert [result.truncated for result in results] == [False] * 6 + [True]
    assert results[-1].reward == 1 / 128
    assert first_pixel(env) == 17


def test_between_two_ticks_what_would_be_seen_is_predicted():
    env = imagined()
    env.reset(0, 0, seed=0)
    seen = []
    for _ in range(4):
        env.step(np.zeros(2))
        seen.append(first_pixel(env))
    assert seen == [1, 2, 3, 4]


def test_an_environment_that_is_over_stays_as_it_is():
    env = imagined()
    env.reset(1, 0, seed=0)
    for _ in range(7):
        env.step(np.zeros(2))
    before = env.state()
    assert env.step(np.zeros(2)) == env.step(np.zeros(2))
    assert not env.success
    assert first_pixel(env) == 17
    assert np.array_equal(env.state(), before)


def test_evaluation_contexts_are_no_training_contexts_of_any_task():
    env = imagined(contexts=(4, 2))
    assert (env.spec.train_states, env.spec.eval_states) == (range(3), range(3, 4))
    shown: dict[int, list[int]] = {0: [], 1: []}
    for task, shades in shown.items():
        for state in (*env.spec.train_states, *env.spec.eval_states):
            env.reset(task, state, seed=0)
            shades.append(first_pixel(env))
    assert shown == {0: [0, 1, 2, 3], 1: [10, 10, 10, 11]}


def test_noise_follows_from_the_seed_and_looking_changes_nothing():
    env, other = imagined(noisy=True), imagined(noisy=True)
    env.reset(0, 0, seed=1)
    other.reset(0, 0, seed=1)
    for _ in range(5):
        env.step(np.zeros(2))
        assert np.array_equal(env.observe().images["front"], env.observe().images["front"])
        other.step(np.zeros(2))
        assert np.array_equal(env.state(), other.state())
    saved = env.state()
    other.reset(0, 0, seed=2)
    for _ in range(5):
        other.step(np.zeros(2))
    assert not np.array_equal(saved[7:], other.state()[7:])
    other.set_state(saved)
    env.step(np.zeros(2))
    other.step(np.zeros(2))
    assert np.array_equal(env.state(), other.state()), "a restored dream goes on with the same noise"


def test_luck_stays_the_same_through_a_tick():
    env = imagined()
    env.reset(0, 0, seed=3)
    luck = []
    for _ in range(6):
        env.step(np.zeros(2))
        env.observe()
        luck.append(float(env.imagination.world.luck))
    assert luck[0] == luck[1] and luck[2] == luck[3], "what is seen in the middle of a tick is on the way to its end"
    assert len(set(luck)) == 3


def test_the_spec_is_of_what_is_shown():
    spec = replace(SPEC, proprio=0)
    starts = [[start(i, task, spec=spec) for i in range(2)] for task in range(2)]
    env = ImaginedEnv(Imagination(Brighter(spec), Reading(spec=spec), ENV), starts)
    env.reset(0, 0, seed=0)
    assert env.observe().proprio.shape == (env.spec.proprio,) == (0,)


@pytest.mark.parametrize("contexts", [(), (2,), (2, 0), (2, 1)])
def test_a_task_without_contexts_to_train_on_is_refused(contexts: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"2 tasks with \(.*\) contexts, 1 of each held out"):
        imagined(contexts=contexts)
