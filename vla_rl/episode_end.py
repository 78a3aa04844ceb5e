"""How the end of an episode counts: one rule for every suite, reward and algorithm.

An episode ends because the task *terminated* (success, or unrecoverable failure) or because the
*time limit* truncated it. The value after the end is

* zero, if the episode is **closed**: it terminated, or the time limit is part of the task. Then the
  potential of a shaping reward is zero there, too;
* the critic's estimate of the last observation, if the time limit is **bootstrapped**: the task
  would continue, only the recording stops (Pardo et al., 2018, arXiv 1712.00378).

Success that ends an episode also ends its rewards. A reward for every step (``dense``) would then
teach the policy to stay just short of success and collect reward until the time limit. Therefore a
solved episode is credited as if it stayed solved: until the horizon, or for ever where the time
limit is bootstrapped.

``--train.time-limit`` chooses between the two. ``auto`` bootstraps only if the reward is paid for
every step, success does not end an episode, the discount is below 1, and there is a critic: then
the task really continues. Otherwise the task is to succeed within the horizon, and an episode that
has not succeeded by then has failed.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from vla_rl.types import Trajectory

TimeLimit = Literal["auto", "failure", "bootstrap"]
Pays = Literal["outcome", "steps", "shaping"]
"""What a reward is paid for; see :class:`vla_rl.rewards.Reward`."""


def paid_on(rate: float, gamma: float, left: float) -> float:
    """Value, one step earlier, of a reward of ``rate`` at each of ``left`` further steps.

    Args:
        rate: Reward per step.
        gamma: Discount per step, in [0, 1].
        left: Number of steps (may be fractional); infinite only with a discount below 1.
    """
    if gamma == 1:
        return rate * left
    return float(rate * gamma * (1 - gamma**left) / (1 - gamma))


@dataclass(frozen=True)
class EpisodeEnd:
    """How the episodes of a run end.

    Attributes:
        gamma: The algorithm's discount per decision; 1 for algorithms that sum rewards.
        bootstrap: Whether the critic's value is added after an episode that the time limit cut.
        pays_outcome: Whether a reward is paid for how an episode ends, so that nothing remains to
            be earned by an episode that is solved when the time limit cuts it.
        solved_step: The environment's own reward for a step in which the task is solved, if the
            suite's settings state it.
    """

    gamma: float = 1.0
    bootstrap: bool = False
    pays_outcome: bool = True
    solved_step: float | None = None

    def closed(self, trajectory: Trajectory) -> bool:
        """Whether the value after the end of the episode is zero."""
        done = trajectory.success and self.pays_outcome
        return not trajectory.truncated or not self.bootstrap or done

    def paid_on(self, trajectory: Trajectory, rate: float) -> float:
        """Value after the end of a solved episode if every later step were paid ``rate``.

        Discounted to the last decision. Zero for an episode that was not ended by success.
        """
        if not trajectory.success or trajectory.truncated:
            return 0.0
        chunk = trajectory.executed.shape[1]
        left = (trajectory.spec.task.max_steps - trajectory.steps) / chunk
        return paid_on(rate * chunk, self.gamma, math.inf if self.bootstrap else left)


def end_of(
    paid: Collection[Pays],
    success_ends: bool,
    uses_critic: bool,
    credits_decisions: bool,
    gamma: float,
    time_limit: TimeLimit,
    solved_step: float | None = None,
) -> EpisodeEnd:
    """Decide how the episodes of a run end.

    Args:
        paid: What the rewards of the run are paid for.
        success_ends: Whether success ends an episode of the suite.
        uses_critic: Whether the algorithm has one.
        credits_decisions: Whether the algorithm credits single decisions with what came after
            them, instead of all decisions of an episode with its return.
        gamma: The algorithm's discount per decision.
        time_limit: The user's setting.
        solved_step: Reward for a solved step, if the suite's settings state it.

    Raises:
        ValueError: If the algorithm could not learn anything from the rewards, or the time limit
            cannot be bootstrapped.
    """
    paid = set(paid)
    if paid <= {"shaping"}:
        raise ValueError(
            "these rewards only shape and do not define a goal: add one that is paid for "
            "success (sparse, subgoals, speed) or for every step (dense)"
        )
    if "shaping" in paid and not credits_decisions:
        raise ValueError(
            "a shaping reward (progress) adds the same constant to the return of every episode "
            "from one start, and this algorithm uses nothing else: leave it out, or use an "
            "algorithm that credits single decisions (ppo, or --algo.adv-estimator grpo_process)"
        )
    endless = paid - {"shaping"} == {"steps"} and not success_ends
    if time_limit == "bootstrap" and not uses_critic:
        raise ValueError(
            "train time_limit 'bootstrap' needs a critic's value of the last observation, and this "
            "algorithm has no critic: use ppo, or time_limit 'auto'"
        )
    if time_limit == "bootstrap" and gamma == 1:
        raise ValueError(
            "train time_limit 'bootstrap' needs a discount below 1: with gamma 1 the value of a "
            "task that goes on for ever is not finite"
        )
    bootstrap = time_limit == "bootstrap" or (
        time_limit == "auto" and endless and uses_critic and gamma < 1
    )
    return EpisodeEnd(gamma, bootstrap, "outcome" in paid, solved_step)
