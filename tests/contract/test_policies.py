"""Shipped policies keep the contract without a remark, and it finds every kind of fault."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from tests.user_code import broken_policy
from vla_rl import cli, plugins
from vla_rl.contract.policy import CHECKS, Subject, examine
from vla_rl.types import Spaces

# The others need files or an extra: tests/policies makes small ones.
SHIPPED = {name: Subject(name) for name in ("tiny", "vla")}
STATE_ONLY = Subject("tiny", spaces=Spaces((), image_size=16, state_dim=3, action_dim=2))
NAME = broken_policy.__name__


@pytest.mark.parametrize("name", SHIPPED)
def test_a_policy_keeps_the_contract_without_a_remark(name):
    found = list(examine(SHIPPED[name]))
    assert [check.name for check in found] == list(CHECKS)
    assert [check for check in found if not check.ok or check.advice] == []


def test_a_policy_of_a_suite_without_cameras_keeps_it_too():
    assert [check for check in examine(STATE_ONLY) if not check.ok] == []


# fault: the check that is meant for it, and what its message must say
FAULTS = {
    "CannotBeMade": ("names", "no licence for the network"),
    "LacksFeatures": ("names", "Policy lacks features"),
    "UnseededWeights": ("weights", "vision.bias differs between two policies of one seed"),
    "ForgetsTheCritic": ("groups", "critic.4.bias listed not at all"),
    "WithoutCriticGroup": ("groups", "name vlm, head, critic, empty ones too"),
    "ListsTwice": ("groups", "listed twice"),
    "ListsWhatIsTrained": ("groups", "groups() changes where some are frozen"),
    "DeviationsAreAll": ("groups", "list its noise parameters only"),
    "DetachesFeatures": ("gradients", "log-probs train nothing of the backbone"),
    "UnusedLayer": ("gradients", "log-probs do not train head.extra.bias, head.extra.weight"),
    "CriticTrainsAll": ("gradients", "the value trains vision.bias"),
    "FreezesForEver": ("freezing", "'vlm' is not trained while critic is frozen"),
    "ImitatesPadding": ("imitation", "leave out the steps where mask is False"),
    "ImitatesWithGlobalNoise": ("imitation", "draw noise from the generator that is given"),
    "Unclipped": ("actions", "clip actions to [-1, 1]"),
    "ValueOfDoubles": ("actions", "value is float64 [6]; give float32 [6]"),
    "LogProbOfNaN": ("actions", "logprob has numbers that are not finite"),
    "GlobalNoise": ("noise", "when the same keys act again"),
    "NoiseByRow": ("noise", "when the rows come in another order"),
    "NoiseByEpisode": ("noise", "the noise of several decisions are the same"),
    "GreedyWithNoise": ("noise", "act without noise where keys is None"),
    "BatchStatistics": ("rows", "mix the rows of a batch"),
    "EncodesTogether": ("sentences", "encode each sentence by itself"),
    "AcceptsAnySentence": ("sentences", "raise ValueError in act()"),
    "ScoresActions": ("log-probs", "log-prob at the update differs from that at acting"),
    "ScoresTheSum": ("log-probs", "one number for every unit"),
    "Unnormalised": ("score", "is every unit's density normalised"),
    "CachesSomethingElse": ("features", "be what encode_images(images) is"),
    "FeaturesOfDoubles": ("features", "let both give float16 features"),
    "CannotBePickled": ("copies", "pickle"),
    "WeightsInADetour": ("copies", "in a copy that is sent the weights"),
    "ScaleOutsideOfItsState": ("saving", "in a loaded policy"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_by_the_check_that_is_meant_for_it(fault, monkeypatch):
    check, words = FAULTS[fault]
    Subject(NAME).must_pass(check)
    monkeypatch.setattr(broken_policy, "Policy", vars(broken_policy)[fault])
    with pytest.raises(AssertionError) as raised:
        Subject(NAME).must_pass(check)
    assert words in str(raised.value)


def test_every_fault_is_tried():
    classes = {
        name
        for name, value in vars(broken_policy).items()
        if isinstance(value, type) and issubclass(value, broken_policy.Sound)
    }
    assert classes - {"Sound", "Policy"} == FAULTS.keys()
    assert {check for check, _ in FAULTS.values()} == set(CHECKS) - {"settings"}


@dataclass(frozen=True)
class WithAList(broken_policy.Config):
    sizes: Any = (16, 32)


class Thawed(broken_policy.Config):
    colour: str = "red"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (WithAList, "comes back from JSON as"),
        (Thawed, "Thawed is no frozen dataclass; write @dataclass(frozen=True) above it"),
    ],
)
def test_settings_that_do_not_travel_are_found(config, words, monkeypatch):
    monkeypatch.setattr(broken_policy, "Config", config)
    with pytest.raises(AssertionError, match="Thawed is|comes back") as raised:
        Subject(NAME).must_pass("settings")
    assert words in str(raised.value)


def test_bad_questions_are_answered():
    with pytest.raises(ValueError, match="did you mean 'saving'"):
        SHIPPED["tiny"].must_pass("savng")
    (found,) = examine(Subject("tine"))
    assert not found.ok
    assert "did you mean 'tiny'" in found.found


# ---------------------------------------------------------------------------------- the command


def test_the_command_checks_a_policy_for_a_suite(capsys):
    words = ["--network", "tiny", "--net.head", "laplace", "--net.head.std", "0.3"]
    assert cli.main(["check", "point_reach", *words]) == 0
    shown = capsys.readouterr().out
    assert "tiny keeps the contract" in shown
    assert all(name in shown for name in CHECKS)
    assert "point_reach" not in shown


def test_the_command_names_what_to_mend(capsys, monkeypatch):
    monkeypatch.setattr(broken_policy, "Policy", broken_policy.ListsTwice)
    assert cli.main(["check", "--env", "point_reach", "--network", NAME]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "BAD groups head." in shown
    assert "to fix: groups" in shown


def test_what_ships_is_checked_here_or_in_the_tests_of_policies():
    assert {*SHIPPED, "pi0", "lerobot", "action_tokens"} == set(plugins.names("policies"))
