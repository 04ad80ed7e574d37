"""`acceerl export`: a policy file back into the layout of the checkpoint that the policy was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from acceerl.policies.openvla_oft import OpenVlaOftPolicy
from acceerl.policies.saved import load_policy


def run(where: str, to: str, adapter: str, checkpoint: str) -> None:
    """`where`: a run directory or a policy file; `to` and `adapter`: folders, either may be empty.

    `checkpoint`: where the one that the policy was made from is now; empty: where it was.

    Raises ValueError when both are, or for a policy that came from no checkpoint.
    """
    if not to and not adapter:
        raise ValueError("acceerl export: give to=FOLDER, adapter=FOLDER or both")
    path = Path(where) / "policy.pt" if Path(where).is_dir() else Path(where)
    moved: dict[str, Any] = {"checkpoint": checkpoint} if checkpoint else {}
    policy, _ = load_policy(path, **moved)
    if not isinstance(policy, OpenVlaOftPolicy):
        raise ValueError(f"{path}: a {policy.kind!r} policy came from no checkpoint: `start=` and `evaluate` read it")
    if to:
        policy.export(to)
        print(f"{to}: the whole model")
    if adapter:
        policy.export_adapter(adapter)
        print(f"{adapter}: its adapters")
