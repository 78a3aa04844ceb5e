"""The contract of an algorithm, as checks that say what to fix; ``vla-rl check --algorithm``.

An algorithm of your own is held to it by a test file of this length::

    import pytest
    from vla_rl.contract.algorithm import CHECKS, Subject

    ALGORITHM = Subject("my_lab.my_algorithm")

    @pytest.mark.parametrize("check", CHECKS)
    def test_the_contract(check):
        ALGORITHM.must_pass(check)

Nothing is simulated: a small policy decides about random observations.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_rl import algorithms, plugins
from vla_rl.contract.finding import Broken, Finding, each, insist, known, plain_settings, run
from vla_rl.contract.practice import Practice, changed, paid, spoilt, weights
from vla_rl.contract.seen import elsewhere
from vla_rl.policy import GROUPS
from vla_rl.types import Check, RolloutBatch

UPDATES = 8
"""After which what is rewarded must be done more."""
COMPARED = 2
"""Updates of two runs that must be the same."""


@dataclass(frozen=True)
class Subject:
    """An algorithm under examination.

    Attributes:
        name: Plug-in: a name that ``vla-rl list algorithms`` shows, or a dotted path.
        settings: Its ``Algorithm``; None takes the default.
    """

    name: str
    settings: Any = None

    @property
    def algorithm(self) -> algorithms.Algorithm:
        """With its settings; raises ``ValueError`` if there is no such plug-in."""
        made: algorithms.Algorithm = self.settings
        return plugins.load("algorithms", self.name).Algorithm() if made is None else made

    def begin(self) -> Practice:
        """A run of it, the same one every time."""
        return Practice.begin(self.algorithm)

    def must_pass(self, check: str) -> None:
        """Run one of :data:`CHECKS`.

        Raises:
            AssertionError: If it fails, with what was found and what to fix.
            ValueError: If there is no such check.
        """
        insist([(self.name, self._run(known(check, CHECKS)))])

    def _run(self, check: str) -> Check:
        return run(check, CHECKS[check], self)


def examine(subject: Subject) -> Iterator[Check]:
    """Run every check, and continue after a failure unless there is no algorithm at all."""
    return each(CHECKS, subject._run)


def names(subject: Subject) -> Finding:
    """The module has the agreed name, and its algorithm those of the protocol."""
    try:
        algorithm = subject.algorithm
    except ValueError as error:
        raise Broken(str(error), "vla_rl/algorithms/__init__.py says what it must be") from error
    protocol = [name for name in vars(algorithms.Algorithm) if not name.startswith("_")]
    lacking = [name for name in protocol if not hasattr(algorithm, name)]
    if lacking:
        raise Broken(
            f"Algorithm lacks {', '.join(lacking)}",
            "derive it from vla_rl.learning.PolicyGradient, or define them",
        )
    allowed = {
        "group_size": algorithm.group_size >= 1,
        "discount": 0 <= algorithm.discount <= 1,
        "trains": set() < set(algorithm.trains) <= set(GROUPS),
    }
    for name, fine in allowed.items():
        if not fine:
            raise Broken(
                f"{name} is {getattr(algorithm, name)!r}",
                f"group_size is at least 1, discount in [0, 1], trains of {', '.join(GROUPS)}",
            )
    policy = subject.begin().policy
    return Finding(
        f"groups of {algorithm.group_size}, trains {', '.join(algorithm.trains)}, "
        f"density {policy.density}"
    )


def settings(subject: Subject) -> Finding:
    """``Algorithm`` is a frozen dataclass that survives JSON."""
    algorithm = subject.algorithm
    return plain_settings(type(algorithm), algorithm)


def update(subject: Subject) -> Finding:
    """An update moves what it says it trains and nothing else, and logs finite numbers."""
    practice = subject.begin()
    policy, reference = practice.policy, practice.learner.reference
    before = {name: [p.detach().clone() for p in ps] for name, ps in policy.groups().items()}
    held = {} if reference is None else weights(reference)
    log = practice.update(practice.play())
    bad = [f"{name} {value}" for name, value in log.items() if not np.isfinite(value)]
    if bad or not log:
        raise Broken(f"it logs {', '.join(bad) or 'nothing'}", "return finite numbers by name")
    if practice.learner.version != 1:
        raise Broken(
            f"learner.version is {practice.learner.version} after one update",
            "add 1 at the end of update()",
        )
    moved = {
        name
        for name, group in policy.groups().items()
        if any((a != b).any() for a, b in zip(before[name], group, strict=True))
    }
    if not moved or moved - set(practice.algorithm.trains):
        raise Broken(
            f"an update moves {', '.join(sorted(moved)) or 'nothing'}",
            f"train with learner.accumulate() and step(), and only {practice.algorithm.trains}",
        )
    if reference is not None and changed(held, weights(reference)):
        raise Broken("the reference policy was moved", "take it as it is, without gradient")
    return Finding(f"moves {', '.join(sorted(moved))}; logs {len(log)} numbers")


def direction(subject: Subject) -> Finding:
    """What is rewarded is done more."""
    practice = subject.begin()
    before = practice.preferred()
    for _ in range(UPDATES):
        practice.update(practice.play())
    gain = practice.preferred() - before
    found = f"an action that is rewarded for being larger moves by {gain:+.3f} in {UPDATES} updates"
    if not gain > 0:
        raise Broken(found, "is the loss minus (advantage x log-prob), and the advantage's sign?")
    return Finding(found)


def equal_returns(subject: Subject) -> Finding:
    """Where episodes are compared, returns that are equal for all teach nothing."""
    algorithm = subject.algorithm
    if algorithm.uses_critic or algorithm.credits_decisions or algorithm.group_size < 2:
        return Finding("not asked of what does not compare whole episodes")
    after = []
    for total in (0.0, 1.0):
        practice = subject.begin()
        before, groups = weights(practice.policy), practice.play()
        practice.learn(RolloutBatch.pack(paid(groups, total)))
        after.append(weights(practice.policy))
    if changed(*after):
        raise Broken(
            "returns of 1 for all move the policy otherwise than returns of 0 for all",
            "subtract what the other episodes of the group got",
        )
    moved = "the policy moves all the same: by an entropy bonus, or a KL?"
    return Finding("they teach nothing", moved if changed(before, after[0]) else "")


def what_counts(subject: Subject) -> Finding:
    """Actions that were not executed, padding, and values after the end have no effect."""
    plain, other = subject.begin(), subject.begin()
    for practice in (plain, other):
        for _ in range(UPDATES // 2):  # the first ones may train the critic only
            batch = RolloutBatch.pack(practice.play())
            practice.learn(spoilt(batch) if practice is other else batch)
    different = changed(weights(plain.policy), weights(other.policy))
    if different:
        raise Broken(
            f"{', '.join(different[:3])} depend on actions that were not executed, or on "
            "final_value where not bootstrapped",
            "leave out units where batch.mask is False, and decisions where batch.valid is",
        )
    return Finding("only what was executed")


def repeats(subject: Subject) -> Finding:
    """An update is a function of its arguments: same seed, same weights, to the last bit."""
    one, two = subject.begin(), subject.begin()
    for _ in range(COMPARED):
        one.update(one.play())
    with elsewhere():
        for _ in range(COMPARED):
            two.update(two.play())
    if changed(weights(one.policy), weights(two.policy)):
        raise Broken(
            "two runs of one seed end with different weights",
            "draw from the rng that update() is given, and keep nothing outside the state",
        )
    return Finding(f"the same weights after {COMPARED} updates")


def state(subject: Subject) -> Finding:
    """The state comes back from JSON, and the run goes on as if nothing had happened."""
    through, resumed = subject.begin(), subject.begin()
    for number in range(COMPARED):
        for practice in (through, resumed):
            practice.update(practice.play())
        saved = json.loads(json.dumps(resumed.state.state_dict()))
        # In an algorithm made anew, as after a crash.
        resumed.algorithm = subject.algorithm
        resumed.state = resumed.algorithm.new_state(resumed.tasks)
        resumed.state.load_state_dict(saved)
        if resumed.state.state_dict() != saved:
            raise Broken(
                f"after {number + 1} updates the state {saved} comes back as "
                f"{resumed.state.state_dict()}",
                "let load_state_dict() take over all that state_dict() gives, JSON-able",
            )
    for practice in (through, resumed):
        practice.update(practice.play())
    if changed(weights(through.policy), weights(resumed.policy)):
        raise Broken(
            "a run that was resumed ends with other weights",
            "let state_dict() give all that changes from update to update",
        )
    return Finding(json.dumps(saved))


CHECKS: dict[str, Callable[[Subject], Finding]] = {
    "names": names,
    "settings": settings,
    "update": update,
    "direction": direction,
    "equal returns": equal_returns,
    "what counts": what_counts,
    "repeats": repeats,
    "state": state,
}
"""The checks by name, for :meth:`Subject.must_pass`."""
