"""Experts for tasks that have no scripted one: reinforcement learning from the true state.

Stable-Baselines3 trains one small network per task on ``SimEnv.privileged`` and the environment's
own reward. Nothing is rendered, so it takes minutes on a CPU where learning from images takes days.
The result is a :class:`~vla_rl.experts.state_expert.StateExpert`, whose demonstrations train
policies that only see images.

References:
    Haarnoja et al., "Soft actor-critic", ICML 2018. Schulman et al., "Proximal policy optimization
    algorithms", 2017. Raffin et al., "Stable-Baselines3", JMLR 2021.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import gymnasium
import numpy as np
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from vla_rl.episode_end import paid_on
from vla_rl.experts.state_expert import CLIP, StateExpert
from vla_rl.sim import SimEnv
from vla_rl.storage import checkpoint
from vla_rl.types import SEED_RANGES, Floats, seed_for

# -------------------------------------------------------------------------------------- algorithms


@dataclass(frozen=True)
class SACConfig:
    """Soft actor-critic: needs few environment steps, but more computation for each than PPO."""

    envs: int = 8
    """Environments that are stepped together, followed by `gradient_steps` updates."""
    gradient_steps: int = 2
    """Updates after each step of all environments."""
    batch_size: int = 128
    """Transitions per update."""
    hidden: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers of actor and critics."""
    learning_rate: float = 1e-3
    """Learning rate of Adam."""
    gamma: float = 0.99
    """Discount per environment step, in [0, 1)."""
    buffer_size: int = 300_000
    """Size of the replay buffer, in transitions."""
    learning_starts: int = 2_000
    """Steps of random actions before the first update."""
    ent_coef: str = "auto_0.1"
    """Entropy coefficient: a number, `auto`, or `auto_` followed by the initial value."""

    name: ClassVar[str] = "sac"

    def __post_init__(self) -> None:
        _check(self, "envs", "gradient_steps", "batch_size", "buffer_size")
        if not _ENTROPY.fullmatch(self.ent_coef):
            raise ValueError(
                f"sac.ent_coef {self.ent_coef!r} must be a number, `auto`, or `auto_` and a number"
            )

    def model(self, envs: VecNormalize, seed: int) -> SAC:
        """A model with fresh weights."""
        return SAC(
            "MlpPolicy",
            envs,
            learning_rate=self.learning_rate,
            buffer_size=self.buffer_size,
            learning_starts=self.learning_starts,
            batch_size=self.batch_size,
            gamma=self.gamma,
            train_freq=1,
            gradient_steps=self.gradient_steps,
            ent_coef=self.ent_coef,
            policy_kwargs={"net_arch": list(self.hidden)},
            seed=seed,
            device="cpu",
        )


@dataclass(frozen=True)
class PPOConfig:
    """Proximal policy optimization: needs many environment steps, but little computation each."""

    envs: int = 16
    """Environments that are stepped together."""
    n_steps: int = 128
    """Steps of every environment between updates."""
    batch_size: int = 512
    """Transitions per minibatch."""
    n_epochs: int = 10
    """Passes over the collected steps in an update."""
    hidden: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers of actor and critic."""
    learning_rate: float = 3e-4
    """Learning rate of Adam."""
    gamma: float = 0.99
    """Discount per environment step, in [0, 1)."""
    gae_lambda: float = 0.95
    """Lambda of generalised advantage estimation, in [0, 1]."""
    clip_range: float = 0.2
    """Clip range of the probability ratio."""
    ent_coef: float = 0.0
    """Entropy coefficient."""

    name: ClassVar[str] = "ppo"

    def __post_init__(self) -> None:
        _check(self, "envs", "batch_size", "n_epochs")
        if self.n_steps < 2:
            raise ValueError(f"ppo.n_steps must be at least 2, got {self.n_steps}")

    def model(self, envs: VecNormalize, seed: int) -> PPO:
        """A model with fresh weights."""
        return PPO(
            "MlpPolicy",
            envs,
            learning_rate=self.learning_rate,
            n_steps=self.n_steps,
            batch_size=self.batch_size,
            n_epochs=self.n_epochs,
            gamma=self.gamma,
            gae_lambda=self.gae_lambda,
            clip_range=self.clip_range,
            ent_coef=self.ent_coef,
            policy_kwargs={"net_arch": list(self.hidden)},
            seed=seed,
            device="cpu",
        )


Config = SACConfig | PPOConfig
_ENTROPY = re.compile(r"auto|(auto_)?[0-9]*\.?[0-9]+(e-?[0-9]+)?")


def _check(config: Config, *counts: str) -> None:
    """Check the range of settings; ``counts`` names those that must be at least 1."""
    settings = vars(config)
    for name in counts:
        if settings[name] < 1:
            raise ValueError(f"{config.name}.{name} must be at least 1, got {settings[name]}")
    if not config.hidden or min(config.hidden) < 1:
        raise ValueError(f"{config.name}.hidden needs widths of at least 1, got {config.hidden}")
    if not config.learning_rate > 0:
        raise ValueError(
            f"{config.name}.learning_rate must be positive, got {config.learning_rate}"
        )
    if not 0 <= config.gamma < 1:
        raise ValueError(f"{config.name}.gamma must be in [0, 1), got {config.gamma}")


# ---------------------------------------------------------------------------------------- training


class StateEnv(gymnasium.Env[Floats, Floats]):
    """A simulator as an environment of its true state, never rendered, on training starts.

    Stable-Baselines3 bootstraps at the time limit, so a solved episode is credited as if it stayed
    solved for ever (:mod:`vla_rl.episode_end`).
    """

    def __init__(self, sim: SimEnv, gamma: float) -> None:
        if type(sim).privileged is SimEnv.privileged:
            warnings.warn(
                f"{type(sim).__name__} defines no `privileged` state: the expert sees no more than "
                "proprioception, and every step of training is rendered",
                stacklevel=2,
            )
        self._sim, self._gamma = sim, gamma
        self.action_space = sim.action_space
        self.observation_space = gymnasium.spaces.Box(
            -np.inf, np.inf, sim.privileged.shape, np.float32
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        """Go to a random training start."""
        super().reset(seed=seed)
        self._sim.start(seed_for("train", int(self.np_random.integers(len(SEED_RANGES["train"])))))
        return self._state(), {}

    def step(self, action: Floats) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Advance without rendering."""
        outcome = self._sim.advance(action)
        reward = outcome.reward
        if outcome.success and outcome.terminated:
            reward += paid_on(max(reward, 0.0), self._gamma, math.inf)
        info = {"is_success": outcome.success}
        return self._state(), reward, outcome.terminated, outcome.truncated, info

    def close(self) -> None:
        """Close the simulator."""
        self._sim.close()

    def _state(self) -> Floats:
        return self._sim.privileged.astype(np.float32)


_EPSILON = 1e-8
"""Added to the variance by which states and returns are normalised."""


class ExpertTraining:
    """Training of one expert.

    Args:
        make: Makes a simulator of the task.
        config: The algorithm and its settings.
        seed: Seed of weights, starts and noise.
    """

    def __init__(self, make: Callable[[], SimEnv], config: Config, seed: int) -> None:
        self._config, self._seed = config, seed
        makers: list[Callable[[], gymnasium.Env]] = [
            lambda: StateEnv(make(), config.gamma) for _ in range(config.envs)
        ]
        # Rewards are scaled but not clipped, which would reduce the reward of a solved state.
        self._envs = VecNormalize(
            DummyVecEnv(makers),
            clip_obs=CLIP,
            clip_reward=np.inf,
            gamma=config.gamma,
            epsilon=_EPSILON,
        )
        self._model = config.model(self._envs, _seed_of(seed, 0))
        self._model.set_logger(Logger(None, []))  # otherwise every call of learn makes a folder

    @property
    def steps(self) -> int:
        """Number of environment steps so far."""
        return self._model.num_timesteps

    @property
    def success(self) -> float | None:
        """Success rate of the last 100 episodes of training; None before the first one ends."""
        outcomes = self._model.ep_success_buffer
        return float(np.mean(outcomes)) if outcomes else None

    def learn(self, steps: int) -> None:
        """Train for at least `steps` more environment steps, rounded up to a whole batch."""
        self._model.learn(steps, reset_num_timesteps=False)

    def expert(self) -> StateExpert:
        """The current expert."""
        seen = self._statistics()["state"]
        layers = [part for part in _actor(self._model) if isinstance(part, nn.Linear)]
        return StateExpert(
            self._config.name,
            seen.mean.astype(np.float32),
            np.sqrt(seen.var + _EPSILON).astype(np.float32),
            tuple((_array(layer.weight), _array(layer.bias)) for layer in layers),
        )

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimizers and replay buffer, for :func:`vla_rl.storage.checkpoint.save`.

        Episodes in progress are not included: a resumed training starts new ones.
        """
        return {
            "steps": self.steps,
            "networks": self._model.get_parameters(),
            "statistics": {name: vars(seen) for name, seen in self._statistics().items()},
            "memory": _memory(self._model),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state written by ``state_dict``.

        Raises:
            ValueError: If the algorithm, or the size of a network or of the replay buffer, differs.
        """
        model = self._model
        try:
            model.set_parameters(state["networks"], device="cpu")
            _remember(model, state["memory"])
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"the checkpoint does not fit the {self._config.name} of this run ({error}); "
                "resume with the settings that it was begun with"
            ) from error
        model.num_timesteps = state["steps"]
        for name, seen in self._statistics().items():
            vars(seen).update(state["statistics"][name])
        model.set_random_seed(_seed_of(self._seed, self.steps))

    def save(self, checkpoints: Path) -> None:
        """Write a checkpoint that replaces earlier ones, because replay buffers are large.

        Raises:
            OSError: If writing failed; the earlier one is intact.
        """
        checkpoint.save(
            checkpoints,
            self.steps,
            lambda folder: self.expert().save(folder / "expert.safetensors"),
            self.state_dict(),
            keep=1,
        )

    def close(self) -> None:
        """Close the simulators."""
        self._envs.close()

    def _statistics(self) -> dict[str, RunningMeanStd]:
        """Running statistics of the state ``[P]`` and of returns."""
        state = self._envs.obs_rms
        assert isinstance(state, RunningMeanStd)  # a dict only for spaces of several parts
        return {"state": state, "returns": self._envs.ret_rms}


def _actor(model: SAC | PPO) -> list[nn.Module]:
    """The modules of the actor's mean, in order."""
    if isinstance(model, SAC):
        return [*model.actor.latent_pi.children(), model.actor.mu]
    return [*model.policy.mlp_extractor.policy_net.children(), model.policy.action_net]


_REPLAYED = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def _memory(model: SAC | PPO) -> dict[str, Any]:
    """State of SAC besides its networks: entropy coefficient and replay buffer."""
    if not isinstance(model, SAC):
        return {}
    replay = model.replay_buffer
    assert replay is not None
    arrays = vars(replay)
    used = replay.size()
    return {
        "log_ent_coef": model.log_ent_coef,
        "capacity": [replay.buffer_size, replay.n_envs],
        "position": replay.pos,
        "full": replay.full,
        "replay": {name: torch.from_numpy(arrays[name][:used]) for name in _REPLAYED},
    }


def _remember(model: SAC | PPO, memory: Mapping[str, Any]) -> None:
    """Restore what :func:`_memory` returned."""
    if not isinstance(model, SAC):
        return
    replay = model.replay_buffer
    assert replay is not None
    if memory["capacity"] != [replay.buffer_size, replay.n_envs]:
        raise ValueError(f"memory of {memory['capacity']} transitions by environments")
    if model.log_ent_coef is not None:
        model.log_ent_coef.data.copy_(memory["log_ent_coef"])
    for name, past in memory["replay"].items():
        vars(replay)[name][: len(past)] = past.numpy()
    replay.pos, replay.full = memory["position"], memory["full"]


def _seed_of(seed: int, steps: int) -> int:
    """A seed for a run after ``steps`` steps, independent of the seeds of other runs.

    Stable-Baselines3 adds the number of the environment to it.
    """
    return int(np.random.SeedSequence([seed, steps]).generate_state(1)[0] >> 1)


def _array(tensor: torch.Tensor) -> Floats:
    return cast(Floats, tensor.detach().numpy().copy())
