"""Writes the policy of a run on its own (RUN/policy.pt), the form that `start=` and `acceerl evaluate` read."""

from __future__ import annotations

from acceerl.policies.saved import save_policy
from acceerl.protocols import Policy
from acceerl.runtime.rundir import Run


def save_weights(run: Run, policy: Policy, updates: int) -> None:
    save_policy(run.weights, policy, {"updates": updates})  # type: ignore[arg-type]
