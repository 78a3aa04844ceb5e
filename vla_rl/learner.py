"""The learner: parameter groups, optimizer, micro-batches, ranks. The only ``backward`` is here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vla_rl.distributed import ALONE, Ranks
from vla_rl.policy import Policy, Scores
from vla_rl.types import Observation, RolloutBatch

Regulariser = Callable[[int], Tensor]
"""From the number of the gradient step to a scalar that is added to its loss."""

Rows = np.ndarray
"""``[B, 2]`` int64: episode and decision of each row of a minibatch."""

ROWS_WITHOUT_GRADIENT = 512  # scored at once where nothing is kept for a backward pass


@dataclass(frozen=True)
class LearnerConfig:
    """The optimizer (AdamW)."""

    lr: float = 1e-4
    """Learning rate of the action head."""
    vlm_lr: float = 1e-4
    """Learning rate of the vision backbone or its LoRA, where it is trained."""
    critic_lr: float = 1e-3
    """Learning rate of the critic."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    max_grad_norm: float = 0.5
    """Gradients are scaled down to this global norm."""
    train_vlm: bool | None = None
    """Train the vision backbone, too. A frozen one looks at every image only once. None: train it
    if the policy starts from fresh weights."""

    def __post_init__(self) -> None:
        for name in ("lr", "vlm_lr", "critic_lr", "max_grad_norm"):
            if not vars(self)[name] > 0:
                raise ValueError(f"learner {name} must be positive, got {vars(self)[name]}")
        if self.weight_decay < 0:
            raise ValueError(f"learner weight_decay must not be negative, got {self.weight_decay}")

    def rates(self) -> dict[str, float]:
        """Learning rate by parameter group."""
        return {"vlm": self.vlm_lr, "head": self.lr, "critic": self.critic_lr}


class Learner:
    """Trains chosen parameter groups of a policy; the others stay bit-equal.

    Args:
        policy: What is trained; moved nowhere.
        config: The optimizer.
        trains: Names of the groups to train, of ``policy.groups()``.
        reference: A frozen policy to stay close to, for algorithms that ask for one.
        ranks: Processes that share the work; every one holds the same policy and batches.

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
        self.regulariser: Regulariser | None = None
        policy.freeze(set(groups) - set(trains))
        rates = config.rates()
        self._parameters = [p for name in groups if name in trains for p in groups[name]]
        trained = [name for name in groups if name in trains and groups[name]]
        self._rates = [rates[name] for name in trained]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": groups[name], "lr": rate, "initial_lr": rate}
                for name, rate in zip(trained, self._rates, strict=True)
            ],
            weight_decay=config.weight_decay,
            fused=True,  # five times faster than the loop over parameters, on CPU too
        )

    def apply_config(self) -> None:
        """Write the configured learning rates and weight decay into the optimizer.

        After its state was loaded, which brings those of the run that was saved.
        """
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = group["initial_lr"] = rate
            group["weight_decay"] = self.config.weight_decay

    def scale_lr(self, factor: float) -> None:
        """Set every group's learning rate to ``factor`` times its configured one."""
        for group in self.optimizer.param_groups:
            group["lr"] = factor * group["initial_lr"]

    def evaluate(self, batch: RolloutBatch, rows: Rows) -> Scores:
        """Scores of chosen decisions under the current weights, with gradient."""
        return _score(self.policy, batch, rows)

    def logprobs(self, batch: RolloutBatch, policy: Policy) -> Tensor:
        """``[N, T, K]`` log-probs of the whole batch under a policy, without gradient."""
        out = torch.zeros(batch.mask.shape)
        rows = np.argwhere(batch.valid)
        with torch.no_grad():
            for first in range(0, len(rows), ROWS_WITHOUT_GRADIENT):
                part = rows[first : first + ROWS_WITHOUT_GRADIENT]
                out[part[:, 0], part[:, 1]] = _score(policy, batch, part).logprob.float().cpu()
        return out

    def minibatches(
        self,
        batch: RolloutBatch,
        size: int,
        rng: np.random.Generator,
        whole_episodes: bool = False,
    ) -> Iterator[Rows]:
        """Shuffled decisions of the batch in pieces of about ``size``; each exactly once.

        Args:
            batch: Whose decisions.
            size: Decisions in a piece; 0 gives one piece.
            rng: Shuffles.
            whole_episodes: Shuffle episodes, and never cut one.
        """
        rows = np.argwhere(batch.valid)
        if whole_episodes:
            place = rng.permutation(len(batch))[rows[:, 0]]
            rows = rows[np.argsort(place, kind="stable")]
        else:
            rows = rows[rng.permutation(len(rows))]
        pieces = max(1, round(len(rows) / size)) if size else 1
        yield from _split(rows, pieces, whole_episodes)

    def parts(self, rows: Rows, size: int, whole_episodes: bool = False) -> list[Rows]:
        """This rank's micro-batches of at most about ``size`` decisions (0: as few as possible)."""
        pieces = max(self.ranks.world, -(-len(rows) // size) if size else 1)
        return self.ranks.share(_split(rows, pieces, whole_episodes))

    def accumulate(self, loss: Tensor) -> None:
        """Add the gradient of a loss to what the next :meth:`step` goes down.

        Raises:
            FloatingPointError: If the loss is not finite; the weights are unchanged.
        """
        if not bool(torch.isfinite(loss)):
            self.optimizer.zero_grad(set_to_none=True)
            raise FloatingPointError(f"the loss is {loss.item()}; weights were not changed")
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self) -> float:
        """One gradient step down what was accumulated (and the regulariser, if one is set).

        Returns:
            The gradient norm before clipping.

        Raises:
            FloatingPointError: If the regulariser or a gradient is not finite; the weights are
                unchanged.
        """
        if self.regulariser is not None:
            self.accumulate(self.regulariser(self.steps) / self.ranks.world)
        self._reduce()
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, self.config.max_grad_norm))
        if np.isfinite(norm):
            self.optimizer.step()
            self.steps += 1
        self.optimizer.zero_grad(set_to_none=True)
        if not np.isfinite(norm):
            raise FloatingPointError(f"the gradient norm is {norm}; weights were not changed")
        return norm

    def _reduce(self) -> None:
        """Sum gradients over ranks; a parameter that no rank gave a gradient keeps none."""
        if self.ranks.world == 1:
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


def _score(policy: Policy, batch: RolloutBatch, rows: Rows) -> Scores:
    episode, decision = rows[:, 0], rows[:, 1]
    sentences = batch.instruction
    return policy.evaluate(
        Observation(batch.obs.images[episode, decision], batch.obs.state[episode, decision]),
        [sentences[row] for row in episode],
        batch.chunk.raw[episode, decision],
        batch.chunk.features[episode, decision],
    )


def _split(rows: Rows, pieces: int, whole_episodes: bool) -> list[Rows]:
    """About equal pieces, none of them empty; rows of an episode must be adjacent to be kept so."""
    if not whole_episodes:
        return [piece for piece in np.array_split(rows, pieces) if len(piece)]
    starts = np.flatnonzero(np.diff(rows[:, 0], prepend=-1))
    piece_of = starts * pieces // len(rows)
    return np.split(rows, starts[1:][np.diff(piece_of) > 0])
