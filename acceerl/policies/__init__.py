"""Vision-language-action policies: start here to see what can be loaded, trained and plugged in.

Read `tiny.py` for the policy that runs on a laptop, `mlp.py` for the least that is one, `tokens.py` for how actions
become tokens, `saved.py` for the file that carries a policy from one job to the next, and `openvla_oft/` for the 7B
policy that all of this is for.
"""

from acceerl.policies.mlp import MlpPolicy
from acceerl.policies.openvla_oft import OpenVlaOftPolicy
from acceerl.policies.saved import load_policy, save_policy
from acceerl.policies.tiny import TinyPolicy

__all__ = ["MlpPolicy", "OpenVlaOftPolicy", "TinyPolicy", "load_policy", "save_policy"]
