"""Experts that act on the true state: small trained networks, evaluated with NumPy.

A :class:`StateExpert` acts with NumPy alone and is stored without pickle, so that recording with it
needs no torch. ``vla_rl/experts/training.py`` trains them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from vla_rl.plugins import unknown
from vla_rl.sim import Expert, Outcome, SimEnv
from vla_rl.types import Floats

CLIP = 10.0
"""Largest absolute value of the normalised state, in training and after."""

_HIDDEN: dict[str, Callable[[Floats], Floats]] = {
    "sac": lambda x: np.maximum(x, 0.0),
    "ppo": np.tanh,
}
_OUTPUT: dict[str, Callable[[Floats], Floats]] = {
    "sac": np.tanh,
    "ppo": lambda x: np.clip(x, -1.0, 1.0),
}


@dataclass(frozen=True)
class StateExpert:
    """The mean action of a trained network; an :data:`~vla_rl.sim.Expert`.

    Attributes:
        algorithm: Algorithm that trained it, ``"sac"`` or ``"ppo"``; determines the activations.
        mean: ``[P]`` float32, subtracted from the state.
        scale: ``[P]`` float32 divisor of the result.
        layers: Weight ``[out, in]`` and bias ``[out]`` of every layer, float32.
    """

    algorithm: str
    mean: Floats
    scale: Floats
    layers: tuple[tuple[Floats, Floats], ...]

    def __call__(self, env: SimEnv) -> Floats:
        """The action ``[A]`` in [-1, 1] for the current true state of an environment.

        Raises:
            ValueError: If the true state has a different size than in training.
        """
        state = env.privileged.astype(np.float32)
        if state.shape != self.mean.shape:
            raise ValueError(
                f"this expert was trained on {self.mean.size} numbers of true state, the "
                f"environment has {state.size}; train one for it"
            )
        x = np.clip((state - self.mean) / self.scale, -CLIP, CLIP)
        for weight, bias in self.layers[:-1]:
            x = _HIDDEN[self.algorithm](weight @ x + bias)
        weight, bias = self.layers[-1]
        return _OUTPUT[self.algorithm](weight @ x + bias)

    def save(self, file: Path) -> None:
        """Write the expert as one safetensors file."""
        tensors = {"mean": self.mean, "scale": self.scale}
        for i, (weight, bias) in enumerate(self.layers):
            tensors |= {f"{i}.weight": weight, f"{i}.bias": bias}
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, file, {"algorithm": self.algorithm, "layers": str(len(self.layers))})

    @classmethod
    def load(cls, file: Path) -> StateExpert:
        """Load an expert that :meth:`save` wrote; it acts identically.

        Raises:
            ValueError: If there is none, or the file is damaged.
        """
        try:
            with safe_open(file, framework="numpy") as opened:
                about, get = opened.metadata(), opened.get_tensor
                layers = tuple(
                    (get(f"{i}.weight"), get(f"{i}.bias")) for i in range(int(about["layers"]))
                )
                expert = cls(about["algorithm"], get("mean"), get("scale"), layers)
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise ValueError(
                f"{file} is not an expert ({error}); train one with `vla-rl expert`"
            ) from error
        if expert.algorithm not in _HIDDEN:
            raise ValueError(unknown(f"algorithm of the expert {file}", expert.algorithm, _HIDDEN))
        return expert


def play_expert(env: SimEnv, expert: Expert, seed: int) -> tuple[Outcome, int]:
    """Let an expert play an episode without rendering; return its last outcome and its steps."""
    env.start(seed)
    outcome, steps = env.advance(expert(env)), 1
    while not (outcome.terminated or outcome.truncated):
        outcome, steps = env.advance(expert(env)), steps + 1
    return outcome, steps
