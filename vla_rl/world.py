"""Where a policy acts: suite, tasks, horizon, settings of the suite, sentence."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_rl import plugins
from vla_rl.config import from_json, to_json
from vla_rl.types import EpisodeSpec, Task, seed_for


@dataclass(frozen=True)
class World:
    """Where the policy acts."""

    suite: str = "metaworld"
    """Suite of tasks: a name that `vla-rl list envs` shows, `gym:ID` for any Gymnasium environment,
    or a dotted path to a module."""
    tasks: tuple[str, ...] = ("drawer-open-v3", "push-v3", "sweep-into-v3")
    """Tasks of the suite, and names of its splits, which stand for several; `vla-rl list tasks`
    shows both. `all` is a split of every suite."""
    max_steps: tuple[int, ...] | None = (150, 100, 100)
    """Horizon in environment steps, one for all or one for each task; None keeps the suite's."""
    env: Any = None
    """Settings of the suite (cameras, image size, rendering quality)."""
    instruction: str | None = None
    """Sentence that the policy is given instead of the suite's own; only where one task is chosen.
    """

    def resolved(self) -> list[Task]:
        """The tasks, with this world's horizon and instruction.

        Raises:
            ValueError: For an unknown suite or task, a task named twice, a bad horizon, or an
                instruction that is empty or stands for several tasks.
        """
        every = {task.id: task for task in plugins.load("envs", self.suite).tasks()}
        ids = self.task_ids()
        if len(set(ids)) != len(ids):
            raise ValueError(f"a task is named twice in {list(self.tasks)}: {_repeated(ids)}")
        return self._instructed(self._timed([every[task_id] for task_id in ids]))

    def task_ids(self) -> tuple[str, ...]:
        """Ids of the tasks in order, each split's in the place of its name.

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
                # Splits first: of many names only the first are shown.
                raise ValueError(plugins.unknown("task", task_id, [*splits, *every]))
        return ids

    def specs(self, use: str, per_task: int, first: int = 0) -> list[EpisodeSpec]:
        """The ``first``-th to ``first + per_task - 1``-th start of a use for every task."""
        return [
            EpisodeSpec(task, seed_for(use, first + index))
            for task in self.resolved()
            for index in range(per_task)
        ]

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

    def settings(self) -> Any:
        """The suite's settings, default ones if none were given."""
        return self.env if self.env is not None else plugins.load("envs", self.suite).Settings()


def _repeated(ids: tuple[str, ...]) -> str:
    return ", ".join(task_id for task_id, count in Counter(ids).items() if count > 1)


def write_world(world: World, folder: Path) -> None:
    """Write ``world.json``, so that a saved policy knows where it acts."""
    data = {
        "suite": world.suite,
        "tasks": list(world.tasks),
        "max_steps": None if world.max_steps is None else list(world.max_steps),
        "env": to_json(world.settings()),
        "instruction": world.instruction,
    }
    (folder / "world.json").write_text(json.dumps(data, indent=2) + "\n")


def read_world(folder: Path) -> World:
    """The world of a saved policy.

    Raises:
        ValueError: If there is none or it cannot be read.
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
