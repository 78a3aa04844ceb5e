"""Evaluations during training: how the policy does on starts for choosing, and which one did best.

The starts are those of ``SEED_RANGES["validation"]``, the same every time, played without
exploration noise by the workers that also play for training. Nothing of it reaches the learner,
the curriculum or a random generator: what is trained is bit for bit what it would be without.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_rl.results.evaluation import EvalResult
from vla_rl.train import Loop, TrainConfig, over

_ROUNDING = 1e-9  # means of the same successes, added up in another order, are equal


@dataclass
class Validation:
    """Evaluates when that is due, and remembers what was best.

    Attributes:
        config: How often to evaluate, and when to give up.
        play: Evaluates the policy as it is.
        best: The best evaluation so far (as ``vla-rl eval`` writes one, with its ``iteration``), of
            equal ones the first; None before any.
        last: Success of the latest one, the mean over tasks in [0, 1]; None before any.
        without_better: How many there were since the best one.
    """

    config: TrainConfig
    play: Callable[[], EvalResult]
    best: dict[str, Any] | None = None
    last: float | None = None
    without_better: int = 0

    def after_iteration(self, loop: Loop, metrics: dict[str, float]) -> bool:
        """Evaluate if that is due, which it also is after the last iteration.

        Args:
            loop: Where training is; what the evaluation took counts as time of training.
            metrics: Of the iteration; gets the outcome under ``validation/``, and the seconds.

        Returns:
            Whether the policy was evaluated and is the best so far.
        """
        every = self.config.eval_every
        if not every or (loop.iteration % every and not over(loop)):
            return False
        began = time.perf_counter()
        result = self.play()
        spent = time.perf_counter() - began
        loop.seconds += spent
        seconds = {"time/validation": spent, "time/total": metrics["time/total"] + spent}
        metrics.update({**_described(result), **seconds})
        return self.take(result, loop.iteration)

    def take(self, result: EvalResult, iteration: int) -> bool:
        """Take in an evaluation; returns whether it is the best so far.

        Results of different protocols are never compared: where a run goes on with other validation
        starts or horizons, its first evaluation is the best anew.
        """
        self.last = result.mean.value
        best = self.best or {"protocol_id": None}
        if best["protocol_id"] == result.protocol_id and self.last <= best["mean"] + _ROUNDING:
            self.without_better += 1
            return False
        self.best = {"iteration": iteration, **json.loads(result.to_json())}
        self.without_better = 0
        return True

    @property
    def gives_up(self) -> bool:
        """Whether as many evaluations in a row as the configuration allows brought nothing."""
        return 0 < self.config.early_stop <= self.without_better

    @property
    def text(self) -> str:
        """A few words for the progress line."""
        if self.best is None:
            return ""
        return f"validation {self.last:.2f}, best {self.best['mean']:.2f}"

    def state_dict(self) -> dict[str, object]:
        """JSON-able state for resuming."""
        return {"best": self.best, "last": self.last, "without_better": self.without_better}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state written by :meth:`state_dict`."""
        self.best, self.last = state["best"], state["last"]
        self.without_better = state["without_better"]


def _described(result: EvalResult) -> dict[str, float]:
    """What to log, named as the outcomes of training are."""
    rates = {
        f"validation/{'completed' if of_task.subgoals else 'success'}/{task}": of_task.share.value
        for task, of_task in result.tasks.items()
    }
    steps = [count for of_task in result.tasks.values() for count in of_task.steps]
    overall = "completed" if result.has_sequences else "success"
    return {
        **rates,
        f"validation/{overall}": result.mean.value,
        "validation/steps": float(np.mean(steps)),
    }
