"""What a policy decides: kinds of arrays, whose noise it is, and what a row depends on.

Each check takes a policy that remembers sentences and returns what it found; it raises
:class:`Broken` where the contract is broken. ``vla_rl/contract/policy.py`` lists and runs them.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import torch

from vla_rl.contract.finding import Broken, Finding
from vla_rl.contract.seen import ROWS, Seen, act, difference, elsewhere
from vla_rl.policy import PolicyBase

ROUNDING = 1e-4
"""Numbers that differ by more are not the same sum in another order, in float32."""
COARSE = 0.05
"""The same, where a network computes in fewer bits."""
LARGER = 10.0  # weights of a head that says actions out of range


def actions(policy: PolicyBase) -> Finding:
    """Arrays have the agreed shapes and types, and actions stay in [-1, 1]."""
    seen, size = Seen.by(policy), policy.spaces.action_dim
    chunk = act(policy, seen)
    units = policy.units
    if units < 1 or units % policy.chunk:
        raise Broken(
            f"{units} log-prob units for {policy.chunk} actions of a chunk",
            "make units a multiple of chunk: units of actions that were not executed are masked",
        )
    for name, shape in (
        ("actions", (ROWS, policy.chunk, size)),
        ("raw", (ROWS, *chunk.raw.shape[1:2])),
        ("logprob", (ROWS, units)),
        ("value", (ROWS,)),
    ):
        array = asdict(chunk)[name]
        if array.shape != shape or array.dtype != np.float32:
            raise Broken(
                f"{name} is {array.dtype} {list(array.shape)}", f"give float32 {list(shape)}"
            )
        if not np.isfinite(array).all():
            raise Broken(f"{name} has numbers that are not finite", "give finite numbers only")
    with torch.no_grad():
        for parameter in policy.groups()["head"]:
            parameter.mul_(LARGER)
    largest = float(np.nanmax(np.abs([chunk.actions, act(policy, seen).actions])))
    if largest > 1:
        raise Broken(
            f"an action is {largest:.3g}, with larger weights in the head",
            "clip actions to [-1, 1], and keep in raw what was sampled",
        )
    return Finding(f"{units} log-prob units, {chunk.raw.shape[1]} numbers that are sampled")


def noise(policy: PolicyBase) -> Finding:
    """Noise is a function of a row's key: its episode and its decision."""
    seen = Seen.by(policy, alike=True)
    first = act(policy, seen)
    with elsewhere():
        found = difference(first, act(policy, seen))
    if found:
        raise Broken(
            f"{found} when the same keys act again",
            "draw noise from generators that the keys seed, not from global ones",
        )
    order = np.arange(ROWS)[::-1]
    found = difference(first[order], act(policy, seen[order]), ROUNDING)
    if found:
        raise Broken(
            f"{found} when the rows come in another order", "seed the noise of each row by its key"
        )
    greedy = act(policy, seen, greedy=True)
    if (greedy.raw[:1] != greedy.raw).any():
        raise Broken("greedy rows that see the same differ", "act without noise where keys is None")
    for what, raw in (
        ("greedy actions and those with noise", greedy.raw),
        ("the noise of several episodes", np.roll(first.raw, 1, axis=0)),
        ("the noise of several decisions", act(policy, seen.later()).raw),
    ):
        if (raw == first.raw).all(axis=1).any():
            raise Broken(f"{what} are the same", "seed the noise by both numbers of a key")
    return Finding("the same for the same key, another for every episode and decision")


def rows(policy: PolicyBase) -> Finding:
    """What a row is decided does not depend on the other rows."""
    seen, remark = Seen.by(policy), ""
    for greedy in (True, False):
        together = act(policy, seen, greedy)
        for row in range(ROWS):
            only = slice(row, row + 1)
            others = (np.arange(ROWS) + 2) % ROWS  # with the instructions of those before
            others[row] = row
            among = act(policy, seen[others], greedy)[only]
            alone = act(policy, seen[only], greedy)
            found = difference(among, together[only], ROUNDING)
            found = found or difference(alone, together[only], COARSE)
            if found:
                raise Broken(
                    f"{found} when other rows are beside a row, or none",
                    "let nothing (normalisation, padding, noise) mix the rows of a batch",
                )
            remark = remark or difference(alone, together[only], ROUNDING)
    few = f"{remark} when a row is alone: does it compute in few bits?" if remark else ""
    return Finding(f"the same alone and among {ROWS}", few)


def sentences(policy: PolicyBase) -> Finding:
    """A sentence is encoded by itself, and only remembered ones are accepted."""
    seen = Seen.by(policy)
    before = act(policy, seen)
    policy.remember(["fly", *seen.words])
    found = difference(before, act(policy, seen))
    if found:
        raise Broken(
            f"{found} after another sentence was remembered",
            "encode each sentence by itself, and keep what was remembered",
        )
    told, kept = dict(policy.text_memory), []
    for order in (tuple(told), tuple(told)[::-1]):
        policy.text_memory = {}
        policy.remember(order)
        kept.append(policy.text_memory)
    for sentence in told:
        if not all(np.array_equal(memory[sentence], told[sentence]) for memory in kept):
            raise Broken(
                f"{sentence!r} is encoded differently in another list of sentences",
                "encode each sentence by itself, with nothing random",
            )
    policy.text_memory = {}
    try:
        act(policy, seen)
    except ValueError:
        one = np.stack([told[sentence] for sentence in seen.words[:2]])
        alike = len(set(seen.words)) > 1 and (one[0] == one[1]).all()
        return Finding(
            f"{one[0].size} numbers for each", "two sentences are encoded alike" if alike else ""
        )
    raise Broken("a sentence that was not remembered is accepted", "raise ValueError in act()")
