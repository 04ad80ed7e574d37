"""The starting policies inside the package: small, loadable, and described by the card beside them."""

import hashlib

from acceerl.policies import load_policy
from acceerl.policies.saved import SHIPPED, shipped


def test_every_shipped_policy_loads_is_small_and_matches_its_card():
    for path in SHIPPED.glob("*.pt"):
        policy, extra = load_policy(shipped(path.stem))
        assert sum(p.numel() for p in policy.parameters()) < 3e6
        assert path.stat().st_size <= 4 * 2**20
        assert "recipe" in extra
        card = path.with_suffix(".md").read_text()
        assert hashlib.sha256(path.read_bytes()).hexdigest() in card
