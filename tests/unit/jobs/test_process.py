"""Which links a process names to its peers: exactly those that its role makes ends of."""

from __future__ import annotations

import pytest

from acceerl.config import from_dict
from acceerl.jobs.process import links_of


@pytest.mark.parametrize(
    ("role", "index", "links"),
    [
        ("rollout", 0, ["observe", "act"]),
        ("evaluator", 0, ["observe", "act"]),
        ("learner", 0, ["experience", "policy_weights"]),
        ("inference", 1, ["observe", "act", "experience", "policy_weights"]),
        ("inference", 2, ["observe", "act", "policy_weights"]),  # the evaluators'
    ],
)
def test_a_process_names_the_links_that_it_has_ends_of(role, index, links):
    config = from_dict({"inference": {"instances": 2}, "evaluator": {"processes": 1}})
    assert links_of(config, role, index) == links
