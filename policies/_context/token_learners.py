"""Token learners by name: from a grid of backbone tokens to a few numbers that keep positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_rl.plugins import unknown
from vla_rl.policies._backbones.backbone import Grid

NAMES = ("project", "attention")
_HEADS = 4


class Project(nn.Module):
    """A linear map of each whole view, LayerNorm, tanh.

    It has weights of its own for every position, so it can tell where things are from few examples.
    """

    def __init__(self, grid: Grid, text_dim: int, tokens: int, width: int) -> None:
        super().__init__()
        self.outputs = grid.views * tokens * width
        self.views = nn.ModuleList(
            nn.Sequential(
                nn.Linear(grid.positions * grid.channels, tokens * width),
                nn.Unflatten(1, (tokens, width)),
                nn.LayerNorm(width),
                nn.Tanh(),
                nn.Flatten(),
            )
            for _ in range(grid.views)
        )

    def forward(self, grid: Tensor, text: Tensor) -> Tensor:
        """``[B, V, P, C]`` to ``[B, outputs]``; the instruction is not used."""
        views = grid.flatten(2).unbind(1)
        return torch.cat([net(view) for net, view in zip(self.views, views, strict=True)], dim=1)


class Attention(nn.Module):
    """Learned queries, moved by the instruction, that attend over the positions of all views.

    A value is the *product* of content and position: weights per position, of low rank. With the
    usual sum, the average over positions hides a small object: in a trial with two objects of 4 px
    in 64 px images the sum had learned nothing after 600 steps, the product as much as ``Project``.
    """

    def __init__(self, grid: Grid, text_dim: int, tokens: int, width: int) -> None:
        super().__init__()
        self.outputs = grid.views * tokens * width
        self.queries = nn.Parameter(torch.randn(grid.views * tokens, width))
        self.query_of_text = nn.Linear(text_dim, width)
        self.place = nn.Parameter(torch.randn(grid.views * grid.positions, width))
        self.norm = nn.LayerNorm(grid.channels)
        self.key = nn.Linear(grid.channels, width)
        self.value = nn.Linear(grid.channels, width)
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Tanh(), nn.Flatten())

    def forward(self, grid: Tensor, text: Tensor) -> Tensor:
        """``[B, V, P, C]`` and ``[B, E]`` to ``[B, outputs]``."""
        tokens = self.norm(grid.flatten(1, 2))
        queries = self.queries + self.query_of_text(text)[:, None]
        key, value = self.key(tokens) + self.place, self.value(tokens) * self.place
        split = [x.unflatten(2, (_HEADS, -1)).transpose(1, 2) for x in (queries, key, value)]
        seen = F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
        found: Tensor = self.out(seen)
        return found


class Blind(nn.Module):
    """No features at all, for a suite without cameras."""

    outputs = 0

    def forward(self, grid: Tensor, text: Tensor) -> Tensor:
        """``[B, 0]``."""
        return grid.new_zeros((len(grid), 0))


def make(
    name: str, grid: Grid, text_dim: int, tokens: int, width: int
) -> Project | Attention | Blind:
    """The token learner called ``name``; ``tokens`` of ``width`` per view."""
    if not grid.views:
        return Blind()
    if name == "project":
        return Project(grid, text_dim, tokens, width)
    return Attention(grid, text_dim, tokens, width)


def check(name: str, tokens: int, width: int) -> None:
    """Refuse a token learner that cannot be made.

    Raises:
        ValueError: If there is no such learner, or a size does not fit it.
    """
    if name not in NAMES:
        raise ValueError(unknown("token learner", name, NAMES))
    for what, value in (("tokens", tokens), ("width", width)):
        if value < 1:
            raise ValueError(f"{what} {value} is outside the allowed range 1, 2, ...")
    if name == "attention" and width % _HEADS:
        raise ValueError(f"width {width} is not a multiple of {_HEADS}, as attention needs")
