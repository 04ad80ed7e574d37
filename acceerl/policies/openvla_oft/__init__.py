"""OpenVLA-OFT with discrete actions, the 7B policy that acceerl is for. Start in `policy.py`, then `network.py`.

`images.py` (with `jpeg.py`), `prompts.py` and `actions.py` are what surrounds the network, `vision.py` and
`language.py` its parts, `shape.py` and `checkpoint.py` the published folders, `lora.py` what is trained, `memory.py`
what a GPU must hold, `flops.py` how much it computes, `serving.py` how it answers fast, `settings.py` what may be
configured.
"""

from acceerl.policies.openvla_oft.policy import OpenVlaOftPolicy

__all__ = ["OpenVlaOftPolicy"]
