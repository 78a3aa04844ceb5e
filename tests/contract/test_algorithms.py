"""Every algorithm keeps the contract without a remark, and it finds every kind of fault."""

from __future__ import annotations

import pytest

from tests.user_code import broken_algorithm
from vla_rl import cli, plugins
from vla_rl.algorithms import gfpo
from vla_rl.contract.algorithm import CHECKS, Subject, examine

SUBJECTS = {name: Subject(name) for name in plugins.names("algorithms")}
SUBJECTS["gfpo-adaptive"] = Subject("gfpo", gfpo.Algorithm(adaptive=True))
PLAIN = "tests.user_code.plain_reinforce"
NAME = broken_algorithm.__name__


@pytest.mark.parametrize("name", SUBJECTS)
def test_an_algorithm_keeps_the_contract_without_a_remark(name):
    found = list(examine(SUBJECTS[name]))
    assert [check.name for check in found] == list(CHECKS)
    assert [check for check in found if not check.ok or check.advice] == []


# fault: the check that is meant for it, and what its message must say
FAULTS = {
    "LacksDensity": ("names", "Algorithm lacks density_for"),
    "TrainsNothing": ("names", "trains is ('nothing',)"),
    "LogsNaN": ("update", "it logs user/kl nan"),
    "ForgetsTheVersion": ("update", "learner.version is 0 after one update"),
    "DoesNothing": ("update", "an update moves nothing"),
    "MovesTheBackbone": ("update", "an update moves head, vlm"),
    "MovesTheReference": ("update", "the reference policy was moved"),
    "DropsAll": ("update", "keep() drops all of 16 groups"),
    "WrongSign": ("direction", "the advantage's sign?"),
    "NoBaseline": ("equal returns", "subtract what the other episodes of the group got"),
    "CountsEveryUnit": ("what counts", "leave out units where batch.mask is False"),
    "BootstrapsEveryEnd": ("what counts", "final_value where not bootstrapped"),
    "GlobalRandomness": ("repeats", "draw from the rng that update() is given"),
    "StateThatIsNotSaved": ("state", "a run that was resumed ends with other weights"),
    "IgnoresItsState": ("state", "comes back as {'episodes': 0}"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_by_the_check_that_is_meant_for_it(fault, monkeypatch):
    check, words = FAULTS[fault]
    monkeypatch.setattr(broken_algorithm, "Algorithm", vars(broken_algorithm)[fault])
    with pytest.raises(AssertionError) as raised:
        Subject(NAME).must_pass(check)
    assert words in str(raised.value)


def test_without_a_fault_none_is_found():
    assert [check for check in examine(Subject(NAME)) if not check.ok or check.advice] == []


def test_every_fault_is_tried():
    classes = {
        name
        for name, value in vars(broken_algorithm).items()
        if isinstance(value, type) and issubclass(value, broken_algorithm.Sound)
    }
    assert classes - {"Sound", "Algorithm"} == FAULTS.keys()
    assert {check for check, _ in FAULTS.values()} == set(CHECKS) - {"settings"}


def test_settings_that_could_change_are_found():
    with pytest.raises(AssertionError, match="ThawedSettings is no frozen dataclass"):
        Subject(NAME, broken_algorithm.ThawedSettings()).must_pass("settings")


def test_bad_questions_are_answered():
    with pytest.raises(AssertionError, match="group_size is 0"):
        Subject(NAME, broken_algorithm.Sound(group_size=0)).must_pass("names")
    with pytest.raises(ValueError, match="did you mean 'direction'"):
        SUBJECTS["ppo"].must_pass("directions")
    (found,) = examine(Subject("grppo"))
    assert not found.ok
    assert "did you mean 'grpo'" in found.found


# ---------------------------------------------------------------------------------- the command


def test_the_command_checks_an_algorithm(capsys):
    assert cli.main(["check", "--algorithm", PLAIN]) == 0
    shown = capsys.readouterr().out
    assert f"{PLAIN} keeps the contract" in shown
    assert "note" not in shown
    assert all(name in shown for name in CHECKS)


def test_the_command_names_what_to_mend(capsys, monkeypatch):
    monkeypatch.setattr(broken_algorithm, "Algorithm", broken_algorithm.ForgetsTheVersion)
    assert cli.main(["check", "--algorithm", NAME]) == 1
    assert "to fix: update" in capsys.readouterr().out
