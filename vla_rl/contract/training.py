"""Which weights of a policy are trained, and by what.

Each check takes a policy that remembers sentences and returns what it found; it raises
:class:`Broken` where the contract is broken. ``vla_rl/contract/policy.py`` lists and runs them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator, Tensor

from vla_rl.contract.finding import Broken, Finding
from vla_rl.contract.seen import Seen, act, elsewhere
from vla_rl.policy import GROUPS, PolicyBase, Scores
from vla_rl.types import Floats


def groups(policy: PolicyBase) -> Finding:
    """``groups()`` names every trainable parameter once, also while some are frozen."""
    names = {id(parameter): name for name, parameter in policy.named_parameters()}
    found = policy.groups()
    if set(found) != set(GROUPS):
        raise Broken(f"groups are {', '.join(found)}", f"name {', '.join(GROUPS)}, empty ones too")
    listed = [id(parameter) for members in found.values() for parameter in members]
    trained = {id(p) for p in policy.parameters() if p.requires_grad}
    for what, which, advice in (
        ("twice", {i for i in listed if listed.count(i) > 1}, "each belongs to one group"),
        ("not at all", trained - set(listed), "or call requires_grad_(False) if it is not trained"),
    ):
        if which:
            where = ", ".join(sorted(names.get(i, "?") for i in which)[:5])
            raise Broken(f"{where} listed {what}", f"list it once in groups(); {advice}")
    if set(listed) - names.keys():
        raise Broken("a parameter in groups() is not one of the policy", "assign it as a module")
    apart = {id(parameter) for parameter in policy.deviations()}
    if not apart < {id(parameter) for parameter in found["head"]}:
        raise Broken("deviations() is not a part of the head", "list its noise parameters only")
    policy.freeze(GROUPS)
    if [id(p) for members in policy.groups().values() for p in members] != listed:
        raise Broken(
            "groups() changes where some are frozen",
            "list what can be trained, frozen or not",
        )
    sizes = (f"{name} {sum(p.numel() for p in members):,}" for name, members in found.items())
    return Finding(", ".join(sizes))


def gradients(policy: PolicyBase) -> Finding:
    """Log-probs train the head and the backbone, values the critic and nothing else."""
    scores = _scores(policy)
    groups = {name: {id(p) for p in group} for name, group in policy.groups().items()}
    names = {id(parameter): name for name, parameter in policy.named_parameters()}

    def named(which: set[int]) -> str:
        return ", ".join(sorted(names[i] for i in which)[:5])

    by_critic = _reached(policy, scores.value.square().sum())
    by_actor = _reached(policy, scores.logprob.sum() + scores.entropy.sum())
    stray = by_critic & (groups["vlm"] | groups["head"])
    if stray:
        raise Broken(
            f"the value trains {named(stray)}",
            "estimate it from detached features: its errors must not move the actor",
        )
    for group, reached, what in (("head", by_actor, "log-probs"), ("critic", by_critic, "values")):
        if groups[group] - reached:
            raise Broken(
                f"{what} do not train {named(groups[group] - reached)}",
                f"detach nothing on the way, or leave out of {group!r} what is not computed with",
            )
    if groups["vlm"] and not groups["vlm"] & by_actor:
        raise Broken(
            "log-probs train nothing of the backbone",
            "encode images with gradient in evaluate(): no torch.no_grad(), no detach()",
        )
    left = groups["vlm"] - by_actor
    remark = f"log-probs do not train {named(left)}, which is fine if nothing follows from it"
    return Finding("each group by its own scores", remark if left else "")


def freezing(policy: PolicyBase) -> Finding:
    """A frozen group gets no gradient, whatever else is trained."""
    for frozen in (("vlm",), ("vlm", "head"), ("critic",), ()):
        policy.freeze(frozen)
        scores = _scores(policy)
        reached = _reached(policy, scores.logprob.sum() + scores.value.square().sum())
        for name, group in policy.groups().items():
            trained = bool(reached & {id(p) for p in group})
            if group and trained == (name in frozen):
                raise Broken(
                    f"{name!r} is {'' if trained else 'not '}trained while "
                    f"{', '.join(frozen) or 'nothing'} is frozen",
                    "let freeze() set requires_grad of every parameter in groups(), both ways",
                )
    return Finding("what is frozen stays, and can be trained again")


def imitation(policy: PolicyBase) -> Finding:
    """The loss of imitation follows the steps that count, and draws from the given generator."""
    seen = Seen.by(policy)
    drawn = np.random.default_rng(0)
    shape = (len(seen.words), policy.chunk, policy.spaces.action_dim)
    actions = drawn.uniform(-1, 1, shape).astype(np.float32)
    mask = np.ones(shape[:2], bool)
    mask[::2, -1] = False

    def loss(actions: Floats) -> Tensor:
        generator = Generator().manual_seed(3)
        return policy.imitation_loss(seen.obs, seen.words, actions, mask, generator=generator)

    first = loss(actions)
    if first.shape != () or not torch.isfinite(first) or not _reached(policy, first):
        raise Broken(f"the loss is {first}", "return a finite scalar with gradient")
    with elsewhere():
        again = loss(actions)
    if not torch.equal(first, again):
        raise Broken(
            f"the loss is {first.item():.6g} and then {again.item():.6g}",
            "draw noise from the generator that is given",
        )
    other = loss(np.where(mask[:, :, None], actions, -actions))
    if not torch.equal(first, other):
        raise Broken(
            "the loss depends on steps that do not count", "leave out the steps where mask is False"
        )
    if torch.equal(first, loss(-actions)):
        raise Broken("the loss does not depend on the actions", "compare with them")
    return Finding(f"loss {first.item():.3g} of random actions")


def _scores(policy: PolicyBase) -> Scores:
    seen = Seen.by(policy)
    chunk = act(policy, seen)
    return policy.evaluate(seen.obs, seen.words, chunk.raw, chunk.features)


def _reached(policy: PolicyBase, loss: Tensor) -> set[int]:
    """Ids of the parameters whose gradient is not zero."""
    policy.zero_grad(set_to_none=True)
    if loss.requires_grad:
        loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    return {id(p) for p in policy.parameters() if p.grad is not None and bool(p.grad.any())}
