"""Gymnasium environments that are odd in one way each, and how tests make and play any."""

from __future__ import annotations

from dataclasses import replace

import gymnasium
import numpy as np
from gymnasium import spaces

from vla_rl import plugins

PUSHT = "gym:gym_pusht/PushT-v0"


class Painted(gymnasium.Env):
    """A number that actions move; the picture is red above and blue below, paler as it grows."""

    metadata = {"render_modes": ["human"], "render_fps": 10}
    layouts = {
        "hwc": ((20, 30, 3), lambda image: image),
        "chw": ((3, 20, 30), lambda image: np.moveaxis(image, 2, 0)),
        "gray": ((20, 30), lambda image: image[..., 0]),
    }

    def __init__(self, layout="hwc", parts=False, seeded=True):
        self.layout, self.parts, self.seeded = layout, parts, seeded
        picture = spaces.Box(0, 255, self.layouts[layout][0], np.uint8)
        self.observation_space = picture
        if parts:
            hand = {"hand": spaces.Box(-9, 9, (2,)), "mode": spaces.Discrete(3)}
            eyes = {"top": picture, "wrist": picture}
            self.observation_space = spaces.Dict({**hand, "pixels": spaces.Dict(eyes)})
        self.action_space = spaces.Box(0.0, 10.0, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        rng = self.np_random if self.seeded else np.random.default_rng()
        self.number = rng.uniform(0, 1)
        return self._observation(), {}

    def step(self, action):
        self.number += float(np.sum(action))
        info = {"progress": self.number / 20}
        if self.number > 20:
            info["lifted"] = True
        return self._observation(), self.number, False, False, info

    def _observation(self):
        image = np.full((20, 30, 3), min(20 + int(self.number), 99), np.uint8)
        image[:10, :, 0], image[10:, :, 2] = 250, 250
        picture = self.layouts[self.layout][1](image)
        if not self.parts:
            return picture
        hand = np.array([self.number, -self.number], np.float32)
        return {"hand": hand, "mode": 2, "pixels": {"top": picture, "wrist": picture // 2}}


class Rendered(Painted):
    """Draws what its settings say."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, frame, render_mode=None):
        super().__init__()
        self.frame, self.render_mode = frame, render_mode

    def render(self):
        return np.array(self.frame, np.uint8)


gymnasium.register("Painted-v0", f"{__name__}:Painted")
gymnasium.register("Rendered-v0", f"{__name__}:Rendered")


def made(name, max_steps=None, **settings):
    suite = plugins.load("envs", name)
    task = suite.tasks()[0]
    task = task if max_steps is None else replace(task, max_steps=max_steps)
    return suite.make(task, suite.Settings(**settings))


def play(env, seed=0, steps=1000):
    """Random actions to the end of the episode, or for a number of steps."""
    actions = np.random.default_rng(seed).uniform(-1, 1, (steps, env.spaces.action_dim))
    outcomes = []
    for action in actions.astype(np.float32):
        outcomes.append(env.advance(action))
        if outcomes[-1].terminated or outcomes[-1].truncated:
            break
    return outcomes
