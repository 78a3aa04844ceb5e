"""The multilayer perceptron of heads and critics."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def mlp(inputs: int, hidden: Sequence[int], outputs: int, gain: float) -> nn.Sequential:
    """SiLU layers; the last one is orthogonal with ``gain``, so that 0 gives zero outputs."""
    widths = [inputs, *hidden]
    layers: list[nn.Module] = []
    for before, after in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(before, after), nn.SiLU()]
    last = nn.Linear(widths[-1], outputs)
    nn.init.orthogonal_(last.weight, gain)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)
