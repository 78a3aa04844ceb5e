"""Settings of the reinforcement-learning loop."""

from __future__ import annotations

from dataclasses import dataclass

from vla_rl.episode_end import TimeLimit


@dataclass(frozen=True)
class TrainConfig:
    """Settings of the reinforcement-learning loop."""

    iterations: int = 30
    """Number of iterations, each of which is one update; at least 1."""
    minutes: float = 0.0
    """Stop after this many minutes of training, including its evaluations (`eval_every`); 0 for no
    limit. Checked between iterations."""
    env_steps: int = 0
    """Stop after this many environment steps; 0 for no limit. Checked between iterations."""
    episodes_per_iteration: int = 96
    """Episodes per update, in groups of the algorithm's `group_size`."""
    max_tries: int = 2
    """Most draws of groups in one iteration of an algorithm with dynamic sampling, which replaces
    dropped groups; at least 1."""
    checkpoint_every: int = 5
    """Iterations between checkpoints; the last one is always saved."""
    time_limit: TimeLimit = "auto"
    """Meaning of the time limit for an algorithm with a critic: `failure` (the task had to be done
    by then; the value after it is 0), `bootstrap` (the task continues; the critic estimates the
    value after it), or `auto`: `bootstrap` only if rewards are paid for every step, success does
    not end an episode and the discount is below 1."""
    running_statistics: bool = True
    """Keep updating the statistics that normalise proprioception, if the policy starts from fresh
    weights. A cloned policy always keeps the statistics of its demonstrations."""
    eval_every: int = 0
    """Iterations between evaluations on validation starts, which no reported result uses; 0 for
    none. There is also one after the last iteration. The best policy so far is kept in OUT/best;
    training is not affected."""
    eval_episodes: int = 20
    """Number of validation starts per task, the same every time, played without exploration noise.
    Their steps do not count as environment steps of training."""
    early_stop: int = 0
    """Stop after this many evaluations in a row without a better policy; 0 for never."""

    def __post_init__(self) -> None:
        counts = ("iterations", "episodes_per_iteration", "max_tries", "checkpoint_every")
        for name in (*counts, "eval_episodes"):
            if vars(self)[name] < 1:
                raise ValueError(f"train {name} must be at least 1, got {vars(self)[name]}")
        for name in ("minutes", "env_steps", "eval_every", "early_stop"):
            if vars(self)[name] < 0:
                raise ValueError(f"train {name} must not be negative, got {vars(self)[name]}")
        if self.early_stop and not self.eval_every:
            raise ValueError(
                f"train early_stop {self.early_stop} needs evaluations; set --train.eval-every too"
            )

    def check_groups(self, group_size: int) -> None:
        """Require that an iteration has room for at least one group.

        Raises:
            ValueError: If it has not; names both numbers.
        """
        if group_size > self.episodes_per_iteration:
            raise ValueError(
                f"train episodes_per_iteration {self.episodes_per_iteration} is less than one "
                f"group of {group_size} rollouts"
            )
