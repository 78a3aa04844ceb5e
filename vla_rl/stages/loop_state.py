"""What a checkpoint holds of the reinforcement-learning loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vla_rl.train import Loop


def loop_state(loop: Loop) -> dict[str, Any]:
    """The state of the run apart from the learner's tensors, for a checkpoint."""
    return {
        "iteration": loop.iteration,
        "env_steps": loop.env_steps,
        "episodes": loop.episodes,
        "seconds": loop.seconds,
        "not_finite": loop.not_finite,
        "version": loop.learner.version,
        "steps": loop.learner.steps,
        "skipped": loop.learner.skipped,
        "density": loop.learner.policy.density,
        "algorithm": loop.state.state_dict(),
        "statistics": {} if loop.statistics is None else loop.statistics.state_dict(),
        "curriculum": loop.curriculum.state_dict(),
        "rewards": {name: reward.state_dict() for name, reward in loop.rewards.items()},
        "keeper": {} if loop.keeper is None else loop.keeper.state_dict(),
    }


def restore_loop(loop: Loop, state: Mapping[str, Any]) -> None:
    """Take over a state written by :func:`loop_state`."""
    for name in ("iteration", "env_steps", "episodes", "seconds", "not_finite"):
        setattr(loop, name, state[name])
    loop.learner.version = int(state["version"])
    loop.learner.steps = int(state["steps"])
    loop.learner.skipped = int(state["skipped"])
    loop.use_density(state.get("density", loop.learner.policy.density))
    loop.state.load_state_dict(state["algorithm"])
    if loop.statistics is not None:
        loop.statistics.load_state_dict(state["statistics"])
    loop.curriculum.load_state_dict(state["curriculum"])
    for name, reward in loop.rewards.items():
        if name in state.get("rewards", {}):  # checkpoints of earlier versions have none
            reward.load_state_dict(state["rewards"][name])
    if loop.keeper is not None:
        loop.keeper.load_state_dict(state["keeper"])
