"""What the policy is shown of a Gymnasium environment, and all that is known before an episode.

An environment is made and stepped once in a process to see what it observes and tells.
"""

from __future__ import annotations

import contextlib
import functools
import os
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from vla_rl import gym_spaces
from vla_rl.envs._gym import ids, success_rule
from vla_rl.envs._gym.images import EnvPainter, physics_of
from vla_rl.envs._gym.success_rule import Success
from vla_rl.envs._mujoco.gl import choose_gl, load_triton_first
from vla_rl.envs._mujoco.views import check_image
from vla_rl.plugins import unknown
from vla_rl.types import Spaces

FILMED_SIZE = 240
DRAWN = ("mujoco", "render")


@dataclass(frozen=True)
class Settings:
    """Observations of the policy, and the definition of success."""

    image: tuple[str, ...] = ("auto",)
    """Camera views in order: keys of images in the observation (nested keys joined by /), mujoco
    (the environment's camera, rendered fast; only for Gymnasium's MuJoCo environments), render (the
    output of its render()), none, or auto: every image of the observation, otherwise the first of
    mujoco, render and none that works. All are resized to squares."""
    image_size: int = 64
    """Height and width of the images in pixels, 16 to 1024."""
    quality: str = "fast"
    """Rendering quality of mujoco: fast (no shadows, reflections or antialiasing) or full."""
    state: tuple[str, ...] = ("auto",)
    """Keys of the observation that make up the state, none, or auto: all numbers that are not
    images."""
    success: str = "auto"
    """Condition of success: a key of info (success, is_success, ...), terminated, reward>=X (in one
    step), return>=X (summed over the episode), none, or auto: success or is_success, otherwise a
    return of at least the threshold in Gymnasium's registry."""
    success_ends: bool = True
    """End the episode at success; otherwise an episode continues, and only its last step counts."""
    solved_step: float | None = None
    """Reward per step once the task is solved, which `dense` credits a solved episode with up to
    its horizon; 0 if success pays a single bonus. None uses the reward of the last step."""
    kwargs: tuple[str, ...] = ()
    """Arguments of gymnasium.make as key=value, for instance obs_type=pixels_agent_pos."""


@dataclass(frozen=True)
class Facts:
    """Properties of an environment, found by making it once.

    Attributes:
        parts: Leaves of its observation space.
        action_space: Its action space.
        info: Keys of info after a step.
        drawn: Ways to render it, best first.
        leaves_traces: Whether an episode affects the next, so that each needs a new simulator.
        threshold: Return at which Gymnasium's registry counts it as solved.
    """

    parts: tuple[gym_spaces.Leaf, ...]
    action_space: gymnasium.Space[Any]
    info: frozenset[str]
    drawn: tuple[str, ...]
    leaves_traces: bool
    threshold: float | None


@dataclass(frozen=True)
class Plan:
    """How an environment is used with some settings.

    Attributes:
        spaces: Shapes of the policy.
        views: Leaves of the observation by view name; None for a view that is rendered.
        state: Leaves that make up the state.
        numbers: All leaves that are numbers.
        actions: Converts the policy's actions to the environment's.
        success: Condition of success.
        success_ends: Whether success ends the episode.
        leaves_traces: Whether every episode needs a new simulator.
    """

    spaces: Spaces
    views: dict[str, gym_spaces.Leaf | None]
    state: tuple[gym_spaces.Leaf, ...]
    numbers: tuple[gym_spaces.Leaf, ...]
    actions: gym_spaces.ActionMap
    success: Success
    success_ends: bool
    leaves_traces: bool


@functools.lru_cache(maxsize=64)
def plan_of(env_id: str, settings: Settings) -> Plan:
    """How an environment is used; makes it the first time.

    Raises:
        ValueError: If the id is unknown, the environment cannot be made, a setting does not fit it,
            or its actions are of an unsupported kind.
    """
    check_image(settings.image_size, settings.quality)
    facts = facts_of(env_id, settings.kwargs, seeing=settings.image != ("none",))
    views = _views(env_id, settings.image, facts)
    numbers = tuple(part for part in facts.parts if part.is_state)
    state = _state(env_id, settings.state, facts)
    actions = gym_spaces.action_map(facts.action_space)
    size = gym_spaces.flat_size(state)
    if not views and not size:
        raise ValueError(f"gym:{env_id} would show a policy nothing: neither images nor a state")
    return Plan(
        spaces=Spaces(tuple(views), settings.image_size, size, actions.size),
        views=views,
        state=state,
        numbers=numbers,
        actions=actions,
        success=success_rule.rule(settings.success, env_id, facts.info, facts.threshold),
        success_ends=settings.success_ends,
        leaves_traces=facts.leaves_traces,
    )


@functools.lru_cache(maxsize=64)
def facts_of(env_id: str, arguments: tuple[str, ...], seeing: bool) -> Facts:
    """Make an environment, play a step, and say what it is; ``seeing``: images may be wanted.

    Raises:
        ValueError: If it cannot be made, or its seed does not determine how it begins.
        RuntimeError: If its only images are rendered and cannot be.
    """
    spec = ids.find(env_id)
    if seeing:
        _prepare_drawing()
    env = ids.make(env_id, arguments)
    parts = tuple(gym_spaces.leaves(env.observation_space))
    can = {
        "mujoco": physics_of(env) is not None,
        "render": "rgb_array" in env.metadata.get("render_modes", ()),
    }
    drawn = tuple(name for name in DRAWN if can[name])
    action_space = env.action_space
    env.close()
    # Images that the environment observes are compared anyway, and MuJoCo's follow its state.
    rendered = seeing and drawn == ("render",) and not any(part.is_image for part in parts)
    info, leaves_traces = _trial(env_id, arguments, parts, rendered)
    return Facts(parts, action_space, info, drawn, leaves_traces, spec.reward_threshold)


def _prepare_drawing() -> None:
    """What has to be done before a simulator is imported that may draw by itself."""
    # MuJoCo and dm_control look for their GL library when they are imported. Most environments
    # need none, so that it is no error yet if there is none.
    with contextlib.suppress(RuntimeError):
        choose_gl()
    # Pygame draws into memory here; it must not look for a screen and complain of having none.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    load_triton_first()


def _trial(
    env_id: str, arguments: tuple[str, ...], parts: tuple[gym_spaces.Leaf, ...], rendered: bool
) -> tuple[frozenset[str], bool]:
    """Play the first step of an episode twice, and require that its seed determines it.

    Returns:
        The keys of info, and whether the second time differed from the first.
    """
    mode = "rgb_array" if rendered else None

    def beginning(env: ids.AnyEnv) -> tuple[list[NDArray[Any]], dict[str, Any]]:
        seen: list[NDArray[Any]] = []

        def look(observation: Any) -> None:
            seen.extend(np.asarray(p.of(observation)) for p in parts if p.is_image or p.is_state)
            if rendered:
                seen.append(EnvPainter(env, FILMED_SIZE).draw())

        look(env.reset(seed=1)[0])
        env.action_space.seed(1)
        observation, reward, _, _, info = env.step(env.action_space.sample())
        look(observation)
        return [*seen, np.array(float(reward))], info

    def differ(one: list[NDArray[Any]], other: list[NDArray[Any]]) -> bool:
        # The last digits may depend on where things lie in memory, as in geometry libraries.
        return not all(np.allclose(a, b, 1e-6, 1e-9) for a, b in zip(one, other, strict=True))

    with contextlib.closing(ids.make(env_id, arguments, mode)) as env:
        once, info = beginning(env)
        leaves_traces = differ(once, beginning(env)[0])
    if leaves_traces:
        with contextlib.closing(ids.make(env_id, arguments, mode)) as another:
            if differ(once, beginning(another)[0]):
                raise ValueError(
                    f"gym:{env_id} does not begin the same way when it is reset with the same seed "
                    "twice; its reset(seed) must set everything that is random"
                )
    return frozenset(info), leaves_traces


def _views(env_id: str, wanted: tuple[str, ...], facts: Facts) -> dict[str, gym_spaces.Leaf | None]:
    images = {part.name: part for part in facts.parts if part.is_image}
    if wanted == ("auto",):
        return {**images} or dict.fromkeys(facts.drawn[:1])
    if wanted == ("none",):
        return {}
    for name in wanted:
        if name not in (*images, *facts.drawn):
            raise ValueError(
                unknown(f"image of gym:{env_id}", name, [*images, *facts.drawn, "none", "auto"])
                + _why_not(name, facts)
            )
    _check_distinct("image", wanted)
    return {name: images.get(name) for name in wanted}


def _why_not(name: str, facts: Facts) -> str:
    if name == "render":
        return "; its metadata lists no render mode rgb_array"
    shapes = ", ".join(f"{part.name}: {part.space}" for part in facts.parts)
    return f"; an image is uint8 [h, w, 1 | 3] or [1 | 3, h, w], and it observes {shapes}"


def _state(env_id: str, wanted: tuple[str, ...], facts: Facts) -> tuple[gym_spaces.Leaf, ...]:
    numbers = {part.name: part for part in facts.parts if part.is_state}
    if wanted == ("auto",):
        return tuple(numbers.values())
    if wanted == ("none",):
        return ()
    for name in wanted:
        if name not in numbers:
            raise ValueError(unknown(f"state of gym:{env_id}", name, [*numbers, "none", "auto"]))
    _check_distinct("state", wanted)
    return tuple(numbers[name] for name in wanted)


def _check_distinct(what: str, wanted: tuple[str, ...]) -> None:
    if not wanted or len(set(wanted)) < len(wanted):
        raise ValueError(f"{what} {list(wanted)}: name at least one, and each once")
