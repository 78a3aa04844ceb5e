"""Where a policy acts: suite, tasks, horizon, settings of the suite, instruction."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from vla_rl import plugins
from vla_rl.config import from_json, to_json
from vla_rl.sim import SimEnv
from vla_rl.types import EpisodeSpec, EvalProtocol, Spaces, Task, seed_for


@dataclass(frozen=True)
class World:
    """The suite and tasks in which the policy acts."""

    suite: str = "metaworld"
    """Suite of tasks: a name from `vla-rl list envs`, `gym:ID` for any Gymnasium environment, or
    the dotted path of a module."""
    tasks: tuple[str, ...] = ("drawer-open-v3", "push-v3", "sweep-into-v3")
    """Tasks of the suite, or splits, which are named lists of tasks; `vla-rl list tasks` shows
    both. Every suite has the split `all`."""
    max_steps: tuple[int, ...] | None = (150, 100, 100)
    """Horizon in environment steps: one number, or one for each task; None for the suite's."""
    env: Any = None
    """Settings of the suite, for instance cameras, image size and rendering quality."""
    instruction: str | None = None
    """Instruction that replaces the suite's own; only with a single task."""

    def resolve(self) -> Arena:
        """Look up the suite, its settings, and the tasks with this world's horizon and
        instruction.

        Raises:
            ValueError: For an unknown suite or task, a task named twice, a bad horizon, or an
                instruction that is empty or stands for several tasks.
        """
        suite = plugins.load("envs", self.suite)
        every = {task.id: task for task in suite.tasks()}
        ids = self.task_ids()
        if len(set(ids)) != len(ids):
            raise ValueError(f"a task is named twice in {list(self.tasks)}: {_repeated(ids)}")
        tasks = self._instructed(self._timed([every[task_id] for task_id in ids]))
        settings = suite.Settings() if self.env is None else self.env
        return Arena(self, suite, tuple(tasks), settings)

    def task_ids(self) -> tuple[str, ...]:
        """Ids of the tasks in order, with every split replaced by its tasks.

        Raises:
            ValueError: For an unknown suite, or a name that is neither a task's nor a split's.
        """
        if not self.tasks:
            raise ValueError("no task was named; see `vla-rl list tasks`")
        module = plugins.load("envs", self.suite)
        every = tuple(task.id for task in module.tasks())
        splits = {"all": every} | vars(module).get("SPLITS", {})
        ids = tuple(task_id for name in self.tasks for task_id in splits.get(name, (name,)))
        for task_id in ids:
            if task_id not in every:
                # Splits come first, because the message shows only the first names of a long list.
                raise ValueError(plugins.unknown("task", task_id, [*splits, *every]))
        return ids

    def _timed(self, tasks: list[Task]) -> list[Task]:
        if self.max_steps is None:
            return tasks
        if len(self.max_steps) not in (1, len(tasks)):
            raise ValueError(
                f"max_steps {list(self.max_steps)}: give one number, or one for each of "
                f"{len(tasks)} tasks"
            )
        if min(self.max_steps) < 1:
            raise ValueError(f"max_steps must be at least 1, got {min(self.max_steps)}")
        steps = self.max_steps * len(tasks) if len(self.max_steps) == 1 else self.max_steps
        return [
            dataclasses.replace(task, max_steps=horizon)
            for task, horizon in zip(tasks, steps, strict=True)
        ]

    def _instructed(self, tasks: list[Task]) -> list[Task]:
        if self.instruction is None:
            return tasks
        if not self.instruction.strip():
            raise ValueError(f"instruction {self.instruction!r} is empty; give a sentence")
        if len(tasks) > 1:
            raise ValueError(
                f"instruction {self.instruction!r} would stand for {len(tasks)} tasks: choose one "
                "with --tasks, or take each task's own with --instruction None"
            )
        return [dataclasses.replace(tasks[0], instruction=self.instruction)]


@dataclass(frozen=True)
class Arena:
    """A world that has been resolved, so that stages need not look up the suite again.

    Attributes:
        world: The world that was resolved.
        suite: The suite's module.
        tasks: The tasks in the order of the world, with its horizon and instruction.
        settings: The suite's settings.
    """

    world: World
    suite: ModuleType
    tasks: tuple[Task, ...]
    settings: Any

    @cached_property
    def spaces(self) -> Spaces:
        """Shapes of observations and actions.

        Raises:
            ValueError: For cameras or sizes that the suite does not have.
        """
        spaces: Spaces = self.suite.spaces(self.settings)
        return spaces

    @property
    def horizons(self) -> dict[str, int]:
        """Horizon of each task in environment steps, by task id."""
        return {task.id: task.max_steps for task in self.tasks}

    @property
    def instructions(self) -> list[str]:
        """Instruction of each task."""
        return [task.instruction for task in self.tasks]

    @property
    def success_ends(self) -> bool:
        """Whether success ends an episode; true if the suite does not define it."""
        ends: Callable[[Any], bool] = self.offered("success_ends", lambda settings: True)
        return ends(self.settings)

    @property
    def protocols(self) -> Mapping[str, EvalProtocol]:
        """The suite's evaluation protocols, by name."""
        protocols: Mapping[str, EvalProtocol] = self.offered("PROTOCOLS", {})
        return protocols

    def offered(self, name: str, default: Any) -> Any:
        """An optional name of the suite, or the default where it does not define it."""
        return vars(self.suite).get(name, default)

    def specs(self, use: str, per_task: int, first: int = 0) -> list[EpisodeSpec]:
        """Starts number ``first`` to ``first + per_task - 1`` of a use, for every task."""
        return [
            EpisodeSpec(task, seed_for(use, first + index))
            for task in self.tasks
            for index in range(per_task)
        ]

    def simulator(self, task: Task) -> SimEnv:
        """Make an environment for one task."""
        env: SimEnv = self.suite.make(task, self.settings)
        return env

    def renderer(self) -> str:
        """Set up rendering for this process and its children, and describe the renderer.

        Raises:
            RuntimeError: If nothing can render; says what to install.
        """
        prepare: Callable[[Any], str] = self.offered("prepare", lambda settings: "none")
        return prepare(self.settings)

    def replaced(self, **changes: Any) -> Arena:
        """The arena of the same world with some fields replaced."""
        return dataclasses.replace(self.world, **changes).resolve()


def _repeated(ids: tuple[str, ...]) -> str:
    return ", ".join(task_id for task_id, count in Counter(ids).items() if count > 1)


def write_world(arena: Arena, folder: Path) -> None:
    """Write ``world.json``, which says where a saved policy or a set of demonstrations belongs."""
    world = arena.world
    data = {
        "suite": world.suite,
        "tasks": list(world.tasks),
        "max_steps": None if world.max_steps is None else list(world.max_steps),
        "env": to_json(arena.settings),
        "instruction": world.instruction,
    }
    (folder / "world.json").write_text(json.dumps(data, indent=2) + "\n")


def read_world(folder: Path) -> World:
    """Read the world of a saved policy.

    Raises:
        ValueError: If ``world.json`` is missing or cannot be read.
    """
    path = folder / "world.json"
    try:
        data = json.loads(path.read_text())
        settings = plugins.load("envs", data["suite"]).Settings
        return World(
            suite=data["suite"],
            tasks=tuple(data["tasks"]),
            max_steps=None if data["max_steps"] is None else tuple(data["max_steps"]),
            env=from_json(settings, data["env"]),
            instruction=data.get("instruction"),  # policies of earlier versions have none
        )
    except FileNotFoundError as error:
        raise ValueError(f"{folder} is not a saved policy: {path} is missing") from error
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
