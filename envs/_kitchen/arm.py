"""How the kitchen's experts move the arm: kinematics of a scratch copy, and inverse kinematics.

Importing this module imports MuJoCo, so choose a GL library first.
"""

from __future__ import annotations

import math

import mujoco
import numpy as np
from numpy.typing import NDArray

from vla_rl.types import Floats

Doubles = NDArray[np.float64]

OPEN, CLOSED = 0.04, -0.04
"""Where the fingers are sent: a closed hand goes on pressing."""

HAND_SPEED = 0.07
"""How far the hand is asked to move in a step, in metres."""

_STEP = 0.16
"""Where an action of 1 sends a joint, counted from where it is, in radians or metres."""
_ACTUATOR_GAIN = np.array([870.0, 870.0, 870.0, 870.0, 120.0, 120.0, 120.0])
# In one step the large joints go half of the way to their target, the small ones 0.62 of it.
_OVERSHOOT = np.array([2.0, 2.0, 2.0, 2.0, 1.6, 1.6, 1.6])
_LARGEST_COMMAND = 0.15
# A little inside the model's limits, and inside those of the actuators.
_LOW = np.array([-2.85, -1.72, -2.85, -3.02, -2.85, 0.02, -2.85])
_HIGH = np.array([2.85, 1.72, 2.85, -0.42, 2.85, 2.10, 2.85])
_DAMPING, _TURN_WEIGHT, _LARGEST_TURN = 0.03, 0.5, 0.25


class Arm:
    """The robot and the kitchen as an expert sees them at one step, and the way to move the hand.

    The hand is the point between the fingers, 5 cm behind their tips. Its frame points up, to the
    right and ahead into the kitchen when the orientation is ``STRAIGHT``.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        self.model, self.data = model, mujoco.MjData(model)
        self._hand = model.site("end_effector").id
        self._weights = np.repeat([1.0, _TURN_WEIGHT], 3)
        self._jacobian = np.empty((6, model.nv))
        self._gravity = np.empty(model.nv)

    def look(self, privileged: Doubles) -> None:
        """Take over the true state, ``[59]`` numbers as the environment tells them."""
        data = self.data
        data.qpos[:9], data.qpos[9:] = privileged[:9], privileged[18:39]
        mujoco.mj_kinematics(self.model, data)
        mujoco.mj_comPos(self.model, data)
        mujoco.mj_comVel(self.model, data)
        mujoco.mj_rne(self.model, data, 0, self._gravity)

    @property
    def position(self) -> Doubles:
        """``[3]`` where the hand is."""
        return np.array(self.data.site_xpos[self._hand])

    @property
    def orientation(self) -> Doubles:
        """``[3, 3]`` how the hand is turned."""
        return np.array(self.data.site_xmat[self._hand]).reshape(3, 3)

    def angle(self, joint: str) -> float:
        """Where a joint of the kitchen is, in radians or metres."""
        return float(self.data.qpos[self.model.joint(joint).qposadr[0]])

    def site(self, name: str) -> Doubles:
        """``[3]`` where a site of the kitchen is."""
        return np.array(self.data.site(name).xpos)

    def carried(self, point: Doubles, joint: str, change: float) -> Doubles:
        """``[3]`` where a point that a joint moves will be when the joint has moved on."""
        index = self.model.joint(joint).id
        axis, anchor = self.data.xaxis[index], self.data.xanchor[index]
        if self.model.jnt_type[index] == mujoco.mjtJoint.mjJNT_SLIDE:
            return np.asarray(point + change * axis)
        return np.asarray(anchor + turned(axis, change) @ (point - anchor))

    def error(self, position: Doubles, orientation: Doubles) -> tuple[float, float]:
        """How far the hand is from a pose, in metres and radians."""
        turn = _rotation_vector(orientation @ self.orientation.T)
        return float(np.linalg.norm(position - self.position)), float(np.linalg.norm(turn))

    def towards(
        self,
        position: Doubles,
        orientation: Doubles,
        fingers: float,
        speed: float = HAND_SPEED,
        push: float = 1.0,
    ) -> Floats:
        """``[9]`` the action that moves the hand towards a pose.

        Args:
            position: ``[3]`` where to, in metres.
            orientation: ``[3, 3]`` how to turn the hand.
            fingers: ``OPEN`` or ``CLOSED``.
            speed: How far to ask for in this step, in metres.
            push: Factor on the command; the arm presses harder the further it is sent.
        """
        mujoco.mj_jacSite(self.model, self.data, self._jacobian[:3], self._jacobian[3:], self._hand)
        move = _shortened(position - self.position, speed)
        turn = _shortened(_rotation_vector(orientation @ self.orientation.T), _LARGEST_TURN)
        change = _least_squares(
            self._weights[:, None] * self._jacobian[:, :7],
            self._weights * np.concatenate([move, turn]),
            _LOW - self.data.qpos[:7],
            _HIGH - self.data.qpos[:7],
        )
        return self._action(push * change, fingers)

    def towards_joints(self, joints: Doubles, fingers: float) -> Floats:
        """``[9]`` the action that moves the ``[7]`` joints of the arm towards some positions."""
        return self._action(joints - self.data.qpos[:7], fingers)

    def _action(self, change: Doubles, fingers: float) -> Floats:
        command = _OVERSHOOT * change
        # All joints slow down alike, so that the hand keeps its direction.
        command *= min(1.0, _LARGEST_COMMAND / max(float(np.abs(command).max()), 1e-9))
        held = command + self._gravity[:7] / _ACTUATOR_GAIN
        squeezed = fingers - self.data.qpos[7:9]
        return np.clip(np.concatenate([held, squeezed]) / _STEP, -1.0, 1.0).astype(np.float32)


def turned(axis: Doubles, angle: float) -> Doubles:
    """``[3, 3]`` the rotation about a unit axis by an angle in radians."""
    quaternion, matrix = np.empty(4), np.empty(9)
    mujoco.mju_axisAngle2Quat(quaternion, axis, angle)
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3)


def _rotation_vector(matrix: Doubles) -> Doubles:
    quaternion, vector = np.empty(4), np.empty(3)
    mujoco.mju_mat2Quat(quaternion, matrix.reshape(9))
    mujoco.mju_quat2Vel(vector, quaternion, 1.0)
    return vector


def _shortened(vector: Doubles, longest: float) -> Doubles:
    length = math.sqrt(vector.dot(vector))
    return vector * (longest / length) if length > longest else vector


def _least_squares(jacobian: Doubles, wanted: Doubles, low: Doubles, high: Doubles) -> Doubles:
    """Damped least squares within bounds: joints at a bound stay there and the others go on."""
    change, free = np.zeros(len(low)), np.ones(len(low), bool)
    for _ in range(4):
        part = jacobian[:, free]
        left = wanted - jacobian[:, ~free] @ change[~free]
        square = part @ part.T + _DAMPING**2 * np.eye(len(wanted))
        change[free] = part.T @ np.linalg.solve(square, left)
        outside = free & ((change < low) | (change > high))
        if not outside.any():
            break
        change[outside] = np.clip(change, low, high)[outside]
        free &= ~outside
    return np.clip(change, low, high)
