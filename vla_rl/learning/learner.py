"""The learner: parameter groups, optimizer, micro-batches, ranks. The only ``backward`` is here."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_rl.learning.distributed import ALONE, Ranks
from vla_rl.policy import Policy, Scores
from vla_rl.types import Observation, RolloutBatch

Regulariser = Callable[[int], Iterator[Tensor]]
"""Maps the number of a gradient step to scalars that are added to this rank's loss; those of all
ranks sum to the regulariser."""

Rows = np.ndarray
"""``[B, 2]`` int64: episode and decision of each row of a minibatch."""

Together = Literal["decision", "episode", "group"]
"""What is never divided between minibatches."""

ROWS_WITHOUT_GRADIENT = 512  # scored at once when no backward pass follows
MOST_SKIPPED = 10  # this many skipped gradient steps in a row end the run
DEVIATION = "deviation"  # the part of the head's parameters that sets the size of its noise


class LossNotFinite(RuntimeError):
    """Losses or gradients were not finite for many gradient steps in a row."""


@dataclass(frozen=True)
class LearnerConfig:
    """Settings of the optimizer (AdamW)."""

    lr: float = 1e-4
    """Learning rate of the action head."""
    vlm_lr: float = 1e-4
    """Learning rate of the vision backbone or its LoRA adapters, where they are trained."""
    critic_lr: float = 1e-3
    """Learning rate of the critic."""
    std_lr: float = 1e-3
    """Learning rate of the parameters that set the size of the exploration noise: the standard
    deviations of a Gaussian head, or the networks of a Laplace or flow_noise head."""
    warmup_steps: int = 20
    """Gradient steps over which the learning rate of each group of parameters rises, counted from
    the first step of that group. Without warm-up Adam's first steps have full size whatever the
    gradient."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Schedule of the learning rates after the warm-up: constant, or falling to zero at the end of
    the run's iterations or environment steps."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW)."""
    max_grad_norm: float = 5.0
    """Largest gradient norm of each group of parameters (backbone, head, deviation, critic); larger
    ones are scaled down to it, and `*/grad_clipped` counts how often."""
    train_vlm: bool | None = None
    """Train the vision backbone, too. The features of a frozen one are computed only once per
    image. None trains it if the policy starts from fresh weights."""

    def __post_init__(self) -> None:
        for name in ("lr", "vlm_lr", "critic_lr", "std_lr", "max_grad_norm"):
            if not vars(self)[name] > 0:
                raise ValueError(f"learner {name} must be positive, got {vars(self)[name]}")
        for name in ("weight_decay", "warmup_steps"):
            if vars(self)[name] < 0:
                raise ValueError(f"learner {name} must not be negative, got {vars(self)[name]}")

    def rates(self) -> dict[str, float]:
        """Learning rate by optimizer group."""
        return {
            "vlm": self.vlm_lr,
            "head": self.lr,
            DEVIATION: self.std_lr,
            "critic": self.critic_lr,
        }

    def warmth(self, step: int) -> float:
        """Factor of the warm-up on a learning rate after ``step`` steps, in (0, 1]."""
        return min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0

    def rate_factor(self, step: int, progress: float) -> float:
        """Factor of warm-up and schedule on a learning rate.

        Args:
            step: Gradient steps that its parameters have taken so far.
            progress: Completed share of the run, in [0, 1].
        """
        warm = self.warmth(step)
        if self.lr_schedule == "linear":
            return warm * (1 - progress)
        if self.lr_schedule == "cosine":
            return warm * 0.5 * (1 + math.cos(math.pi * progress))
        return warm


class StepReport(NamedTuple):
    """Report of a gradient step.

    Attributes:
        norms: Gradient norm before clipping, by optimizer group; empty if the step was skipped.
        clipped: Whether it was clipped, by optimizer group.
    """

    norms: dict[str, float]
    clipped: dict[str, bool]


class Learner:
    """Trains chosen parameter groups of a policy; the others stay bit-equal.

    Args:
        policy: The policy to train; it stays on its device.
        config: Settings of the optimizer.
        trains: Names of the groups of ``policy.groups()`` to train.
        reference: The frozen reference policy of a KL penalty, if the algorithm needs one.
        ranks: Processes that share the work. Each of them has the same policy and batches, and
            learns from the decisions of the episodes that it played (``RolloutBatch.here``).

    Attributes:
        version: Updates made.
        steps: Gradient steps taken.
        skipped: Gradient steps that were skipped because a loss or gradient was not finite.
        progress: Completed share of the run, in [0, 1], for the schedule of the learning rates.

    Raises:
        ValueError: If a group is unknown.
    """

    def __init__(
        self,
        policy: Policy,
        config: LearnerConfig,
        trains: Collection[str],
        reference: Policy | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        groups = policy.groups()
        unknown = set(trains) - set(groups)
        if unknown:
            raise ValueError(f"unknown parameter groups {sorted(unknown)}; allowed: {list(groups)}")
        self.policy = policy
        self.config = config
        self.reference = reference
        self.ranks = ranks
        self.version = 0
        self.steps = 0
        self.progress = 0.0
        self.skipped = 0
        self.regulariser: Regulariser | None = None
        self._not_finite = False
        self._skipped_in_a_row = 0
        policy.freeze(set(groups) - set(trains))
        self._groups = _optimizer_groups(policy, trains)
        self._parameters = [p for parameters in self._groups.values() for p in parameters]
        rates = config.rates()
        self.optimizer = torch.optim.AdamW(
            [
                {"params": parameters, "lr": rates[name], "name": name}
                for name, parameters in self._groups.items()
            ],
            weight_decay=config.weight_decay,
            fused=True,  # five times faster than the loop over parameters, on CPU too
        )

    def _set_rates(self, factor: float | None) -> None:
        """Set the learning rates from the configuration; a restored optimizer has its old ones."""
        rates = self.config.rates()
        for group in self.optimizer.param_groups:
            taken = self._taken(group["params"])
            scale = self.config.rate_factor(taken, self.progress) if factor is None else factor
            group["lr"] = scale * rates[group["name"]]
            group["weight_decay"] = self.config.weight_decay

    def _taken(self, parameters: list[torch.nn.Parameter]) -> int:
        """Gradient steps that parameters of an optimizer group have taken."""
        state = self.optimizer.state
        return next((int(state[p]["step"]) for p in parameters if p in state), 0)

    @property
    def head_warmth(self) -> float:
        """Factor of the warm-up on the head's learning rate in its next step, in (0, 1]."""
        return self.config.warmth(self._taken(self._groups["head"]))

    def evaluate(self, batch: RolloutBatch, rows: Rows) -> Scores:
        """Scores of chosen decisions under the current weights, with gradient.

        Raises:
            ValueError: If another rank made some of them.
        """
        if not batch.here[rows[:, 0]].all():
            raise ValueError(
                "another rank made some of these decisions, and only it knows what was seen: score "
                "the rows that Learner.parts gives"
            )
        return _score(self.policy, batch, rows)

    def logprobs(self, batch: RolloutBatch, policy: Policy) -> Tensor:
        """``[N, T, K]`` log-probs of the whole batch under a policy, without gradient."""
        out = torch.zeros(batch.mask.shape)
        rows = np.argwhere(batch.valid & batch.here[:, None])
        with torch.no_grad():
            for first in range(0, len(rows), ROWS_WITHOUT_GRADIENT):
                part = rows[first : first + ROWS_WITHOUT_GRADIENT]
                out[part[:, 0], part[:, 1]] = _score(policy, batch, part).logprob.float().cpu()
        return self.ranks.total(out)

    def minibatches(
        self,
        batch: RolloutBatch,
        size: int,
        rng: np.random.Generator,
        together: Together = "decision",
    ) -> Iterator[Rows]:
        """Shuffled decisions of the batch in pieces of about ``size``; each exactly once.

        Args:
            batch: The batch to divide.
            size: Decisions per piece; 0 gives one piece.
            rng: Generator of the shuffle.
            together: What is shuffled as a whole and never divided: single decisions, episodes, or
                groups of episodes.
        """
        rows, owner = np.argwhere(batch.valid), _owner(batch, together)
        if owner is None:
            rows = rows[rng.permutation(len(rows))]
        else:
            place = rng.permutation(int(owner.max()) + 1)[owner[rows[:, 0]]]
            rows = rows[np.argsort(place, kind="stable")]
        pieces = max(1, round(len(rows) / size)) if size else 1
        yield from _split(rows, pieces, owner)

    def parts(
        self, batch: RolloutBatch, rows: Rows, size: int, together: Together = "decision"
    ) -> list[Rows]:
        """This rank's micro-batches of at most about ``size`` decisions (0: a single one).

        The rows are those of one piece of :meth:`minibatches` with the same ``together``; those of
        episodes that other ranks played are left to them.
        """
        rows = rows[batch.here[rows[:, 0]]]
        return _split(rows, -(-len(rows) // size) if size else 1, _owner(batch, together))

    def accumulate(self, loss: Tensor) -> None:
        """Accumulate the gradient of a loss for the next :meth:`step`.

        If the loss is not finite, that step is skipped.
        """
        if bool(torch.isfinite(loss)):
            loss.backward()  # type: ignore[no-untyped-call]
        else:
            self._not_finite = True

    def step(self, regularise: bool = True, rate: float | None = None) -> StepReport:
        """Take one gradient step with the accumulated gradients.

        A step in which a loss or a gradient is not finite on any rank is skipped on all of them and
        counted in ``skipped``.

        Args:
            regularise: Whether to add the regulariser, if there is one.
            rate: Factor on the configured learning rates; None for
                :meth:`LearnerConfig.rate_factor`.

        Raises:
            LossNotFinite: If many steps in a row had to be skipped.
        """
        if self.regulariser is not None and regularise:
            for part in self.regulariser(self.steps + self.skipped):
                self.accumulate(part)
        self._set_rates(rate)
        self._reduce()
        norms = {
            name: float(torch.nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm))
            for name, parameters in self._groups.items()
        }
        fine = not self._not_finite and all(np.isfinite(norm) for norm in norms.values())
        fine = not self.ranks.any(not fine)
        if fine:
            self.optimizer.step()
            self.steps += 1
        self.optimizer.zero_grad(set_to_none=True)
        self._not_finite = False
        self._count_skipped(fine)
        if not fine:
            return StepReport({}, {})
        return StepReport(
            norms, {name: norm > self.config.max_grad_norm for name, norm in norms.items()}
        )

    def metrics(self) -> dict[str, float]:
        """The current learning rates and exploration standard deviations, and skipped steps."""
        found = {f"learner/lr/{g['name']}": g["lr"] for g in self.optimizer.param_groups}
        deviation = self.policy.deviation()
        if deviation is not None:
            found |= {f"actor/std/{i}": float(std) for i, std in enumerate(deviation)}
        return {**found, "learner/steps_skipped": self.skipped}

    def _count_skipped(self, fine: bool) -> None:
        self._skipped_in_a_row = 0 if fine else self._skipped_in_a_row + 1
        self.skipped += not fine
        if self._skipped_in_a_row >= MOST_SKIPPED:
            raise LossNotFinite(
                f"the loss or its gradient was not finite in {MOST_SKIPPED} gradient steps in a "
                "row, which were skipped: lower the learning rate, or look for rewards, "
                "observations or log-probabilities that are not finite"
            )

    def _reduce(self) -> None:
        """Sum gradients over ranks; a parameter without a gradient on any rank gets none."""
        if self.ranks.size == 1:
            return
        present = [float(p.grad is not None) for p in self._parameters]
        flat = [
            (torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in self._parameters
        ]
        device = self._parameters[0].device
        whole = self.ranks.total(torch.cat([torch.tensor(present, device=device), *flat]))
        start = len(present)
        for givers, parameter in zip(whole[:start].tolist(), self._parameters, strict=True):
            end = start + parameter.numel()
            if givers:
                parameter.grad = whole[start:end].view_as(parameter).to(parameter.dtype)
            start = end


def _optimizer_groups(
    policy: Policy, trains: Collection[str]
) -> dict[str, list[torch.nn.Parameter]]:
    """Parameters to train by optimizer group; the head's deviation has its own group."""
    chosen = {name: list(group) for name, group in policy.groups().items() if name in trains}
    apart = {id(parameter) for parameter in policy.deviations()}
    if "head" in chosen:
        chosen[DEVIATION] = [p for p in chosen["head"] if id(p) in apart]
        chosen["head"] = [p for p in chosen["head"] if id(p) not in apart]
    return {name: parameters for name, parameters in chosen.items() if parameters}


def _score(policy: Policy, batch: RolloutBatch, rows: Rows) -> Scores:
    episode, decision = rows[:, 0], rows[:, 1]
    sentences = batch.instruction
    return policy.evaluate(
        Observation(batch.obs.images[episode, decision], batch.obs.state[episode, decision]),
        [sentences[row] for row in episode],
        batch.chunk.raw[episode, decision],
        batch.chunk.features[episode, decision],
    )


def _owner(batch: RolloutBatch, together: Together) -> NDArray[np.int64] | None:
    """Index ``[N]`` of the undivided unit of each episode; None if episodes may be divided."""
    if together == "decision":
        return None
    return batch.group if together == "group" else np.arange(len(batch))


def _split(rows: Rows, pieces: int, owner: NDArray[np.int64] | None) -> list[Rows]:
    """Divide rows into about equal, non-empty pieces; the rows of an owner must be adjacent."""
    if not len(rows):
        return []
    if owner is None:
        return [piece for piece in np.array_split(rows, pieces) if len(piece)]
    starts = np.flatnonzero(np.diff(owner[rows[:, 0]], prepend=-1))
    piece_of = starts * pieces // len(rows)
    return np.split(rows, starts[1:][np.diff(piece_of) > 0])
