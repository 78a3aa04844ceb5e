"""Checks of the outcomes of steps: reward, end, success, progress, subgoals.

Each check examines one :class:`Case` and returns what it found; it raises :class:`Broken` if the
contract is broken. ``vla_rl/contract/suite.py`` lists and runs them.
"""

from __future__ import annotations

import math

import numpy as np

from vla_rl.contract.case import Case
from vla_rl.contract.finding import Broken, Finding
from vla_rl.sim import Expert, Outcome
from vla_rl.types import DenseReward

MOST_LIKELY_A_BONUS = 10
"""A reward of success this many times the best one before it looks like a single bonus."""


def outcomes(case: Case) -> Finding:
    """Rewards, flags, progress and subgoals of random episodes are consistent."""
    steps = min(100, case.task.max_steps)
    seen: list[Outcome] = []
    for seed in case.seeds[:3]:
        seen += _checked_episode(case, seed, _at_random(seed), steps)
    best = max(outcome.progress for outcome in seen)
    return Finding(f"{len(seen)} random steps with finite rewards, progress up to {best:.2f}")


def solving(case: Case) -> Finding:
    """How often the suite's own expert solves the task."""
    expert_for = vars(case.suite).get("expert")
    if expert_for is None:
        return Finding("none", "define expert(task) if `vla-rl record` is to record demonstrations")
    steps, expert = case.task.max_steps, expert_for(case.task)
    ends = [_checked_episode(case, seed, expert, steps)[-1] for seed in case.seeds]
    solved = sum(end.success for end in ends)
    found = f"solves {solved} of {case.count} starts within {steps} steps"
    if solved == 0:
        raise Broken(found, "fix the expert or raise max_steps; can the task be solved at all?")
    return Finding(found, "" if solved == case.count else "`vla-rl record` keeps what it solves")


def finishing(case: Case) -> Finding:
    """Whether the suite's own reward pays more for finishing than for staying just short of it."""
    if not vars(case.suite).get("success_ends", lambda settings: True)(case.settings):
        return Finding("success does not end an episode, so staying solved goes on being paid")
    expert_for = vars(case.suite).get("expert")
    short, solved = [], []
    for seed in case.seeds:
        act = _at_random(seed) if expert_for is None else expert_for(case.task)
        *before, last = _episode(case, seed, act)
        if last.success:
            short.append(max((outcome.reward for outcome in before), default=0.0))
            solved.append(last.reward)
    if not solved:
        who = "random actions" if expert_for is None else "the expert"
        return Finding(f"not known: {who} solved no episode")
    stated = vars(case.suite).get("dense_reward", lambda task: DenseReward())(case.task).solved_step
    if stated == 0:
        return Finding("the suite says that its rewards are paid once (dense_reward)")
    if stated is None:
        stated = getattr(case.settings, "solved_step", None)
    if stated == 0:
        return Finding("the settings say that success is paid once (solved_step)")
    rate = max(min(solved), 0.0) if stated is None else stated
    found = f"a solved step pays {rate:.3g}, the best step before it {max(short):.3g}"
    if stated is None and rate > MOST_LIKELY_A_BONUS * max(*short, 0.0):
        return Finding(
            found,
            "the reward of success looks like a bonus that is paid once, and `--rewards dense` "
            "would pay it at every step that is left: state solved_step 0 (in dense_reward(task), "
            "or --env.solved-step 0)",
        )
    if max(short) <= rate:
        return Finding(found)
    return Finding(
        found,
        "staying just short of success until the time limit pays more than success, so "
        "`--rewards dense` teaches to put it off: state solved_step in dense_reward(task) (0 if "
        "rewards are paid once), or let success not end an episode",
    )


def _episode(case: Case, seed: int, act: Expert) -> list[Outcome]:
    """The outcomes of a whole episode, unchecked."""
    env = case.env
    env.start(seed)
    played = []
    for _ in range(case.task.max_steps):
        played.append(env.advance(np.clip(act(env), -1.0, 1.0).astype(np.float32)))
        if played[-1].terminated or played[-1].truncated:
            break
    return played


def _at_random(seed: int) -> Expert:
    rng = np.random.default_rng(seed)
    return lambda env: rng.uniform(-1, 1, env.spaces.action_dim).astype(np.float32)


def _checked_episode(case: Case, seed: int, act: Expert, steps: int) -> list[Outcome]:
    """Play at most ``steps`` steps of an episode, and check every outcome."""
    env, played = case.env, []
    progress = env.start(seed)
    if not 0.0 <= progress <= 1.0:
        raise Broken(f"start({seed}) gave progress {progress}", "keep it in [0, 1]")
    before = 0
    for step in range(1, steps + 1):
        outcome = env.advance(np.clip(act(env), -1.0, 1.0).astype(np.float32))
        fault = (
            _wrong_kind(outcome)
            or _wrong_sense(outcome)
            or _wrong_subgoals(outcome, before, len(case.task.subgoals))
        )
        if fault:
            raise Broken(f"step {step} of seed {seed}: {fault.found}", fault.advice)
        played.append(outcome)
        if outcome.terminated or outcome.truncated:
            break
        before = outcome.completed
    return played


def _wrong_kind(outcome: Outcome) -> Finding | None:
    for name, kind in (
        ("reward", float),
        ("terminated", bool),
        ("truncated", bool),
        ("success", bool),
        ("progress", float),
        ("completed", int),
    ):
        value = outcome._asdict()[name]
        # An int serves as a float, a bool as an int.
        if not isinstance(value, (float, int) if kind is float else kind):
            found = f"{name} is {value!r}, a {type(value).__module__}.{type(value).__name__}"
            return Finding(found, f"wrap it in {kind.__name__}(...)")
    return None


def _wrong_sense(outcome: Outcome) -> Finding | None:
    if not math.isfinite(outcome.reward):
        return Finding(f"reward is {outcome.reward}", "give a finite number at every step")
    if not 0.0 <= outcome.progress <= 1.0:
        return Finding(f"progress is {outcome.progress}", "clip it to [0, 1]")
    if outcome.success and outcome.progress != 1.0:
        return Finding(f"success with progress {outcome.progress}", "give progress 1 on success")
    if outcome.terminated and outcome.truncated:
        return Finding(
            "terminated and truncated at once", "set truncated only if not terminated: nothing cut"
        )
    return None


def _wrong_subgoals(outcome: Outcome, before: int, subgoals: int) -> Finding | None:
    now, every = outcome.completed, (1 << subgoals) - 1
    if not 0 <= now <= every:
        return Finding(
            f"completed is {now:#b} for {subgoals} subgoals", "bit i stands for Task.subgoals[i]"
        )
    if before & ~now:
        return Finding(
            f"completed goes from {before:#b} to {now:#b}", "keep what was completed once"
        )
    if outcome.success and now != every:
        return Finding(
            f"success with completed {now:#b} of {every:#b}", "success means every subgoal"
        )
    return None
