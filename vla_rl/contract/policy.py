"""The contract of a policy, as checks that say what to fix; ``vla-rl check --network`` runs them.

A policy of your own is held to it by a test file of this length::

    import pytest
    from vla_rl.contract.policy import CHECKS, Subject

    POLICY = Subject("my_lab.my_policy")

    @pytest.mark.parametrize("check", CHECKS)
    def test_the_contract(check):
        POLICY.must_pass(check)

Nothing is simulated: the policy is shown random images and states.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
import torch

from vla_rl import plugins
from vla_rl.contract import deciding, keeping, scoring, training
from vla_rl.contract.finding import Broken, Finding, each, insist, known, plain_settings, run
from vla_rl.policy import Policy, PolicyBase
from vla_rl.stages.setup import new_policy
from vla_rl.types import Check, Spaces

SPACES = Spaces(views=("front", "wrist"), image_size=32, state_dim=3, action_dim=2)
"""What a policy is made for, unless somebody says otherwise."""
SENTENCES = ("open the drawer", "close the drawer")
SEED = 0
MOVED = 0.03  # deviation of what is added to weights: layers that start at 0 hide faults


@dataclass(frozen=True)
class Subject:
    """A policy under examination.

    Attributes:
        name: Plug-in: a name that ``vla-rl list policies`` shows, or a dotted path.
        config: Its ``Config``; None takes the default.
        spaces: What it is made for; those of your suite are ``suite.spaces(suite.Settings())``.
    """

    name: str
    config: Any = None
    spaces: Spaces = SPACES

    @cached_property
    def module(self) -> ModuleType:
        """The plug-in; raises ``ValueError`` if there is none or it lacks an agreed name."""
        return plugins.load("policies", self.name)

    @property
    def settings(self) -> Any:
        """Its settings, default ones if none were given."""
        return self.module.Config() if self.config is None else self.config

    def fresh(self) -> PolicyBase:
        """A policy as a run begins with."""
        return new_policy(self.name, self.settings, self.spaces, SEED, "cpu")

    def policy(self) -> PolicyBase:
        """A copy of one that remembers two sentences, and whose weights have moved."""
        return copy.deepcopy(self._trained)

    @cached_property
    def _trained(self) -> PolicyBase:
        policy, generator = self.fresh(), torch.Generator().manual_seed(SEED)
        policy.remember(SENTENCES)
        with torch.no_grad():
            for parameter in policy.parameters():
                if parameter.requires_grad:
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.add_((MOVED * noise).to(parameter.dtype))
        states = np.random.default_rng(SEED).normal(1, 2, (50, self.spaces.state_dim))
        policy.fit_statistics(states.astype(np.float32))
        return policy

    def must_pass(self, check: str) -> None:
        """Run one of :data:`CHECKS`.

        Raises:
            AssertionError: If it fails, with what was found and what to fix.
            ValueError: If there is no such check.
        """
        insist([(self.name, self._run(known(check, CHECKS)))])

    def _run(self, check: str) -> Check:
        if check in PLUGIN_CHECKS:
            return run(check, PLUGIN_CHECKS[check], self)
        return run(check, lambda subject: POLICY_CHECKS[check](subject.policy()), self)


def examine(subject: Subject) -> Iterator[Check]:
    """Run every check, and continue after a failure unless there is no policy at all."""
    return each(CHECKS, subject._run)


# ------------------------------------------------------------------------- how a policy is made


def names(subject: Subject) -> Finding:
    """The module has the agreed names, and its policy those of the protocol."""
    try:
        policy = subject.fresh()
    except ValueError as error:
        raise Broken(str(error), "vla_rl.policy says what a policy must define") from error
    wanted = [*vars(Policy), *Policy.__annotations__]
    lacking = [name for name in wanted if not name.startswith("_") and not hasattr(policy, name)]
    if lacking:
        raise Broken(
            f"Policy lacks {', '.join(lacking)}", "derive it from vla_rl.policy.PolicyBase"
        )
    count = sum(p.numel() for p in policy.parameters())
    return Finding(f"{count:,} parameters, {policy.chunk} actions in a chunk")


def settings(subject: Subject) -> Finding:
    """``Config`` is a frozen dataclass that survives JSON."""
    return plain_settings(subject.module.Config, subject.settings)


def weights(subject: Subject) -> Finding:
    """The seed decides the fresh weights."""
    one, two = subject.fresh().state_dict(), subject.fresh().state_dict()
    for name in one:
        if not torch.equal(one[name], two[name]):
            raise Broken(
                f"{name} differs between two policies of one seed",
                "draw weights with torch's own functions, from its global generator",
            )
    return Finding("the same ones twice")


PLUGIN_CHECKS: dict[str, Callable[[Subject], Finding]] = {
    "names": names,
    "settings": settings,
    "weights": weights,
}
POLICY_CHECKS: dict[str, Callable[[PolicyBase], Finding]] = {
    "groups": training.groups,
    "actions": deciding.actions,
    "noise": deciding.noise,
    "rows": deciding.rows,
    "sentences": deciding.sentences,
    "log-probs": scoring.logprobs,
    "score": scoring.score,
    "features": scoring.features,
    "gradients": training.gradients,
    "freezing": training.freezing,
    "imitation": training.imitation,
    "copies": keeping.copies,
    "saving": keeping.saving,
}
CHECKS = (*PLUGIN_CHECKS, *POLICY_CHECKS)
"""Names of the checks, for :meth:`Subject.must_pass`."""
