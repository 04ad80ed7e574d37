"""The law of the body: where a tick's actions take it, one control step after the other, without pictures.

Each step is the same small network, as each step obeys the same physics. So whether fingers that close now will meet
something, which hangs on where the hand is at that very step, is learnt from every step of a few hundred episodes; a
network that maps a whole tick at once lets grips hold that cannot, and a policy that practises finds them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from acceerl.protocols import WorldSpec

WIDTH, MEMORY = 192, 64


class Law(nn.Module):
    """Scaled proprioception float32 [N, K, P] and actions [N, S, D], of which `executed` [N] count, -> [N, S, P].

    Row s is the body after s + 1 steps; steps that are not executed change nothing. What cannot be read off the body
    now (does it hold something?) is remembered from the K ticks before.
    """

    def __init__(self, spec: WorldSpec) -> None:
        super().__init__()
        self.recall = _network(spec.context * spec.proprio, MEMORY)
        self.move = _network(spec.proprio + spec.action_dim + MEMORY, spec.proprio + MEMORY)

    def forward(self, past: Tensor, actions: Tensor, executed: Tensor) -> Tensor:
        body, memory = past[:, -1], self.recall(past.flatten(1)).tanh()
        path = []
        for step in range(actions.shape[1]):
            told = torch.cat([body, actions[:, step], memory], dim=1)
            moved, new = self.move(told).split([body.shape[1], MEMORY], dim=1)
            on = (step < executed)[:, None]
            body, memory = torch.where(on, body + moved, body), torch.where(on, new.tanh(), memory)
            path.append(body)
        return torch.stack(path, dim=1)


def _network(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, outputs)
    )
