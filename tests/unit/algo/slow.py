"""The formulas of acceerl.algo as plain Python loops over floats: slow, obvious, the truth that tests compare to."""

from __future__ import annotations

import math


def gipo(logp, behaviour, advantages, sigma, mask):
    """Nested lists [N][C][D]; advantages [N]."""
    terms = []
    for n in range(len(logp)):
        for c in range(len(logp[n])):
            for d in range(len(logp[n][c])):
                if mask[n][c][d]:
                    ratio = math.exp(logp[n][c][d] - behaviour[n][c][d])
                    weight = math.exp(-0.5 * (math.log(ratio) / sigma) ** 2)
                    terms.append(weight * ratio * advantages[n])
    return -sum(terms) / len(terms)


def ppo(logp, behaviour, advantages, clip, mask):
    terms = []
    for n in range(len(logp)):
        for c in range(len(logp[n])):
            for d in range(len(logp[n][c])):
                if mask[n][c][d]:
                    ratio = math.exp(logp[n][c][d] - behaviour[n][c][d])
                    clipped = max(1 - clip, min(1 + clip, ratio))
                    terms.append(min(ratio * advantages[n], clipped * advantages[n]))
    return -sum(terms) / len(terms)


def gae(rewards, values, terminated, truncated, bootstrap, gamma, lam):
    """One segment without padding: the advantage is the discounted sum of TD errors until the trace is cut."""
    steps = len(rewards)
    following = [*values[1:], bootstrap]
    errors = [
        rewards[t] + (0.0 if terminated[t] else gamma * following[t]) - values[t] for t in range(steps)
    ]  # fmt: skip
    advantages = []
    for t in range(steps):
        total, discount = 0.0, 1.0
        for k in range(t, steps):
            total += discount * errors[k]
            if terminated[k] or truncated[k]:
                break
            discount *= gamma * lam
        advantages.append(total)
    return advantages, [a + v for a, v in zip(advantages, values, strict=True)]


def pick(values, mask):
    """Flat list of the unmasked entries of two flat lists."""
    return [v for v, m in zip(values, mask, strict=True) if m]


def kl_k3(logp, behaviour):
    terms = [math.exp(a - b) - 1 - (a - b) for a, b in zip(logp, behaviour, strict=True)]
    return sum(terms) / len(terms)


def effective_share(logp, behaviour):
    ratios = [math.exp(a - b) for a, b in zip(logp, behaviour, strict=True)]
    return sum(ratios) ** 2 / sum(r * r for r in ratios) / len(ratios)
