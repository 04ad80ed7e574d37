"""What a GPU must hold, by figures computed from the configuration: which processes share one, and what is refused."""

from __future__ import annotations

import pytest

from acceerl.config import Config
from acceerl.jobs import direct, gpu_memory
from acceerl.jobs.gpus import by_gpu
from acceerl.launch.compose import compose
from acceerl.runtime import placement

OURS = ["experiment=libero_spatial_openvla_oft", "policy.random=7b"]
GB = 1e9


@pytest.fixture(autouse=True)
def some_gpu(monkeypatch):
    monkeypatch.setattr(placement, "_has_gpu", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)


def config(*words: str) -> Config:
    return compose("train", [*OURS, *words])


@pytest.mark.parametrize("suite", ["spatial", "object", "goal", "10"])
def test_the_papers_settings_fit_a_gpu_of_80_gb(suite):
    made = compose("train", [f"experiment=libero_{suite}_openvla_oft", "policy.random=7b", "site.gpu_memory=80"])
    assert made.suite == made.env["suite"] == f"libero_{suite}"
    gpu_memory.check(made)
    assert (made.learner.lr, made.learner.value_lr, made.learner.warmup) == (1e-5, 1e-4, 500)
    assert made.learner.batch == 21 * made.learner.micro_batch
    assert (made.policy["rank"], made.algo.sigma, made.algo.kl_coef) == (32, 1.0, 0.1)


def test_a_dry_run_says_what_each_role_needs_and_what_there_is():
    lines = gpu_memory.lines(config("site.gpu_memory=80"))
    assert lines[0].startswith("memory of learner on its GPU, of 80.0 GB: ") and " GB = " in lines[0]
    assert [line.split()[2] for line in lines] == ["learner", "inference"]
    assert gpu_memory.lines(compose("train", [])) == []


def test_who_shares_a_gpu_is_known():
    assert by_gpu(config()) == {"0": ["inference", "learner"]}
    assert by_gpu(config("inference.device=cuda:1")) == {"0": ["learner"], "1": ["inference"]}
    ranks = by_gpu(config("learner.ranks=2", "inference.device=cuda:1"))
    assert ranks == {"0": ["learner"], "1": ["inference", "learner"]}
    cluster = by_gpu(config("launch=slurm", "placement=cluster", "placement.gpus=2"))
    assert sorted(cluster.values()) == [["inference"], ["learner"]]
    narrow = by_gpu(config("launch=slurm", "placement=cluster", "placement.gpus=1"))
    assert list(narrow.values()) == [["inference", "learner"]]


def test_what_cannot_fit_is_refused_with_role_need_room_and_fix():
    small = config("site.gpu_memory=18", "inference.device=cuda:1")
    needed = gpu_memory.plan(small)["learner"].total / GB
    assert needed > 18
    with pytest.raises(ValueError) as refused:
        gpu_memory.check(small)
    said = str(refused.value)
    assert said.startswith(
        f"placement row learner: needs {needed + 0.5:.1f} GB, the GPU allows 18.0 GB: lower learner."
    )
    assert "set policy.checkpointing=true where it is not" in said
    together = config("site.gpu_memory=36")
    with pytest.raises(ValueError, match=r"row inference\+learner: needs .* GB, .* or give each a GPU of its own"):
        gpu_memory.check(together)
    gpu_memory.check(config("site.gpu_memory=0", "launch=slurm"))


def test_dividing_a_policy_over_ranks_lets_it_fit():
    whole = gpu_memory.plan(config("policy.tune=full"))["learner"]
    parted = {
        shard: gpu_memory.plan(config("policy.tune=full", "learner.ranks=8", f"learner.shard={shard}"))["learner"]
        for shard in ("zero2", "zero3")
    }
    assert whole.total > 120 * GB > parted["zero2"].total > parted["zero3"].total
    assert parted["zero3"].optimiser == pytest.approx(whole.optimiser / 8, rel=1e-6)
    assert parted["zero3"].weights < whole.weights / 6
    assert parted["zero2"].activations == whole.activations


def test_a_segment_is_never_split_so_that_its_length_counts():
    short = gpu_memory.plan(config("learner.micro_batch=4"))["learner"]
    assert short.activations == gpu_memory.plan(config("learner.micro_batch=auto"))["learner"].activations
    longer = compose("train", ["experiment=libero_10_openvla_oft", "policy.random=7b"])
    assert gpu_memory.plan(longer)["learner"].activations > 2 * short.activations


def test_each_learner_rank_needs_a_gpu_that_is_there():
    with pytest.raises(ValueError, match=r"row learner: learner\.ranks=4 need a GPU each and get 2: raise placement"):
        gpu_memory.check(config("launch=slurm", "placement=one_node", "placement.gpus=2", "learner.ranks=4"))
    room = "site.gpu_memory=80"
    with pytest.raises(ValueError, match=r"row learner: needs GPU 2, counted from 0, but torch .* sees 2 here"):
        gpu_memory.check(config("learner.ranks=3", room))
    with pytest.raises(ValueError, match=r"row inference: needs GPU 5, .* sees 2 here"):
        gpu_memory.check(config("inference.device=cuda:5", room))
    gpu_memory.check(config("learner.ranks=2", room))


def test_one_gpu_keeps_each_process_to_its_share(monkeypatch):
    kept = []
    monkeypatch.setattr("torch.cuda.set_per_process_memory_fraction", lambda *args: kept.append(args))
    made = config("placement=one_gpu", "site.gpu_memory=80")
    for role in ("learner", "inference", "rollout"):
        gpu_memory.limit(made, role)
    assert kept == [(0.5, 0), (0.24, 0)]
    gpu_memory.check(made)
    with pytest.raises(ValueError, match=r"row inference: needs .* placement\.inference_gpu allows 8.0 GB: lower"):
        gpu_memory.check(config("placement=one_gpu", "site.gpu_memory=80", "placement.inference_gpu=0.1"))
    greedy = config("placement=one_gpu", "placement.learner_gpu=0.86")
    with pytest.raises(ValueError, match=r"may take 1\.10 of the GPU's memory together"):
        placement.rows(greedy)
    with pytest.raises(ValueError, match=r"no GPU for each of learner\.ranks=2"):
        config("placement=one_gpu", "learner.ranks=2")


def test_large_weights_go_from_gpu_to_gpu_where_they_can():
    apart = ["inference.device=cuda:1"]
    assert direct.state_bytes(config()) == pytest.approx(0.48 * GB, rel=0.1)
    assert not direct.between_gpus(config(*apart)), "LoRA is small"
    assert direct.between_gpus(config(*apart, "weights=nccl"))
    assert direct.between_gpus(config(*apart, "policy.tune=full"))
    assert not direct.between_gpus(config(*apart, "policy.tune=full", "weights=host"))
    assert not direct.between_gpus(config("policy.tune=full")), "both on one GPU"
    assert not direct.between_gpus(compose("train", []))


def test_versions_on_their_way_between_gpus_take_room_at_both_ends():
    """Two of 29 GB each: a GPU of 80 GB that holds one eighth of the training does not hold them."""
    words = ["policy.tune=full", "launch=slurm", "placement.gpus=8", "learner.ranks=7", "learner.shard=zero3"]
    through_host, direct_way = (gpu_memory.plan(config(*words, f"weights={way}")) for way in ("host", "nccl"))
    for role in ("learner", "inference"):
        assert through_host[role].copies == 0
        assert direct_way[role].copies == 2 * direct.state_bytes(config(*words)) > 58 * GB
        assert direct_way[role].total == through_host[role].total + direct_way[role].copies
    gpu_memory.check(config(*words, "weights=host", "site.gpu_memory=80"))
    with pytest.raises(ValueError, match=r"row inference: needs 10\d\.\d GB, .* 80\.0 GB: .*, or set weights=host"):
        gpu_memory.check(config(*words, "site.gpu_memory=80"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["inference.device=cpu"], "row inference: inference.device=cpu: set it to cuda, or set weights=host"),
        ([], r"row inference\+learner: share a GPU: give them one each, or set weights=host"),
        (["channels=inline"], "channels=inline has no registry"),
    ],
)
def test_nccl_that_cannot_be_is_refused(words, expected):
    with pytest.raises(ValueError, match=expected):
        direct.between_gpus(config("weights=nccl", *words))
