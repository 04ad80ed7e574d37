"""Writes the policy of a run on its own (RUN/policy.pt), the form that `start=` and `acceerl evaluate` read."""

from __future__ import annotations

from acceerl.policies.saved import save_policy
from acceerl.roles.learner import Learner
from acceerl.runtime.rundir import Run


def save_weights(run: Run, learner: Learner) -> None:
    """Rank 0 writes; where ranks have divided the policy, all must call."""
    gathered = learner.trainer.held.gathered()
    state = {name: tensor.cpu() for name, tensor in gathered if learner.leads}
    if learner.leads:
        policy, extra = learner.trainer.policy, {"updates": learner.counters.updates}
        save_policy(run.weights, policy, extra, state=state)  # type: ignore[arg-type]
