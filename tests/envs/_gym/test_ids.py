"""Tasks, sentences and arguments from the id of an environment."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.envs.gym_environments import PUSHT, made
from vla_rl import plugins
from vla_rl.envs._gym import ids
from vla_rl.world import World


def test_a_task_is_named_by_its_id_and_its_registered_horizon():
    tasks = {name: plugins.load("envs", name).tasks() for name in ("gym:CartPole-v1", PUSHT)}
    assert [len(found) for found in tasks.values()] == [1, 1]
    pole, push = (found[0] for found in tasks.values())
    assert (pole.suite, pole.id, pole.max_steps) == ("gym:CartPole-v1", "CartPole-v1", 500)
    assert (push.suite, push.id, push.max_steps) == (PUSHT, "gym_pusht/PushT-v0", 300)
    world = World("gym:CartPole-v1", ("all",), (50,), instruction="keep the pole up")
    assert [(t.instruction, t.max_steps) for t in world.resolve().tasks] == [
        ("keep the pole up", 50)
    ]


@pytest.mark.parametrize(
    ("env_id", "words"),
    [
        ("FetchPickAndPlace-v4", "fetch pick and place"),
        ("gym_pusht/PushT-v0", "push t"),
        ("my_lab:ALE/MsPacman-v5", "ms pacman"),
        ("HTTPServer2-v1", "http server 2"),
    ],
)
def test_an_instruction_is_made_of_the_words_of_the_id(env_id, words):
    assert ids.instruction(env_id) == words


def test_a_module_before_the_id_is_imported():
    assert ids.find("gym_pusht:gym_pusht/PushT-v0").max_episode_steps == 300
    with pytest.raises(ValueError, match=r"'no_such_lab' cannot be imported"):
        ids.find("no_such_lab:Thing-v0")


def test_an_unknown_id_is_answered_with_near_ones():
    suite = plugins.load("envs", "gym:CartPol-v1")
    with pytest.raises(ValueError, match=r"'CartPol-v1'.*'CartPole-v1'.*gym:PACKAGE:ID"):
        suite.tasks()
    pole = plugins.load("envs", "gym:CartPole-v1")
    other = replace(pole.tasks()[0], id="CartPole-v2")
    with pytest.raises(ValueError, match="did you mean 'CartPole-v1'"):
        pole.make(other, pole.Settings())


def test_arguments_are_json_or_text():
    given = ("obs_type=pixels", "gain=0.5", "size=[1, 2]", "on=true", "name=")
    expected = {"obs_type": "pixels", "gain": 0.5, "size": [1, 2], "on": True, "name": ""}
    assert ids.keywords(given) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gain",), "must be key=value"),
        (("render_mode=human",), "is set by image"),
        (("max_episode_steps=5",), "is set by --max-steps"),
        (("a=1", "a=2"), "given twice"),
        (("no_such_argument=1",), "CartPole-v1 cannot be made with .*no_such_argument"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        made("gym:CartPole-v1", kwargs=arguments)
