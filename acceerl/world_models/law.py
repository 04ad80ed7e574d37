"""The law of the body: where a tick's actions take it, one control step after the other, without pictures.

Each step is the same small network, as each step obeys the same physics. So whether fingers that close now will meet
something, which hangs on where the hand is at that very step, is learnt from every step of a few hundred episodes; a
network that maps a whole tick at once lets grips hold that cannot, and a policy that practises finds them.

What the body cannot feel decides some ticks: the same grip holds six times in ten. The likeliest outcome alone would
let it hold in all dreams, and a policy that practises finds that, too. So the law is a quantile function: it is told a
level of luck, uniform in 0..1, and learns by the pinball loss (Koenker and Bassett 1978; implicit quantiles: Dabney et
al. 2018) what is exceeded in so many cases. Drawn luck then gives each outcome as often as it happens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from acceerl.protocols import WorldSpec

WIDTH, MEMORY = 192, 64


class Law(nn.Module):
    """Scaled proprioception float32 [N, K, P], actions [N, S, D], of which `executed` [N] count, luck [N] -> [N, S, P].

    Row s is the body after s + 1 steps; steps that are not executed change nothing. What cannot be read off the body
    now (does it hold something?) is remembered from the K ticks before.
    """

    def __init__(self, spec: WorldSpec) -> None:
        super().__init__()
        self.recall = _network(spec.context * spec.proprio, MEMORY)
        self.move = _network(spec.proprio + spec.action_dim + MEMORY + 1, spec.proprio + MEMORY)

    def forward(self, past: Tensor, actions: Tensor, executed: Tensor, luck: Tensor) -> Tensor:
        body, memory = past[:, -1], self.recall(past.flatten(1)).tanh()
        level, path = 2 * luck[:, None] - 1, []
        for step in range(actions.shape[1]):
            told = torch.cat([body, actions[:, step], memory, level], dim=1)
            moved, new = self.move(told).split([body.shape[1], MEMORY], dim=1)
            on = (step < executed)[:, None]
            body, memory = torch.where(on, body + moved, body), torch.where(on, new.tanh(), memory)
            path.append(body)
        return torch.stack(path, dim=1)


def pinball(error: Tensor, luck: Tensor) -> Tensor:
    """Twice the pinball loss of truth less prediction [N, ...] at levels [N]: the absolute error at a level of 0.5."""
    level = luck.view(-1, *[1] * (error.ndim - 1))
    return 2 * torch.maximum(level * error, (level - 1) * error)


def bent(shares: Tensor, luck: Tensor) -> Tensor:
    """The level [N] below which a part `luck` [N] of the mass lies, `shares` [N, L] of it in each of L equal ranges.

    So luck that is uniform comes out as likely as the shares say.

    >>> bent(torch.tensor([[0.5, 0.5], [0.8, 0.2]]), torch.tensor([0.3, 0.9]))
    tensor([0.3000, 0.7500])
    """
    upto = shares.cumsum(dim=1)
    place = torch.searchsorted(upto, luck[:, None]).clamp(max=shares.shape[1] - 1)
    share = shares.gather(1, place)
    within = (luck[:, None] - upto.gather(1, place) + share) / share.clamp(min=1e-6)
    return ((place + within.clamp(0, 1)) / shares.shape[1])[:, 0]


def _network(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, outputs)
    )
