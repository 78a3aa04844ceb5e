"""Evaluations on validation starts during training, which choose the best policy.

The starts are those of ``SEED_RANGES["validation"]``, the same every time, played without
exploration noise by the same workers. The learner, the curriculum and all random generators are not
affected: the trained weights are bit-equal to those of a run without evaluations.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_rl.results.evaluation import EvalResult
from vla_rl.train import Loop, over
from vla_rl.train_config import TrainConfig

_ROUNDING = 1e-9  # tolerance for sums of the same successes in a different order


@dataclass
class Validation:
    """Evaluates the policy when an evaluation is due, and remembers the best result.

    Attributes:
        config: How often to evaluate, and when to stop early.
        play: Evaluates the current policy.
        best: The best evaluation so far (as ``vla-rl eval`` writes it, with its ``iteration``), the
            first of equal ones; None before the first evaluation.
        last: Mean success over tasks of the latest evaluation, in [0, 1]; None before the first.
        without_better: Number of evaluations since the best one.
    """

    config: TrainConfig
    play: Callable[[], EvalResult]
    best: dict[str, Any] | None = None
    last: float | None = None
    without_better: int = 0

    def after_iteration(self, loop: Loop, metrics: dict[str, float]) -> bool:
        """Evaluate if an evaluation is due, as one always is after the last iteration.

        Args:
            loop: The training loop; the time of the evaluation counts as training time.
            metrics: Metrics of the iteration; the result (``validation/``) and time are added.

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
        """Include an evaluation; return whether it is the best so far.

        Results of different protocols are never compared: after a change of validation starts or
        horizons, the first evaluation is the new best.
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
        """Whether ``early_stop`` evaluations in a row were no better."""
        return 0 < self.config.early_stop <= self.without_better

    @property
    def text(self) -> str:
        """Text for the progress line."""
        if self.best is None:
            return ""
        return f"validation {self.last:.2f}, best {self.best['mean']:.2f}"

    def state_dict(self) -> dict[str, object]:
        """JSON-able state for resuming."""
        return {"best": self.best, "last": self.last, "without_better": self.without_better}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state written by :meth:`state_dict`."""
        self.best, self.last = state["best"], state["last"]
        self.without_better = state["without_better"]


def _described(result: EvalResult) -> dict[str, float]:
    """Metrics of an evaluation, named like those of training."""
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
