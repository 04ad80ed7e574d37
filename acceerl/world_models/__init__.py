"""World models: start here to see what can dream. The sockets are `WorldModel` and `SuccessModel` in protocols.py.

`regression.py` predicts one frame at once and runs on a laptop, `diffusion/` samples it; `success.py` says when a
task is done; `imagined.py` makes an environment of the two; `quality.py` measures them; `saved.py` is their file.
"""
