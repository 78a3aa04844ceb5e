"""The environment contract: a Gymnasium environment that can also be stepped without rendering.

A policy that acts in chunks observes once per chunk, and rendering is the most expensive part of a
step. So a step is split in two: ``advance`` moves the simulation, ``observe`` renders it. ``step``
does both, so every Gymnasium tool works with a :class:`SimEnv` unchanged.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, cast

import gymnasium
import numpy as np
from numpy.typing import NDArray

from vla_rl.types import Floats, Observation, Spaces, Task


class Outcome(NamedTuple):
    """Result of one environment step, without an observation.

    Attributes:
        reward: The environment's own reward for this step.
        terminated: Whether the task ended (success or failure).
        truncated: Whether the time limit ended the episode.
        success: Whether the task is solved now.
        progress: How far the task is done, in [0, 1]; 1 when solved.
        completed: Bit i is set once subgoal i of the task has been completed in this episode.
    """

    reward: float
    terminated: bool
    truncated: bool
    success: bool
    progress: float
    completed: int = 0


class SimEnv(gymnasium.Env[dict[str, NDArray[Any]], NDArray[np.float32]]):
    """Base class of every suite's environments.

    Subclasses set ``action_space`` (a Box in [-1, 1]), ``observation_space`` (see
    :meth:`observation_space_for`), ``spaces`` and implement the abstract methods. After
    ``reset(seed=s)`` everything, the first frame included, depends on ``s`` only.

    Attributes:
        restorable: Whether :meth:`snapshot` and :meth:`restore` work. Episodes of a task then share
            one simulator; otherwise every episode in progress has its own.
    """

    restorable = True

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}
    render_mode = "rgb_array"
    spaces: Spaces

    @abstractmethod
    def start(self, seed: int) -> float:
        """Go to the initial state of ``seed`` and return its progress in [0, 1]."""

    @abstractmethod
    def advance(self, action: Floats) -> Outcome:
        """Apply one ``[A]`` action in [-1, 1] (clipped) without rendering."""

    @abstractmethod
    def observe(self) -> Observation:
        """Render every view at the policy's resolution and read proprioception."""

    @abstractmethod
    def snapshot(self) -> object:
        """The complete state of the simulation; cheap, and exact when restored."""

    @abstractmethod
    def restore(self, snapshot: object) -> None:
        """Return to a snapshot of this environment or of another one of the same task."""

    @property
    def privileged(self) -> NDArray[np.float64]:
        """``[P]`` numbers of the true state, for experts that observe more than the policy."""
        return self.observe().state.astype(np.float64)

    @staticmethod
    def observation_space_for(spaces: Spaces) -> gymnasium.spaces.Dict:
        """The Gymnasium space of ``{"images": [V, h, w, 3] uint8, "state": [S] float32}``."""
        size = spaces.image_size
        box = gymnasium.spaces.Box
        return gymnasium.spaces.Dict(
            {
                "images": box(0, 255, (len(spaces.views), size, size, 3), np.uint8),
                "state": box(-np.inf, np.inf, (spaces.state_dim,), np.float32),
            }
        )

    def clipped(self, action: Floats) -> NDArray[np.float64]:
        """Clip an ``[A]`` action to [-1, 1].

        Raises:
            ValueError: If the action is not A finite numbers.
        """
        wanted = np.asarray(action, np.float64)
        if wanted.shape != (self.spaces.action_dim,) or not np.isfinite(wanted).all():
            raise ValueError(
                f"an action must be {self.spaces.action_dim} finite numbers, got {action!r}"
            )
        return np.minimum(np.maximum(wanted, -1.0), 1.0)

    def render(self) -> NDArray[np.uint8]:  # type: ignore[override]
        """The first view as an ``[h, w, 3]`` image.

        Raises:
            RuntimeError: If there is no view.
        """
        if not self.spaces.views:
            raise RuntimeError("this environment was made without images")
        return cast("NDArray[np.uint8]", self.observe().images[0])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Gymnasium's reset; without a seed, one is drawn from the environment's generator."""
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        progress = self.start(seed)
        return self._look(), {"success": False, "progress": progress}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[dict[str, NDArray[Any]], float, bool, bool, dict[str, Any]]:
        """Gymnasium's step: ``advance`` and then ``observe``."""
        outcome = self.advance(action)
        info = {"success": outcome.success, "progress": outcome.progress}
        return self._look(), outcome.reward, outcome.terminated, outcome.truncated, info

    def _look(self) -> dict[str, NDArray[Any]]:
        observation = self.observe()
        return {"images": observation.images, "state": observation.state}


class Suite(Protocol):
    """What a module in ``envs/`` (or a user's own suite) must define.

    ``Settings`` is a frozen dataclass that can be written as JSON. Optional names:
    ``expert(task)``, a scripted expert ``SimEnv -> action``; ``BUCKETS``, task ids by difficulty;
    ``SPLITS``, named tuples of task ids that ``--tasks`` accepts (``"all"`` is every task unless
    defined here); ``VARIANTS``, for each task that asks for the skill of another one with an object
    of different looks or in a different place, the id of that other task; ``PROTOCOLS``,
    :class:`EvalProtocol` by name; ``prepare(settings) -> str``, called once before any worker
    starts, which sets up rendering, returns a description of the renderer and raises
    ``RuntimeError`` with advice where none works; ``filmed(settings)``, settings for videos;
    ``diagnose()``, a list of :class:`Check`; ``dense_reward(task)``, the :class:`DenseReward` that
    makes the return of the best episode about 1; ``success_ends(settings)``, whether success ends
    an episode (default: it does).
    """

    def tasks(self) -> tuple[Task, ...]:
        """Every task of the suite; instructions are unique except that variants share them."""

    def spaces(self, settings: Any) -> Spaces:
        """What a policy of this suite sees and does, without making an environment."""

    def make(self, task: Task, settings: Any) -> SimEnv:
        """An environment for one task."""


Expert = Callable[[SimEnv], Floats]
"""Reads the true state of an environment and returns an ``[A]`` action in [-1, 1]."""
