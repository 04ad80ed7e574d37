"""Two learner ranks against one: real processes over gloo make the same ten updates, threads the same decisions."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from acceerl.channels.collective import Alone
from acceerl.channels.inline import Hub
from acceerl.config import Algo
from acceerl.config import Learner as Numbers
from acceerl.roles.gradients import check_equal, sum_gradients
from acceerl.roles.learner import Learner
from acceerl.roles.sharing import shares
from acceerl.roles.tasks import TaskWeights
from acceerl.roles.trainer import Trainer
from acceerl.runtime.metrics import ListMeter
from acceerl.runtime.registry import Registry
from acceerl.stores.replay import RateLimiter, Replay
from tests.unit.roles.ranks import (
    CASES,
    Case,
    Threads,
    once_more,
    policy,
    resumed,
    segment,
    trained,
    trainer,
)

ROOT = Path(__file__).parents[3]
# Wider kernels sum batches of different sizes in different orders: on a Xeon with AVX-512 ten updates differ by 1.1e-6.
NARROW = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}


def real_ranks(run: Path, size: int = 2) -> list[dict]:
    registry = Registry(run)
    try:
        command = [sys.executable, "-m", "tests.unit.roles.ranks", str(run)]
        environment = os.environ | NARROW | {"PYTHONPATH": str(ROOT)}
        ranks = [subprocess.Popen([*command, str(rank), str(size)], env=environment, cwd=ROOT) for rank in range(size)]
        assert [rank.wait(280) for rank in ranks] == [0] * size
    finally:
        registry.wait_closed()
    return [torch.load(run / f"trained.{rank}.pt", weights_only=True) for rank in range(size)]


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.double() - other.double()).norm() / other.double().norm().clamp(min=1e-12))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def reports(folder: Path) -> list[dict]:
    return real_ranks(folder)


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict:
    """What one rank makes of each case, in a process of its own, by the same kernels."""
    file = folder / "alone.pt"
    call = f"from {__name__} import write_alone; write_alone({str(file)!r})"
    subprocess.run([sys.executable, "-c", call], env=os.environ | NARROW, cwd=ROOT, check=True, timeout=280)
    return torch.load(file, weights_only=True)


def write_alone(file: str) -> None:
    made = {case.name: trained(Alone(), 0, case) for case in CASES}
    torch.save({name: (dict(one.policy.state_dict()), stats) for name, (one, stats) in made.items()}, file)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_two_ranks_make_the_updates_of_one(
    case: Case, alone: dict, reports: list[dict], capsys: pytest.CaptureFixture[str]
):
    """Same global batches, unequal parts, masked tokens, AdamW, clipping: same parameters, to 1e-6 of their norm."""
    (expected, stats), start = alone[case.name], trainer(Alone(), 0, case).policy.state_dict()
    ranks = [report[case.name] for report in reports]
    differences = {name: relative(ranks[0]["policy"][name], tensor) for name, tensor in expected.items()}
    moved = sum(not torch.equal(tensor, start[name]) for name, tensor in expected.items())
    with capsys.disabled():
        print(
            f"\n{case.name}, two ranks against one after 10 updates: {max(differences.values()):.1e} of a tensor's norm"
        )
    assert moved > 45, "ten updates must change something"
    assert max(differences.values()) <= 1e-6, differences
    for name in expected:
        assert torch.equal(ranks[0]["policy"][name], ranks[1]["policy"][name]), name
    for mine, theirs in zip(stats, ranks[1]["stats"], strict=True):
        for name in mine.keys() - {"update_s", "effective_sample_size"}:  # which is not a mean over decisions or tokens
            assert theirs[name] == pytest.approx(mine[name], rel=1e-3, abs=1e-5), name


@pytest.mark.slow
def test_a_policy_that_two_ranks_had_divided_goes_on_with_any_number(reports: list[dict], folder: Path):
    """The checkpoint was written beside an update; it holds what was there before."""
    alone = resumed(folder, Alone(), CASES[0])
    for name, tensor in alone.policy.state_dict().items():
        assert torch.equal(tensor, reports[0]["zero3-tiny-False"]["policy"][name]), name
    assert alone.updates == 10
    once_more(alone, Alone())
    for shard in ("none", "zero2"):
        theirs = reports[1][f"resumed-{shard}"]["policy"]
        worst = max(relative(theirs[name], tensor) for name, tensor in alone.policy.state_dict().items())
        assert worst <= 1e-6, shard


class Ranks:
    """Two learner ranks as threads, and the inference ends of their links."""

    def __init__(self, folder: Path, size: int = 2, **numbers) -> None:
        given = {"batch": 16, "micro_batch": 8, "checkpoint_every": 1e9} | numbers
        self.hub, self.saved, self.numbers = Hub(), [], Numbers(**given)
        self.inference = self.hub.ends("inference")
        self.reader = self.inference.reader("policy_weights")
        self.asked = [False] * size
        self.learners = [self._learner(folder, rank) for rank in Threads.of(size)]
        self.senders = [self.inference.sender("experience", [rank]) for rank in range(size)]
        self.loops = [learner.run() for learner in self.learners]

    def _learner(self, folder: Path, rank: Threads) -> Learner:
        ends = self.hub.ends("learner", rank.rank)
        limiter = RateLimiter(1.0, slack_decisions=16, min_size=16)
        lane = (rank.rank, rank.size)
        return Learner(
            trainer=Trainer(policy(seed=rank.rank), Algo(), self.numbers, 0, rank),
            segments=ends.receiver("experience", 100),
            weights=ends.publisher("policy_weights"),
            replay=Replay(50, folder / "replay", seed=0, limiter=limiter, order="fresh", lane=lane),
            tasks=TaskWeights(2),
            numbers=self.numbers,
            meter=ListMeter(),
            save=self.saved.append,
            collective=rank,
            stop=lambda: self.asked[rank.rank],
        )

    def feed(self, rank: int, count: int, first: int = 0, **kwargs) -> None:
        acting = policy()
        assert all(self.senders[rank].try_send(segment(first + i, acting, **kwargs)) for i in range(count))

    def together(self, call) -> list:
        """`call(rank)` in a thread for each."""
        with ThreadPoolExecutor(len(self.learners)) as pool:
            return list(pool.map(call, range(len(self.learners))))

    def turns(self, count: int) -> list[int]:
        """How many updates each rank made."""
        return self.together(lambda rank: sum(next(self.loops[rank]) for _ in range(count)))

    def parameters(self, rank: int) -> list[torch.Tensor]:
        return list(self.learners[rank].trainer.policy.state_dict().values())


def equal(ranks: Ranks) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ranks.parameters(0), ranks.parameters(1), strict=True))


def test_all_ranks_begin_with_rank_0s_policy_and_one_publishes(tmp_path: Path):
    ranks = Ranks(tmp_path)
    assert not equal(ranks)
    ranks.turns(1)
    assert equal(ranks)
    assert ranks.reader.poll().version == 0
    assert ("policy_weights", 1) not in ranks.hub.latest


def test_a_starved_rank_holds_nobody_up_and_learns_the_same(tmp_path: Path):
    ranks = Ranks(tmp_path)
    ranks.feed(0, 8)
    made, theirs = ranks.turns(12)
    assert made == theirs >= 2
    assert equal(ranks)
    assert len(ranks.learners[1].replay) == 0


def test_ranks_share_the_batch_and_count_it_once(tmp_path: Path):
    ranks = Ranks(tmp_path)
    ranks.feed(0, 4)
    ranks.feed(1, 4, first=4)
    ranks.turns(10)
    first, second = ranks.learners
    assert first.counters.updates == second.counters.updates >= 2
    assert first.counters.decisions == second.counters.decisions == 32
    assert first.counters.sampled == second.counters.sampled == 16 * first.counters.updates
    assert first.meter.counters["samples"] == first.counters.sampled
    assert "samples" not in second.meter.counters and "updates" not in second.meter.counters
    assert first.replay.limiter == second.replay.limiter


def test_the_pace_is_that_of_all_ranks_together(tmp_path: Path):
    ranks = Ranks(tmp_path)
    ranks.feed(0, 3)
    ranks.feed(1, 3, first=3)
    assert ranks.turns(30) == [2, 2]  # 24 decisions in, and the slack allows 16 more
    ranks.feed(1, 4, first=6)
    assert ranks.turns(30) == [1, 1]


def test_episodes_of_all_ranks_weigh_the_tasks(tmp_path: Path):
    ranks = Ranks(tmp_path)
    ranks.feed(0, 2, success=False)
    ranks.feed(1, 2, first=2)
    ranks.turns(1)
    assert [learner.tasks.weights().tolist() for learner in ranks.learners] == [[2.0, 2.0]] * 2
    assert ranks.senders[1].task_weights.tolist() == [2.0, 2.0]
    assert [learner.counters.episodes for learner in ranks.learners] == [4, 4]


@pytest.mark.parametrize("told", [0, 1])
def test_whichever_rank_is_asked_to_stop_all_save_and_leave(tmp_path: Path, told: int):
    ranks = Ranks(tmp_path)
    ranks.turns(2)
    ranks.asked[told] = True
    ranks.together(lambda rank: list(ranks.loops[rank]))
    assert [learner.finished for learner in ranks.learners] == [False, False]
    assert len(ranks.saved) == 1


def test_the_last_update_ends_all_ranks(tmp_path: Path):
    ranks = Ranks(tmp_path, max_updates=1)
    ranks.feed(1, 5)
    ranks.together(lambda rank: list(ranks.loops[rank]))
    assert [learner.finished for learner in ranks.learners] == [True, True]
    assert [state["counters"]["updates"] for state in ranks.saved] == [1]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_checkpoint_of_two_ranks_resumes_with_any_number(tmp_path: Path, size: int):
    ranks = Ranks(tmp_path)
    ranks.feed(0, 3)
    ranks.feed(1, 5, first=3)
    ranks.turns(4)
    ranks.learners[1].wants_checkpoint = True  # the request may reach any rank
    ranks.turns(2)
    [state] = ranks.saved
    resumed = Ranks(tmp_path, size)
    for learner in resumed.learners:
        learner.load(state, keep_replay=True)
    assert sum(len(learner.replay) for learner in resumed.learners) == 8
    assert max(len(learner.replay) for learner in resumed.learners) <= -(-8 // size)
    assert all(learner.counters.decisions == 32 for learner in resumed.learners)
    resumed.turns(3)
    assert len({tuple(t.sum().item() for t in resumed.parameters(rank)) for rank in range(size)}) == 1


def test_a_rank_that_drifted_is_named():
    def check(rank: Threads) -> None:
        parameters = [torch.nn.Parameter(torch.ones(3))]
        check_equal(parameters, rank, 100)
        if rank.rank == 2:
            parameters[0].data[1] += 1e-6
        with pytest.raises(RuntimeError, match=r"^learner\[2\] drifted from learner\[0\]: .* at update 200"):
            check_equal(parameters, rank, 200)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(check, Threads.of(3)))


def test_gradients_are_added_up_bucket_by_bucket_and_missing_ones_stay_missing():
    def work(rank: Threads) -> list[torch.Tensor | None]:
        parameters = [torch.nn.Parameter(torch.zeros(n)) for n in (2, 3, 4)]
        parameters[0].grad = torch.full((2,), 1.0 + rank.rank)
        if rank.rank == 1:
            parameters[2].grad = torch.arange(4.0)
        sum_gradients(parameters, rank, bucket=5)
        return [p.grad for p in parameters]

    with ThreadPoolExecutor(2) as pool:
        for first, second, third in pool.map(work, Threads.of(2)):
            assert first.tolist() == [3.0, 3.0]
            assert second is None
            assert third.tolist() == [0.0, 1.0, 2.0, 3.0]


def test_added_gradients_lie_in_memory_as_their_parameters_do():
    """A fused optimiser would give the entries of a `channels_last` weight one another's gradients otherwise."""

    def work(rank: Threads) -> torch.nn.Parameter:
        weight = torch.nn.Parameter(torch.zeros(2, 3, 2, 2).to(memory_format=torch.channels_last))
        weight.grad = torch.arange(24.0).reshape(2, 3, 2, 2).to(memory_format=torch.channels_last)
        sum_gradients([weight], rank)
        assert weight.grad.stride() == weight.stride()
        torch.optim.AdamW([weight], lr=1.0, weight_decay=0.0, fused=True).step()
        return weight

    with ThreadPoolExecutor(2) as pool:
        for weight in pool.map(work, Threads.of(2)):
            assert weight[0, 0, 0, 0] == 0 and int((weight == 0).sum()) == 1, "only entry 0 had no gradient"
            assert torch.equal(weight.grad, 2 * torch.arange(24.0).reshape(2, 3, 2, 2))


def test_a_batch_is_divided_over_what_is_held():
    rng = np.random.default_rng(0)
    for _ in range(200):
        held = rng.integers(0, 40, rng.integers(1, 6)).astype(float)
        fresh = np.floor(held * rng.random(len(held)))
        batch = int(rng.integers(0, held.sum() + 1))
        given = np.array(shares(fresh, held, batch))
        assert given.sum() == batch
        assert (given <= held).all()
        if fresh.sum() >= batch:
            assert (given <= fresh).all(), "new decisions first"
        behind = given < fresh
        assert not behind.any() or given.max() <= given[behind].min() + 1, "evenly where there is enough"
