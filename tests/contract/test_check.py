"""The contract of suites finds every kind of fault, and no fault where there is none."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from tests.user_code import broken_reach, dim_reach, two_states
from vla_rl import cli
from vla_rl.contract.finding import Finding
from vla_rl.contract.suite import CHECKS, SUITE_CHECKS, TASK_CHECKS, Subject, examine
from vla_rl.sim import Outcome

SOUND = Subject("point_reach")
NAME = "tests.user_code.broken_reach"
DIM = "tests.user_code.dim_reach"


def test_every_check_is_run_on_a_sound_suite_and_finds_nothing():
    found = list(examine(replace(SOUND, seeds=3)))
    assert [(task, check.name) for task, check in found] == [
        *(("", name) for name in SUITE_CHECKS),
        *((task, name) for task in ("red", "green") for name in TASK_CHECKS),
    ]
    assert all(check.ok for _, check in found)
    # How fast it is depends on what else the machine does.
    assert [check for _, check in found if check.advice and check.name != "speed"] == []


def broken(subject: Subject) -> dict[str, str]:
    """What is said on each task check that fails."""
    said = {}
    for check in TASK_CHECKS:
        try:
            subject.must_pass(check)
        except AssertionError as error:
            said[check] = str(error)
    return said


def finding(subject: Subject, check: str) -> Finding:
    """What one check finds on the first task that keeps it."""
    for case in subject.cases():
        return TASK_CHECKS[check](case)
    raise AssertionError("no task was chosen")


def with_fault(fault: str, task: str = "blue", **changes) -> Subject:
    return Subject(NAME, env=broken_reach.Settings(fault), tasks=(task,), **changes)


# fault: (check: what its message must say, ...), and no other check may fail
FAULTS = {
    "Sound": {},
    "NotRestorable": {},
    "TwoStarts": {},
    "NearlyOneStart": {},
    "StateOfDoubles": {
        "spaces": "state at the start is float64",
        "gymnasium": "not within the observation space",
        "stable-baselines3": "Expected: float32, actual dtype: float64",
    },
    "TwoViews": {
        "spaces": "give uint8 [1, 16, 16, 3]",
        "gymnasium": "not within the observation space",
        "stable-baselines3": "actual shape: (2, 16, 16, 3)",
    },
    "StateOfNaN": {
        "spaces": "give finite numbers",
        "gymnasium": "not within the observation space",
        "stable-baselines3": "does not match",
    },
    "BlackFrame": {"frames": "view 'top' shows nothing but the colour [0, 0, 0]"},
    "FirstFrameForEver": {
        "frames": "10 different starts have the same frames",
        "seeding": "images differ",
        "snapshots": "images differ",
    },
    "FrameOfTheStart": {"frames": "no pixel changes", "snapshots": "images differ"},
    "NoRender": {"gymnasium": "render() is missing"},
    "LooksWhenAdvancing": {"speed": "advance() calls observe()"},
    "UnseededStart": {
        "seeding": "draw all that is random from the seed",
        "gymnasium": "not equivalent for the same seed",
    },
    "UnseededWind": {
        "seeding": "of step 2 is",
        "snapshots": "restored once",
        "gymnasium": "not equivalent for the same seed",
    },
    "OneStart": {"starts": "1 of 10 differ"},
    "SnapshotWithoutClock": {"snapshots": "the count of steps"},
    "SnapshotWithoutStart": {"snapshots": "in another environment: progress of step"},
    "SharedSnapshot": {"snapshots": "must hold copies"},
    "Unclipped": {"actions": "clip to [-1, 1]"},
    "AcceptsNaN": {"actions": "an action of NaN is accepted"},
    "ProgressBelowZero": {"outcomes": "clip it to [0, 1]", "expert": "progress is -"},
    "SuccessWithoutProgress": {"expert": "give progress 1 on success"},
    "RewardOfNaN": {
        "outcomes": "reward is nan",
        "expert": "reward is nan",
        "gymnasium": "rewards are not equivalent",
    },
    "NumpyFlags": {"outcomes": "wrap it in bool(...)", "expert": "numpy.bool"},
    "BothEnds": {"expert": "set truncated only if not terminated"},
    "MergedEnds": {"clock": "the clock sets truncated and only the task sets terminated"},
    "ClockOfItsOwn": {"clock": "truncated is never set"},
    "EarlyClock": {"clock": "truncated is set at step 4"},
    "ForgetsSubgoals": {"outcomes": "completed goes from 0b1 to 0b0", "expert": "keep what"},
    "StrangeSubgoals": {"outcomes": "0b100 for 2 subgoals", "expert": "0b100"},
    "SuccessWithoutSubgoals": {"expert": "success with completed 0b1 of 0b11"},
}
# Nothing else can be looked at.
FATAL = {
    "CannotBeMade": "RuntimeError: no licence for the simulator",
    "BreaksWhenAdvancing": "broken_reach.py, advance()",
    "GymnasiumTuple": "return vla_rl.sim.Outcome",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_by_the_check_that_is_meant_for_it(fault):
    said = broken(with_fault(fault))
    assert said.keys() == FAULTS[fault].keys()
    for check, words in FAULTS[fault].items():
        assert words in said[check]


@pytest.mark.parametrize("fault", FATAL)
def test_without_a_working_environment_the_next_task_is_checked(fault):
    found = list(examine(replace(with_fault(fault), tasks=("red", "green"))))
    on_tasks = found[len(SUITE_CHECKS) :]
    assert [(task, each.name, each.ok) for task, each in on_tasks] == [
        ("red", "make", False),
        ("green", "make", False),
    ]
    assert FATAL[fault] in f"{on_tasks[0][1].found}; {on_tasks[0][1].advice}"


def never_the_same(name: str, share: float) -> type[broken_reach.Sound]:
    """Environments in which one number differs by up to a share of it between two replays."""
    drawn = np.random.default_rng(0)

    class Noisy(broken_reach.Sound):
        @property
        def privileged(self):
            state = super().privileged
            return state * drawn.uniform(1 - share, 1) if name == "privileged" else state

        def advance(self, action):
            said = super().advance(action)._asdict()
            noisy = {key: said[key] * drawn.uniform(1 - share, 1) for key in said if key == name}
            return Outcome(**{**said, **noisy})

    return Noisy


@pytest.mark.parametrize("check", ["seeding", "snapshots"])
@pytest.mark.parametrize("name", ["reward", "progress", "privileged"])
def test_numbers_may_differ_in_their_last_digits_only(check, name, monkeypatch):
    monkeypatch.setattr(broken_reach, "Sound", never_the_same(name, 1e-13))
    remark = finding(with_fault("Sound"), check).advice
    assert remark.startswith("not to the last digit")
    assert name in remark
    monkeypatch.setattr(broken_reach, "Sound", never_the_same(name, 1e-8))
    with pytest.raises(AssertionError, match=f"{name} (of step|differs)"):
        with_fault("Sound").must_pass(check)


def test_every_fault_is_tried():
    classes = [
        name
        for name, value in vars(broken_reach).items()
        if isinstance(value, type) and issubclass(value, broken_reach.Sound)
    ]
    assert set(classes) == FAULTS.keys() | FATAL.keys()


@pytest.mark.parametrize(
    ("fault", "check", "remark"),
    [
        ("NotRestorable", "snapshots", "define snapshot() and restore()"),
        ("TwoStarts", "starts", "several seeds share a start"),
        ("NearlyOneStart", "starts", "nearly fixed"),
        ("UnseededWind", "actions", "see seeding"),
    ],
)
def test_what_is_allowed_but_costly_is_remarked(fault, check, remark):
    assert remark in finding(with_fault(fault), check).advice


@pytest.mark.parametrize(
    ("module", "check", "words"),
    [
        ("twin_instructions", "tasks", "red, blue share the instruction 'go to the red dot'"),
        ("loose_settings", "settings", "@dataclass(frozen=True)"),
        ("imports_torch", "torch-free", "torch is imported"),
        ("lacks_make", "names", "must define make"),
        ("is_not_there", "names", "(envs) cannot be imported from"),
    ],
)
def test_a_fault_of_a_module_is_found(module, check, words):
    found = list(examine(Subject(f"tests.user_code.{module}", seeds=2)))
    bad = [each for _, each in found if not each.ok]
    assert [each.name for each in bad] == [check]
    assert words in f"{bad[0].found}; {bad[0].advice}"
    nothing_left = check == "names"
    assert (len(found) < len(CHECKS)) == nothing_left


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": "red"}, "share the id 'red'"),
        ({"suite": "somebody_else"}, "it is loaded as"),
        ({"instruction": " "}, "instruction of green is empty"),
        ({"max_steps": 0}, "give an int of at least 1"),
        ({"subgoals": ("a", "a")}, "a name of its own"),
        ({"subgoals": tuple(map(str, range(63)))}, "at most 62"),
    ],
)
def test_malformed_tasks_are_found(change, words, monkeypatch):
    red, green, blue = broken_reach.tasks()
    monkeypatch.setattr(broken_reach, "tasks", lambda: (red, replace(green, **change), blue))
    with pytest.raises(AssertionError, match=words):
        with_fault("Sound").must_pass("tasks")


def test_a_bucket_of_unknown_tasks_is_found(monkeypatch):
    monkeypatch.setattr(broken_reach, "BUCKETS", {"easy": ("rad",)}, raising=False)
    with pytest.raises(AssertionError, match="bucket 'easy' names rad"):
        with_fault("Sound").must_pass("tasks")


def test_variants_and_splits_are_no_fault():
    found = list(examine(Subject(DIM, tasks=("dim",), seeds=3)))
    timed = "speed"  # may have advice on a machine with other work
    assert [c for _, c in found if not c.ok or (c.advice and c.name != timed)] == []
    assert {where for where, _ in found} == {"", "red-dim", "blue-dim"}
    (said,) = [each.found for _, each in found if each.name == "tasks"]
    assert said == "3, each with an instruction of its own, and 2 variants"
    assert [task.id for task in Subject(DIM, limit=9).chosen()] == ["red", "green", "blue"]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("VARIANTS", {"red-dim": "red"}, "blue, blue-dim share the instruction"),
        ("VARIANTS", {"red-dim": "rad", "blue-dim": "blue"}, "VARIANTS names rad"),
        ("VARIANTS", {"dim": "red", "red-dim": "red", "blue-dim": "blue"}, "VARIANTS names dim"),
        ("VARIANTS", {"red-dim": "red", "blue-dim": "red-dim"}, "red-dim, a variant itself"),
        ("VARIANTS", {"red-dim": "red", "blue-dim": "green"}, "give it the instruction of green"),
        ("SPLITS", {"dim": ("red-dim", "grey")}, "split 'dim' names grey"),
        ("SPLITS", {"dim": ()}, "at least one task"),
        ("SPLITS", {"dim": ("red", "green", "red")}, "each once"),
        ("SPLITS", {"red": ("green",)}, "'red' names both a task and a split"),
    ],
)
def test_bad_variants_and_splits_are_found(name, value, words, monkeypatch):
    every = dim_reach.tasks()
    monkeypatch.setattr(dim_reach, "tasks", lambda: every)
    monkeypatch.setattr(dim_reach, name, value)
    with pytest.raises(AssertionError, match=words):
        Subject(DIM).must_pass("tasks")


def test_noise_at_exit_is_remarked(tmp_path, monkeypatch):
    (tmp_path / "noisy_reach.py").write_text(
        "import atexit, sys\n"
        "from vla_rl.envs.point_reach import *\n"
        "def make(task, settings):\n"
        "    atexit.register(sys.stderr.write, 'RuntimeError: no context')\n"
        "    return PointReach(task, settings)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert SUITE_CHECKS["torch-free"](SOUND).advice == ""
    assert "RuntimeError: no context" in SUITE_CHECKS["torch-free"](Subject("noisy_reach")).advice


def test_settings_that_do_not_travel_are_found(monkeypatch):
    @dataclass(frozen=True)
    class Settings:
        sizes: Any = (16, 32)

    monkeypatch.setattr(broken_reach, "Settings", Settings)
    with pytest.raises(AssertionError, match=r"\(16, 32\)\) comes back from JSON as .*\[16, 32\]"):
        Subject(NAME).must_pass("settings")
    with pytest.raises(AssertionError, match="define its class at the top of a module"):
        Subject(NAME).must_pass("pickling")


def test_an_expert_that_never_succeeds_is_found():
    with pytest.raises(AssertionError, match="solves 0 of 10 starts within 1 steps"):
        replace(SOUND, max_steps=(1,)).must_pass("expert")


def test_tasks_are_taken_from_the_buckets_first(monkeypatch):
    assert [task.id for task in SOUND.chosen()] == ["red", "green"]
    monkeypatch.setattr(
        broken_reach, "BUCKETS", {"easy": ("blue",), "hard": ("red", "green")}, raising=False
    )
    subject = Subject(NAME)
    assert [task.id for task in subject.chosen()] == ["blue", "red"]
    assert [task.id for task in replace(subject, limit=3).chosen()] == ["blue", "red", "green"]
    assert [task.id for task in replace(subject, tasks=("green",)).chosen()] == ["green"]


def test_bad_questions_are_answered():
    with pytest.raises(ValueError, match="seeds must be at least 1, got 0"):
        Subject("point_reach", seeds=0)
    with pytest.raises(ValueError, match="did you mean 'seeding'"):
        SOUND.must_pass("sedding")


# ---------------------------------------------------------------------------------- the command


def check(*words: str) -> int:
    return cli.main(["check", *words])


def test_the_command_is_quick_and_says_what_is_fine(capsys):
    began = time.monotonic()
    assert check("--env", "point_reach", "--tasks", "red", "--env.image-size", "32") == 0
    assert time.monotonic() - began < 30
    shown = capsys.readouterr().out
    assert "point_reach keeps the contract" in shown
    assert '"image_size": 32' in shown
    assert all(name in shown for name in CHECKS)
    assert "BAD" not in shown


def test_the_command_names_what_to_mend(capsys):
    assert check("--env", NAME, "--env.fault", "BlackFrame", "--tasks", "red", "--seeds", "2") == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "BAD frames view 'top' shows nothing but the colour [0, 0, 0] at 2 starts" in shown
    assert "to fix: frames of red" in shown


def test_an_unknown_task_is_bad_input(capsys):
    assert check("--env", "point_reach", "--tasks", "rad") == 2
    assert "did you mean 'red'" in capsys.readouterr().err


def test_a_reward_that_pays_more_for_staying_short_of_success_is_found():
    def said(**settings):
        subject = Subject(two_states.__name__, env=two_states.Settings(**settings))
        return finding(subject, "finishing")

    assert "a solved step pays 1, the best step before it 0.9" in said().found
    assert said().advice == ""
    assert "teaches to put it off" in said(hover=1.5).advice
    assert "looks like a bonus that is paid once" in said(hover=0.01).advice
    assert "success does not end an episode" in said(success_ends=False, hover=1.5).found
