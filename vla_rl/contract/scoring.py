"""How a policy scores what was decided.

Each check takes a policy that remembers sentences and returns what it found; it raises
:class:`Broken` where the contract is broken. ``vla_rl/contract/policy.py`` lists and runs them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vla_rl.contract.finding import Broken, Finding
from vla_rl.contract.seen import ROWS, Seen, act
from vla_rl.policy import PolicyBase, Scores

EQUAL = 1e-4
"""Log-probs of acting and of updating may differ by this, relative to those above 1."""
KEPT = 0.1
"""What keeping features in 16 bits may change, as a share of what darker images change."""
BATCHES, BATCH = 32, 16
"""Decisions whose scores are averaged."""
UNLIKELY = 12.0
"""How many times its expected size the square of a mean score may be; by chance that happens to at
most one sound policy in two thousand."""


def logprobs(policy: PolicyBase) -> Finding:
    """Log-prob and value at the update are those of acting, for every density and frozen part."""
    seen, apart = Seen.by(policy), 0.0
    for frozen in ((), ("vlm",)):
        policy.freeze(frozen)
        for density in policy.densities:
            policy.use_density(density)
            chunk = act(policy, seen)
            policy.train()
            shown = seen.without_images() if policy.caches else seen
            scores = policy.evaluate(shown.obs, shown.words, chunk.raw, chunk.features)
            where = f"(density {density!r}, frozen: {', '.join(frozen) or 'nothing'})"
            _check_scores(scores, policy.units, where)
            for name, new, old in (
                ("log-prob", scores.logprob, chunk.logprob),
                ("value", scores.value, chunk.value),
            ):
                change = np.abs(new.detach().numpy() - old)
                apart = max(apart, float(change.max()))
                if (change > EQUAL * np.maximum(1, np.abs(old))).any():
                    raise Broken(
                        f"{name} at the update differs from that at acting by up to "
                        f"{change.max():.3g} {where}",
                        "score raw, what was sampled, with the same network: no dropout, no batch "
                        "statistics, no actions after clipping",
                    )
    return Finding(f"equal up to {apart:.1g}, for {', '.join(policy.densities)}")


def _check_scores(scores: Scores, units: int, where: str) -> None:
    for name, shape in (("logprob", [ROWS, units]), ("entropy", [ROWS, units]), ("value", [ROWS])):
        tensor: Tensor = vars(scores)[name]
        if list(tensor.shape) != shape or tensor.dtype != torch.float32:
            raise Broken(
                f"{name} is {tensor.dtype} {list(tensor.shape)} {where}",
                f"give float32 {shape}: one number for every unit, executed or not",
            )
        if not torch.isfinite(tensor).all():
            raise Broken(f"{name} is not finite {where}", "give finite numbers only")


def score(policy: PolicyBase) -> Finding:
    """The gradient of the log-prob has mean zero over what the policy itself decides.

    It has for every density that is normalised. Where not, rewards that are the same for all move
    the policy.
    """
    policy.freeze({"vlm", "critic"})
    head = policy.groups()["head"]
    seen, largest = Seen.by(policy, BATCHES * BATCH, alike=True), 0.0
    for density in policy.densities:
        policy.use_density(density)
        gradients = []
        for first in range(0, BATCHES * BATCH, BATCH):
            part = seen[slice(first, first + BATCH)]
            chunk = act(policy, part)
            scores = policy.evaluate(part.obs, part.words, chunk.raw, chunk.features)
            found = torch.autograd.grad(scores.logprob.sum(), head, allow_unused=True)
            gradients.append(torch.cat([g.flatten().double() for g in found if g is not None]))
        each = torch.stack(gradients)
        expected = float(each.var(0).sum()) / BATCHES
        size = float(each.mean(0).square().sum()) / max(expected, 1e-30)
        largest = max(largest, size)
        if size > UNLIKELY:
            raise Broken(
                f"the mean gradient of the log-prob is {size**0.5:.1f} times as large as chance "
                f"would have it (density {density!r})",
                "is every unit's density normalised, and of what was sampled (raw)?",
            )
    return Finding(f"mean zero up to chance ({largest**0.5:.1f} times its size)")


def features(policy: PolicyBase) -> Finding:
    """What is kept of the images of a frozen backbone stands for them."""
    seen = Seen.by(policy)
    whole = act(policy, seen, greedy=True).raw
    by_images = np.linalg.norm(act(policy, seen.dark(), greedy=True).raw - whole)
    policy.freeze({"vlm"})
    if not policy.caches:
        return Finding("none are kept")
    kept = policy.features(seen.obs, seen.words)
    acting = act(policy, seen, greedy=True)
    if kept.dtype != np.float16 or not np.array_equal(kept, acting.features):
        raise Broken(
            f"features() gives {kept.dtype} {list(kept.shape)} and acting keeps "
            f"{acting.features.dtype} {list(acting.features.shape)}, or other numbers",
            "let both give float16 features of the same images",
        )
    by_keeping = np.linalg.norm(acting.raw - whole)
    if by_keeping > KEPT * by_images:
        raise Broken(
            f"freezing the backbone changes actions by {by_keeping:.2g}, darker images by "
            f"{by_images:.2g}",
            "let from_cache(cache_features(images)) be what encode_images(images) is",
        )
    blind = bool(policy.spaces.views) and by_images == 0
    remark = "actions do not depend on the images" if blind else ""
    return Finding(f"{kept.shape[1]} numbers for each observation", remark)
