"""All checks of a suite, in order, and the subject that they are run on."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from vla_rl import plugins
from vla_rl.config import from_json, to_json
from vla_rl.contract import environment, outcomes, repeats
from vla_rl.contract.case import Case
from vla_rl.contract.finding import PLAIN, Broken, Finding, insist, known, plain_settings, run
from vla_rl.types import Check, EpisodeSpec, Spaces, Task
from vla_rl.world import World

MOST_SUBGOALS = 62
"""``Outcome.completed`` has one bit for each subgoal in a signed 64-bit integer."""
OPTIONAL_NAMES = (
    *("expert", "BUCKETS", "SPLITS", "VARIANTS", "PROTOCOLS"),
    *("prepare", "filmed", "diagnose", "dense_reward", "success_ends"),
)


@dataclass(frozen=True)
class Subject(World):
    """A suite under test, with tasks and settings.

    Attributes:
        seeds: Number of starts to check per task.
        limit: Largest number of tasks to make environments of where ``tasks`` is ``("all",)``: the
            first of each bucket, then the others of that split.

    Raises:
        ValueError: If ``seeds`` or ``limit`` is less than 1.
    """

    tasks: tuple[str, ...] = ("all",)
    max_steps: tuple[int, ...] | None = None
    seeds: int = 10
    limit: int = 2

    def __post_init__(self) -> None:
        for name in ("seeds", "limit"):
            if vars(self)[name] < 1:
                raise ValueError(f"{name} must be at least 1, got {vars(self)[name]}")

    @property
    def module(self) -> ModuleType:
        """The suite; raises ``ValueError`` if there is none or it lacks an agreed name."""
        return plugins.load("envs", self.suite)

    @property
    def settings(self) -> Any:
        """The suite's settings, default ones if none were given."""
        return self.module.Settings() if self.env is None else self.env

    def chosen(self) -> Sequence[Task]:
        """The tasks to make environments of.

        Raises:
            ValueError: For an unknown task, or a horizon or instruction that does not suit them.
        """
        if self.tasks != ("all",):
            return self.resolve().tasks
        ids = self.task_ids()
        buckets = vars(self.module).get("BUCKETS", {})
        firsts = [members[0] for members in buckets.values() if members and members[0] in ids]
        spread = tuple(dict.fromkeys([*firsts, *ids]))[: self.limit]
        return replace(self, tasks=spread).resolve().tasks

    def cases(self) -> Iterator[Case]:
        """The chosen tasks; the environments of one are closed before the next."""
        for task in self.chosen():
            case = Case(self.module, self.settings, task, self.seeds)
            try:
                yield case
            finally:
                case.close()

    def must_pass(self, check: str) -> None:
        """Run one of :data:`CHECKS`, on every chosen task if it is about environments.

        Raises:
            AssertionError: If it fails, with what was found and what to fix.
            ValueError: If there is no such check.
        """
        if known(check, CHECKS) in SUITE_CHECKS:
            done = [(self.suite, run(check, SUITE_CHECKS[check], self))]
        else:
            done = [(c.task.id, run(check, TASK_CHECKS[check], c)) for c in self.cases()]
        insist(done)


def examine(subject: Subject) -> Iterator[tuple[str, Check]]:
    """Run every check, and continue after a failure.

    The remaining checks are skipped only if they are impossible (no module, no environment).

    Yields:
        The task's id ("" for checks of the whole suite) and what was found.

    Raises:
        ValueError: For an unknown task, or a horizon or instruction that does not suit them.
    """
    for name, check in SUITE_CHECKS.items():
        done = run(name, check, subject)
        yield "", done
        if name == "names":
            if not done.ok:
                return
            subject.chosen()  # a task that is not there is no fault of the suite
    for case in subject.cases():
        for name, task_check in TASK_CHECKS.items():
            done = run(name, task_check, case)
            yield case.task.id, done
            if name == "make" and not done.ok:
                break


# -------------------------------------------------------------------------- checks of a suite


def names(subject: Subject) -> Finding:
    """The module defines the required names, with the required types."""
    try:
        module = subject.module
    except ValueError as error:
        raise Broken(str(error), "vla_rl.sim.Suite says what each of the names must be") from error
    declared, tasks = module.spaces(subject.settings), module.tasks()
    if not isinstance(declared, Spaces):
        raise Broken(f"spaces() gave a {type(declared).__name__}", "return vla_rl.types.Spaces")
    if not tasks or not all(isinstance(task, Task) for task in tasks):
        raise Broken(f"tasks() gave {tasks!r}", "return at least one vla_rl.types.Task")
    optional = [name for name in OPTIONAL_NAMES if name in vars(module)]
    return Finding(", ".join([*plugins.REQUIRED_NAMES["envs"], *optional]))


def settings(subject: Subject) -> Finding:
    """``Settings`` is a frozen dataclass that survives JSON."""
    return plain_settings(subject.module.Settings, subject.settings)


def tasks(subject: Subject) -> Finding:
    """Tasks are well formed, with unique ids and, except variants, unique instructions."""
    every, defined = subject.module.tasks(), vars(subject.module)
    for task in every:
        _check_task(task, subject.suite)
    _check_unique("id", every, "give each task an id of its own")
    variants = defined.get("VARIANTS", {})
    own = [task for task in every if task.id not in variants]
    _check_unique("instruction", own, "a policy sees only the sentence: say in it what differs")
    _check_variants(variants, {task.id: task for task in every})
    _check_lists(defined.get("BUCKETS", {}), defined.get("SPLITS", {}), {task.id for task in every})
    also = f", and {len(variants)} variants" if variants else ""
    return Finding(f"{len(own)}, each with an instruction of its own{also}")


def _check_variants(variants: Mapping[str, str], every: Mapping[str, Task]) -> None:
    for name, base in variants.items():
        for used in (name, base):
            if used not in every:
                raise Broken(f"VARIANTS names {used}", "use the ids that tasks() gives")
        if base in variants:
            raise Broken(
                f"{name} is a variant of {base}, a variant itself", f"name {variants[base]}"
            )
        if every[name].instruction != every[base].instruction:
            raise Broken(
                f"variant {name} has the instruction {every[name].instruction!r}",
                f"give it the instruction of {base}, or leave it out of VARIANTS",
            )


def _check_lists(
    buckets: Mapping[str, Sequence[str]], splits: Mapping[str, Sequence[str]], ids: set[str]
) -> None:
    for what, lists in (("bucket", buckets), ("split", splits)):
        for name, members in lists.items():
            strangers = ", ".join(task_id for task_id in members if task_id not in ids)
            if strangers:
                raise Broken(f"{what} {name!r} names {strangers}", "use the ids that tasks() gives")
    for name, members in splits.items():
        if not members or len(set(members)) < len(members):
            raise Broken(f"split {name!r} is {members}", "name at least one task, and each once")
        if name in ids:
            raise Broken(f"{name!r} names both a task and a split", "--tasks could mean either")


def _check_unique(name: str, every: Sequence[Task], advice: str) -> None:
    sharing: dict[str, list[str]] = {}
    for task in every:
        # Case and blanks tell no policy what to do.
        sharing.setdefault(" ".join(vars(task)[name].lower().split()), []).append(task.id)
    for value, ids in sharing.items():
        if len(ids) > 1:
            raise Broken(f"tasks {', '.join(ids)} share the {name} {value!r}", advice)


def _check_task(task: Task, suite: str) -> None:
    if task.suite != suite:
        raise Broken(f"suite of {task.id} is {task.suite!r}", f"it is loaded as {suite!r}")
    if not task.instruction.strip():
        raise Broken(f"instruction of {task.id} is empty", "say what is to be done")
    if type(task.max_steps) is not int or task.max_steps < 1:
        raise Broken(f"max_steps of {task.id} is {task.max_steps!r}", "give an int of at least 1")
    if len(set(task.subgoals)) < len(task.subgoals) or len(task.subgoals) > MOST_SUBGOALS:
        raise Broken(
            f"subgoals of {task.id} are {task.subgoals}",
            f"give each a name of its own, at most {MOST_SUBGOALS} of them",
        )


def pickling(subject: Subject) -> Finding:
    """Settings, tasks and specs can be pickled and written as JSON."""
    task = subject.chosen()[0]
    for value in (subject.settings, task, EpisodeSpec(task, 0)):
        kind = type(value)
        try:
            pickled = pickle.loads(pickle.dumps(value))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise Broken(
                f"{kind.__name__} cannot be pickled: {error}",
                f"define its class at the top of a module; {PLAIN}",
            ) from error
        written = from_json(kind, json.loads(json.dumps(to_json(value))))
        for how, back in (("pickle", pickled), ("JSON", written)):
            if back != value:
                raise Broken(f"{value} comes back from {how} as {back}", PLAIN)
    return Finding("settings, tasks and specs come back equal from pickle and JSON")


# In a process of its own, because this one has torch.
_TORCH = """
import pickle, sys
sys.path = pickle.load(sys.stdin.buffer)
suite, settings, task = pickle.load(sys.stdin.buffer)
from vla_rl import plugins
module = plugins.load("envs", suite)
env = module.make(task, settings)
env.start(0)
env.observe()
if "expert" in vars(module):
    module.expert(task)(env)
print("torch" in sys.modules)
"""


def torch_free(subject: Subject) -> Finding:
    """A worker process never imports torch, and exits without messages."""
    if "prepare" in vars(subject.module):
        subject.module.prepare(subject.settings)  # workers inherit what it chose
    sent = (subject.suite, subject.settings, subject.chosen()[0])
    done = subprocess.run(
        [sys.executable, "-c", _TORCH],
        input=pickle.dumps(sys.path) + pickle.dumps(sent),
        capture_output=True,
        check=False,
    )
    said, errors = done.stdout.decode().strip(), done.stderr.decode().strip()
    if done.returncode != 0:
        raise Broken(
            errors.rpartition("\n")[2], "it happens in a fresh process: make, start, observe"
        )
    if said.endswith("True"):
        raise Broken(
            "torch is imported by the suite",
            "use NumPy: workers would need a second or two more to start and much more memory",
        )
    noise = f"noise at exit, of an environment that was not closed: {errors}"
    return Finding("a worker does without torch", noise if "error" in errors.lower() else "")


SUITE_CHECKS: dict[str, Callable[[Subject], Finding]] = {
    "names": names,
    "settings": settings,
    "tasks": tasks,
    "pickling": pickling,
    "torch-free": torch_free,
}
TASK_CHECKS: dict[str, Callable[[Case], Finding]] = {
    "make": environment.making,
    "spaces": environment.spaces,
    "actions": environment.actions,
    "outcomes": outcomes.outcomes,
    "expert": outcomes.solving,
    "finishing": outcomes.finishing,
    "clock": repeats.clock,
    "seeding": repeats.seeding,
    "starts": repeats.starts,
    "snapshots": repeats.snapshots,
    "frames": environment.frames,
    "speed": environment.speed,
    "gymnasium": environment.gymnasium_checker,
    "stable-baselines3": environment.stable_baselines3_checker,
}
CHECKS = (*SUITE_CHECKS, *TASK_CHECKS)
"""Names of the checks, for :meth:`Subject.must_pass`."""
