"""Vision-language-action policies: start here to see what can be loaded, trained and plugged in.

Read `tiny.py` for the policy that runs on a laptop, `mlp.py` for the least that is one, `tokens.py` for how actions
become tokens and `saved.py` for the file that carries a policy from one job to the next.
"""

from acceerl.policies.mlp import MlpPolicy
from acceerl.policies.saved import load_policy, save_policy
from acceerl.policies.tiny import TinyPolicy

__all__ = ["MlpPolicy", "TinyPolicy", "load_policy", "save_policy"]
