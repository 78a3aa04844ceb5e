"""Franka Kitchen: a nine-jointed arm in a kitchen of seven things to open, turn, switch or move.

The simulation, its successes and its rewards are those of gymnasium-robotics' ``FrankaKitchen-v1``.
A task is one of the seven elements, or a sequence of them whose parts are the task's subgoals. The
action is a velocity for each joint: 1 asks for 2 rad/s (2 m/s for a finger), held for a step of
80 ms and counted from the joint positions that were *observed*, which carry noise of 1 mrad. So the
state is these observed positions. An element counts as done from the first step that ends within
0.3 of its goal.

Stock Franka Kitchen starts every episode alike. Here a seed also displaces the arm and the kettle,
see :class:`Settings`; everything else stands where it always does. Only variants change that: five
tasks in which one element has another colour and stands elsewhere, told and scored like the one
that they are variants of.
"""

from __future__ import annotations

from dataclasses import replace

from vla_rl.envs._kitchen.simulator import FrankaKitchen, Settings, elements_of, spaces
from vla_rl.envs._kitchen.tasks import BASES, ELEMENTS, SEQUENCES
from vla_rl.envs._mujoco.gl import check_frames, choose_gl
from vla_rl.sim import Expert
from vla_rl.types import Check, DenseReward, EvalProtocol, Task

__all__ = [
    "BUCKETS",
    "ELEMENTS",
    "PROTOCOLS",
    "SEQUENCES",
    "SPLITS",
    "VARIANTS",
    "FrankaKitchen",
    "Settings",
    "dense_reward",
    "diagnose",
    "expert",
    "filmed",
    "make",
    "prepare",
    "spaces",
    "tasks",
]

MAX_STEPS = 280
"""The benchmark's time limit, and the default; a task may ask for more or fewer steps."""
VARIANTS = BASES
SPLITS: dict[str, tuple[str, ...]] = {
    "all": (*ELEMENTS, *SEQUENCES),
    "ire-expert": ("bottom-burner", "light-switch", "microwave", "slide-cabinet", "hinge-cabinet"),
    "ire-rl": ("slide-cabinet-red", "hinge-cabinet-red"),
    "ire-unseen": ("slide-cabinet-yellow", "hinge-cabinet-yellow", "microwave-yellow"),
}
"""Lists of tasks by name; those of iRe-VLA are after Guo et al., arXiv 2501.16664."""

BUCKETS = {"elements": tuple(ELEMENTS), "sequences": tuple(SEQUENCES)}
PROTOCOLS: dict[str, EvalProtocol] = {
    "kitchen": EvalProtocol("kitchen", episodes_per_task=50, max_steps=MAX_STEPS),
    "kitchen-fixed-start": EvalProtocol(
        "kitchen-fixed-start",
        episodes_per_task=50,
        max_steps=MAX_STEPS,
        settings={"start_noise": 0.0, "kettle_noise": 0.0},
    ),
}


def tasks() -> tuple[Task, ...]:
    """The seven elements, the sequences and the variants, with the benchmark's own time limit."""
    single = [Task("franka_kitchen", name, say, MAX_STEPS) for name, say in ELEMENTS.items()]
    varied = [
        Task("franka_kitchen", name, ELEMENTS[base], MAX_STEPS) for name, base in VARIANTS.items()
    ]
    joint = [
        Task("franka_kitchen", name, _sentence(parts), MAX_STEPS, subgoals=parts)
        for name, parts in SEQUENCES.items()
    ]
    return (*single, *joint, *varied)


def _sentence(parts: tuple[str, ...]) -> str:
    said = [ELEMENTS[part] for part in parts]
    return f"{', '.join(said[:-1])} and {said[-1]}"


def prepare(settings: Settings) -> str:
    """Choose a GL library for this process and its children; returns which one, and why.

    Raises:
        RuntimeError: If cameras are wanted and no GL library works, with what to install.
    """
    return ": ".join(choose_gl()) if settings.cameras else "none"


def filmed(settings: Settings) -> Settings:
    """Settings for videos: the benchmark's view, large, as fast as for the policy."""
    return replace(settings, cameras=("fixed",), image_size=240)


def diagnose() -> list[Check]:
    """Whether a GL library works, and whether a real frame of the kitchen shows something."""
    return check_frames("franka_kitchen")


def dense_reward(task: Task) -> DenseReward:
    """The share of the elements that were newly done; each is paid once."""
    return DenseReward(scale=1 / max(len(task.subgoals), 1), solved_step=0.0)


def make(task: Task, settings: Settings) -> FrankaKitchen:
    """An environment for one task.

    Raises:
        ValueError: If the task is unknown, its ``max_steps`` is not positive, or a setting is bad.
        RuntimeError: If cameras are wanted and no GL library works.
    """
    return FrankaKitchen(task, settings)


def expert(task: Task) -> Expert:
    """A scripted expert for the task, which moves the hand along waypoints.

    It remembers how far it got in its episode, and begins anew at the start of the next one.

    Raises:
        ValueError: If the task is unknown.
    """
    parts = elements_of(task)
    from vla_rl.envs._kitchen.experts import KitchenExpert

    return KitchenExpert(parts)
