"""How the end of an episode counts: one rule for every suite, reward and algorithm.

An episode ends because the task *terminated* (success, or failure for good) or because the *time
limit* cut it. What comes after the end is worth

* nothing, if the episode is **closed**: it terminated, or the time limit belongs to the task. Then
  the critic's value after it is 0 and so is the potential of a shaping reward;
* what the critic says of the last observation, if the time limit is **bootstrapped**: the task goes
  on, only the recording stops (Pardo et al., 2018, arXiv 1712.00378).

Success that ends an episode also ends its rewards. A reward for every step (``dense``) would then
teach to stay just short of success and be paid until the time limit, so a solved episode goes on
being paid as if it stayed solved: until the horizon, or for ever where the time limit is
bootstrapped.

Which of the two holds is a setting of the run, ``--train.time-limit``. ``auto`` bootstraps only if
the reward is paid for every step, success does not end an episode, and there is a critic: then
the task really goes on. Everything else asks for success within the horizon, and not to have
succeeded by then is failure.
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
    """What being paid ``rate`` at each of ``left`` more steps is worth at the one before them.

    Args:
        rate: Reward of a step.
        gamma: Discount per step, in [0, 1].
        left: Steps, whole or not; infinite only with a discount below 1.
    """
    if gamma == 1:
        return rate * left
    return float(rate * gamma * (1 - gamma**left) / (1 - gamma))


@dataclass(frozen=True)
class EpisodeEnd:
    """How the episodes of a run end.

    Attributes:
        gamma: The algorithm's discount per decision; 1 for algorithms that add up rewards.
        bootstrap: Whether the critic's value follows an episode that the time limit cut.
        pays_outcome: Whether a reward is paid for how an episode ends, so that one that was solved
            when the time limit cut it has had everything.
        solved_step: The environment's own reward of a step in which the task is solved, if the
            suite's settings state it.
    """

    gamma: float = 1.0
    bootstrap: bool = False
    pays_outcome: bool = True
    solved_step: float | None = None

    def closed(self, trajectory: Trajectory) -> bool:
        """Whether nothing is worth anything after the end."""
        done = trajectory.success and self.pays_outcome
        return not trajectory.truncated or not self.bootstrap or done

    def paid_on(self, trajectory: Trajectory, rate: float) -> float:
        """What a solved episode is worth after its end, if every step were paid ``rate``.

        Zero for an episode that success did not end. Discounted to the last decision.
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
    """The rule of a run.

    Args:
        paid: What its rewards are paid for.
        success_ends: Whether success ends an episode of the suite.
        uses_critic: Whether the algorithm has one.
        credits_decisions: Whether the algorithm credits single decisions with what came after
            them, instead of all decisions of an episode with its return.
        gamma: Its discount per decision.
        time_limit: What the user asked for.
        solved_step: Reward of a solved step, if the suite's settings state it.

    Raises:
        ValueError: If the rewards cannot teach the algorithm anything, or the time limit cannot be
            bootstrapped.
    """
    paid = set(paid)
    if paid <= {"shaping"}:
        raise ValueError(
            "these rewards only shape, so nothing says what is wanted: add one that is paid for "
            "success (sparse, subgoals, speed) or for every step (dense)"
        )
    if "shaping" in paid and not credits_decisions:
        raise ValueError(
            "a shaping reward (progress) adds the same constant to the return of every episode "
            "from one start, and this algorithm looks at nothing else: leave it out, or use one "
            "that credits single decisions (ppo, or --algo.adv-estimator grpo_process)"
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
