"""REINFORCE with one fault each: what the contract of algorithms has to find."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from tests.user_code import plain_reinforce


@dataclass(frozen=True)
class Sound(plain_reinforce.Algorithm):
    """No fault."""

    def new_state(self, tasks):
        return State()

    def update(self, learner, batch, state, rng):
        advantage = self.advantage(batch, state)
        for rows in learner.minibatches(batch, 10_000, rng):
            logprob = learner.evaluate(batch, rows).logprob
            counted = self.counted(logprob, batch, rows).sum(1)
            learner.accumulate(self.loss(advantage[rows[:, 0]], counted))
            learner.step()
        learner.version += 1
        return {"user/advantage": float(advantage.abs().mean())}

    def advantage(self, batch, state):
        returns = torch.from_numpy(batch.reward.sum(1))
        return returns - returns.mean()

    def counted(self, logprob, batch, rows):
        return logprob * torch.from_numpy(batch.mask[rows[:, 0], rows[:, 1]])

    def loss(self, advantage, logprob):
        return -(advantage * logprob).mean()


Algorithm = Sound


@dataclass
class State(plain_reinforce.State):
    updates: int = 0
    """Not in ``state_dict``; only one fault uses it."""


class LacksDensity(Sound):
    @property
    def density_for(self):
        raise AttributeError("density_for")


class TrainsNothing(Sound):
    trains = ("nothing",)


@dataclass
class ThawedSettings:
    """Settings that could change during a run."""

    group_size: int = 2
    sound = Sound()

    def __getattr__(self, name):
        return getattr(self.sound, name)


class LogsNaN(Sound):
    def update(self, learner, batch, state, rng):
        return {**super().update(learner, batch, state, rng), "user/kl": float("nan")}


class ForgetsTheVersion(Sound):
    def update(self, learner, batch, state, rng):
        log = super().update(learner, batch, state, rng)
        learner.version = 0
        return log


class DoesNothing(Sound):
    def update(self, learner, batch, state, rng):
        learner.version += 1
        return {"user/steps": 0.0}


class MovesTheBackbone(Sound):
    def update(self, learner, batch, state, rng):
        with torch.no_grad():
            learner.policy.groups()["vlm"][0].mul_(1.01)
        return super().update(learner, batch, state, rng)


class MovesTheReference(Sound):
    uses_reference = True

    def update(self, learner, batch, state, rng):
        log = super().update(learner, batch, state, rng)
        learner.reference.load_state_dict(learner.policy.state_dict())
        return log


class DropsAll(Sound):
    def keep(self, group):
        return False


class WrongSign(Sound):
    def loss(self, advantage, logprob):
        return (advantage * logprob).mean()


class NoBaseline(Sound):
    def advantage(self, batch, state):
        return torch.from_numpy(batch.reward.sum(1))


class CountsEveryUnit(Sound):
    def counted(self, logprob, batch, rows):
        return logprob


class BootstrapsEveryEnd(Sound):
    def advantage(self, batch, state):
        return super().advantage(batch, state) + torch.from_numpy(batch.final_value)


class GlobalRandomness(Sound):
    def advantage(self, batch, state):
        return super().advantage(batch, state) * torch.rand(len(batch))


class StateThatIsNotSaved(Sound):
    def advantage(self, batch, state):
        state.updates += 1
        return super().advantage(batch, state) * (1 if state.updates < 3 else np.pi)


class DeafState(State):
    def load_state_dict(self, state):
        pass


class IgnoresItsState(Sound):
    def new_state(self, tasks):
        return DeafState()
