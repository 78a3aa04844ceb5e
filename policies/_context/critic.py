"""A critic with a network of its own, beside the features that a policy caches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_rl.policies._backbones.backbone import Grid
from vla_rl.policies._context import text_encoders, token_learners
from vla_rl.policies._heads.mlp import mlp


class Critic(nn.Module):
    """Image tokens, the instruction and proprioception to a value.

    Args:
        grid: Of the image tokens, at the beginning of the features.
        state_dim: S.
        text: Name of the text encoder.
        text_width: Of the adapted instruction.
        hidden: Widths of the layers that give the value.
        token_learner: How tokens become a vector; with ``tokens`` and ``width`` its size.
    """

    def __init__(
        self,
        grid: Grid,
        state_dim: int,
        *,
        text: str,
        text_width: int,
        hidden: Sequence[int],
        width: int,
        token_learner: str = "project",
        tokens: int = 1,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.adapter = nn.Linear(text_encoders.width(text), text_width)
        self.learner = token_learners.make(token_learner, grid, text_width, tokens, width)
        inputs = self.learner.outputs + text_width + state_dim
        self.value = mlp(inputs, hidden, 1, gain=0.0)

    def forward(self, features: Tensor, text: Tensor, state: Tensor) -> Tensor:
        """``[B, F]``, ``[B, E]``, ``[B, S]`` to ``[B]``.

        What a model reads besides the image tokens (features of middle layers) comes after them in
        the features, and is left out.
        """
        tokens = features[:, : self.grid.views * self.grid.positions * self.grid.channels]
        grid = tokens.reshape(len(features), *self.grid)
        words = torch.tanh(self.adapter(text))
        seen = self.learner(F.layer_norm(grid, grid.shape[-1:]), words)
        value: Tensor = self.value(torch.cat([seen, words, state], dim=1))
        return value[:, 0]
