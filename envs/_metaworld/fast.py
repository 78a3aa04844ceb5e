"""Meta-World environments whose Python between physics steps is cheap.

Stock Meta-World spends more time in Python than in physics: contacts read one by one, a SciPy
rotation and dozens of NumPy calls on three numbers in every step. :func:`make_sawyer` builds a task
from a subclass that replaces these by cheaper code which computes the same numbers in the same
order: rewards, successes and physics stay bit-identical.

Importing this module imports MuJoCo, so choose a GL library first.
"""

from __future__ import annotations

import math
import types
from functools import cache, cached_property
from typing import Any, ClassVar, cast

import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.sawyer_xyz_env import SawyerXYZEnv
from metaworld.utils import reward_utils
from numpy.typing import NDArray

from vla_rl.envs._mujoco.variants import Variant, model_of
from vla_rl.types import Floats

Doubles = NDArray[np.float64]

_SUBSTEPS = 5


def make_sawyer(task_id: str, variant: Variant | None = None) -> FastSawyer:
    """A task's environment, fully observable and drawing its starts from its own seed.

    Args:
        task_id: Meta-World's name of it.
        variant: What to change; the thing's place must be all that a start of the task draws.
    """
    env = _fast_class(task_id, variant)()
    if variant is not None:
        drawn: Any = env._random_reset_space
        low, high = drawn.low + variant.shift, drawn.high + variant.shift
        env._random_reset_space = type(drawn)(low, high, dtype=np.float64)
    env._set_task_called = True
    env._freeze_rand_vec = False
    env.seeded_rand_vec = True
    env._partially_observable = False
    # Cached by the constructor, when the goal was still hidden.
    del env.sawyer_observation_space
    return env


class FastSawyer(SawyerXYZEnv):  # type: ignore[misc]
    """What the tasks share, sped up; goes before a task's class in the resolution order."""

    variant: ClassVar[Variant | None] = None

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """Load the model; that of a variant is changed first."""
        if self.variant is None:
            return super()._initialize_simulation()
        model = model_of(self.variant, self.fullpath)
        return model, mujoco.MjData(model)

    def advance(self, action: Floats) -> tuple[float, dict[str, Any]]:
        """One step, as stock ``step`` does it but without its checks.

        Args:
            action: Four float32 numbers in [-1, 1].

        Returns:
            The dense reward (v2) and Meta-World's info.
        """
        data = self.data
        moved = data.mocap_pos[0] + action[:3] * self.action_scale
        data.mocap_pos[0] = np.minimum(np.maximum(moved, self.mocap_low), self.mocap_high)
        data.mocap_quat[0] = (1.0, 0.0, 1.0, 0.0)
        self.do_simulation((action[3], -action[3]), _SUBSTEPS)
        self.curr_path_length += 1
        # Stock also places the goal sites before this call, which computes them anew.
        mujoco.mj_forward(self.model, data)
        low, high = self._observation_bounds
        self._last_stable_obs = np.minimum(np.maximum(self._get_obs(), low), high)
        reward, info = self.evaluate_state(self._last_stable_obs, action)
        return float(reward), info

    def look_again(self) -> None:
        """Recompute the privileged observation from the present state, as at a start.

        Stock ``reset`` reads positions that are one ``mj_forward`` old.
        """
        self._prev_obs = self._get_curr_obs_combined_no_goal()
        low, high = self._observation_bounds
        self._last_stable_obs = np.minimum(np.maximum(self._get_obs(), low), high)

    @cached_property
    def _observation_bounds(self) -> tuple[Doubles, Doubles]:
        space = self.sawyer_observation_space
        return cast(Doubles, space.low), cast(Doubles, space.high)

    @cached_property
    def _bodies(self) -> dict[str, int]:
        return {self.model.body(index).name: index for index in range(self.model.nbody)}

    @cached_property
    def _sites(self) -> dict[str, int]:
        return {self.model.site(index).name: index for index in range(self.model.nsite)}

    @cached_property
    def _pads(self) -> tuple[int, int]:
        return self.model.geom("leftpad_geom").id, self.model.geom("rightpad_geom").id

    def do_simulation(self, ctrl: Any, n_frames: int) -> None:
        """Physics only: stock also computes forces between bodies, which no task reads."""
        self.data.ctrl[:] = ctrl
        mujoco.mj_step(self.model, self.data, nstep=n_frames)

    def get_endeff_pos(self) -> Doubles:
        """Position of the hand."""
        return cast(Doubles, self.data.xpos[self._bodies["hand"]])

    def get_body_com(self, body_name: str) -> Doubles:
        """Position of a body, as a view that follows it."""
        return cast(Doubles, self.data.xpos[self._bodies[body_name]])

    def _get_site_pos(self, site_name: str) -> Doubles:
        return cast(Doubles, self.data.site_xpos[self._sites[site_name]].copy())

    @property
    def tcp_center(self) -> Doubles:
        """The point between the fingers."""
        places, index = self.data.site_xpos, self._sites
        middle = (places[index["rightEndEffector"]] + places[index["leftEndEffector"]]) / 2.0
        return cast(Doubles, middle)

    def touching_object(self, object_geom_id: int) -> bool:
        """Whether both finger pads press on a geom."""
        pressed = [0.0, 0.0]
        contacts = self.data.contact
        pairs = zip(contacts.geom1.tolist(), contacts.geom2.tolist(), strict=True)
        for index, pair in enumerate(pairs):
            if object_geom_id in pair:
                for side, pad in enumerate(self._pads):
                    if pad in pair:
                        pressed[side] += self.data.efc_force[contacts.efc_address[index]]
        return pressed[0] > 0 and pressed[1] > 0

    def _get_curr_obs_combined_no_goal(self) -> Doubles:
        places, bodies = self.data.xpos, self._bodies
        apart = places[bodies["rightclaw"]] - places[bodies["leftclaw"]]
        observation = np.zeros(18)
        observation[:3] = places[bodies["hand"]]
        observation[3] = min(math.sqrt(apart.dot(apart)) / 0.1, 1.0)
        positions, quaternions = self._get_pos_objects(), self._get_quat_objects()
        for thing in range(len(quaternions) // 4):
            first = 4 + 7 * thing
            observation[first : first + 3] = positions[3 * thing : 3 * thing + 3]
            observation[first + 3 : first + 7] = quaternions[4 * thing : 4 * thing + 4]
        return observation


@cache
def _fast_class(task_id: str, variant: Variant | None) -> type[FastSawyer]:
    """The task's class with the shared speed-ups, its own functions calling the fast helpers."""
    stock = ALL_V3_ENVIRONMENTS[task_id]
    fast_globals = {
        "Rotation": _Rotation,
        "tolerance": _tolerance,
        "reward_utils": types.SimpleNamespace(
            tolerance=_tolerance,
            hamacher_product=reward_utils.hamacher_product,
            rect_prism_tolerance=reward_utils.rect_prism_tolerance,
        ),
    }
    members: dict[str, Any] = {"variant": variant}
    for owner in (SawyerXYZEnv, stock):
        for name, value in vars(owner).items():
            if isinstance(value, types.FunctionType) and fast_globals.keys() & {
                *value.__code__.co_names
            }:
                members[name] = _with_globals(value, fast_globals)
    return type(f"Fast{stock.__name__}", (FastSawyer, stock), members)


def _with_globals(function: types.FunctionType, changed: dict[str, Any]) -> types.FunctionType:
    """The same code looking up some global names elsewhere; the stock function stays as it is."""
    copied = types.FunctionType(
        function.__code__,
        {**function.__globals__, **changed},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied


class _Rotation:
    """The one use that Meta-World makes of SciPy's class: a rotation matrix to (x, y, z, w)."""

    def __init__(self, quaternion: Doubles) -> None:
        self._quaternion = quaternion

    @classmethod
    def from_matrix(cls, matrix: Doubles) -> _Rotation:
        """Shepperd's method, with the branch and the sign that SciPy chooses."""
        m = matrix.tolist()
        trace = m[0][0] + m[1][1] + m[2][2]
        diagonal = [m[0][0], m[1][1], m[2][2], trace]
        i = diagonal.index(max(diagonal))
        q = [0.0] * 4
        if i == 3:
            q = [m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1], 1 + trace]
        else:
            j, k = (i + 1) % 3, (i + 2) % 3
            q[i] = 1 - trace + 2 * m[i][i]
            q[j] = m[j][i] + m[i][j]
            q[k] = m[k][i] + m[i][k]
            q[3] = m[k][j] - m[j][k]
        norm = math.sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3])
        return cls(np.array([part / norm for part in q]))

    def as_quat(self) -> Doubles:
        """Scalar last."""
        return self._quaternion


_DOUBLE_TYPES = (float, int, np.float64)


def _tolerance(
    x: Any,
    bounds: tuple[float, float] = (0.0, 0.0),
    margin: float = 0.0,
    sigmoid: Any = "gaussian",
    value_at_margin: float = 0.1,
) -> Any:
    """Stock ``tolerance`` in plain arithmetic for the case that nearly all rewards use."""
    lower, upper = bounds
    usual = (
        sigmoid == "long_tail"
        and value_at_margin == 0.1
        and type(x) in _DOUBLE_TYPES
        and type(margin) in _DOUBLE_TYPES
        and margin > 0
        and lower <= upper
    )
    if not usual:
        return reward_utils.tolerance(x, bounds, margin, sigmoid, value_at_margin)
    if lower <= x <= upper:
        return 1.0
    distance = float(lower - x if x < lower else x - upper) / float(margin)
    # The scale of stock is sqrt(1 / 0.1 - 1), exactly 3.
    return 1 / ((distance * 3.0) ** 2 + 1)
