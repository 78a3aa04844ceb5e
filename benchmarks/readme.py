"""Write the tables of the README from ``benchmarks/results``.

python -m benchmarks.readme [--check]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks._record import RESULTS

README = Path(__file__).parent.parent / "README.md"


def percent(estimate: list[float]) -> str:
    """``62 % [52, 71]``."""
    value, low, high = (100 * share for share in estimate[:3])
    return f"{value:.0f} % [{max(low, 0):.0f}, {min(high, 100):.0f}]"


def points(difference: list[float]) -> str:
    """``+31 [+20, +41]``."""
    return "{:+.0f} [{:+.0f}, {:+.0f}]".format(*(100 * share for share in difference[:3]))


def table(*rows: list[str]) -> str:
    """A Markdown table; the first row is its head."""
    head, *body = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *body])


def origin(result: dict[str, Any]) -> str:
    """Where a result was measured."""
    machine = result["machine"]
    cores = machine["cores"]
    where = f"{cores} core{'s' if cores > 1 else ''} of an {machine['processor']}"
    return f"Measured {result['date']} at `{result['git']}` on {where}, no GPU."


ONE_HORIZON = "Only one horizon was measured: slowness counts as failure."


def within(*horizons: int) -> str:
    """``within 100/90/90 steps``."""
    shown = horizons[:1] if len(set(horizons)) == 1 else horizons
    return f"within {'/'.join(map(str, shown))} steps"


def median(steps: list[float | None]) -> str:
    """``92 → 61``, a dash where nothing was solved."""
    return " → ".join("-" if each is None else f"{each:.0f}" for each in steps)


def main_job(result: dict[str, Any]) -> str:
    """Success before and after, within the horizon of training and with time to spare."""
    seeds, over = result["seeds"], result["over_seeds"]
    world = result["config"]["world"]
    timed = "generous" in seeds[0]
    columns = ["clone", "after RL", "difference in points"]
    rows = [["task", "seed", *columns]]
    if timed:
        short, long = within(*world["max_steps"]), within(seeds[0]["generous"]["horizon"])
        named = [f"{column}, {when}" for when in (short, long) for column in columns]
        rows = [["task", "seed", *named, "median steps when solved"]]

    def cells(found: dict[str, Any], with_time: dict[str, Any] | None, steps: str) -> list[str]:
        return [*_three(found), *([*_three(with_time), steps] if with_time is not None else [])]

    for task in seeds[0]["tasks"]:
        for seed in seeds:
            with_time = seed["generous"]["tasks"][task] if timed else None
            steps = median(with_time["median_steps"]) if with_time else ""
            numbers = cells(seed["tasks"][task], with_time, steps)
            rows.append([task, str(seed["seed"]), *numbers])
    for task, found in over.get("tasks", {}).items():
        with_time = over["generous"]["tasks"][task] if timed else None
        rows.append([f"**{task}**", f"mean of {len(seeds)}", *cells(found, with_time, "")])
    if over:
        with_time = over["generous"]["mean"] if timed else None
        mean = cells(over["mean"], with_time, "")
        rows.append(["**mean over tasks**", f"mean of {len(seeds)}", *mean])
    minutes = ", ".join(f"{seed['seconds'] / 60:.1f}" for seed in seeds)
    horizons = zip(world["tasks"], world["max_steps"], strict=True)
    each = ", ".join(f"{task} {steps}" for task, steps in horizons)
    what = (
        "the same episodes with time to spare beside"
        if timed
        else f"{ONE_HORIZON[0].lower()}{ONE_HORIZON[1:-1]}"
    )
    note = (
        f"Success within the horizon of training ({each} steps) on 100 held-out starts of each "
        f"task; {what}. 95 % intervals: of one run (Wilson; paired Newcombe for a difference) they "
        "cover other starts for the same policies; over seeds (Student's t) another run with other "
        "demonstrations, weights and noise on the same kind of machine. Other machines are not "
        f"covered. Wall time from command to summary: {minutes} minutes. {origin(result)}"
    )
    return f"{table(*rows)}\n\n{note}"


def _horizons(result: dict[str, Any]) -> str:
    """What to say if only one horizon was measured."""
    return "" if "generous" in result else f"{ONE_HORIZON} "


def _three(found: dict[str, list[float]]) -> list[str]:
    return [percent(found["before"]), percent(found["after"]), points(found["difference"])]


def rollout_throughput(result: dict[str, Any]) -> str:
    """Environment steps per second."""
    names = {
        "usual": "the usual way, re-implemented: a process per environment, 480x480 "
        "default-quality frame at every step, pickled; no policy",
        "usual_small": "the same with our cameras, resolution and fast rendering",
        "collector": "**vla-rl, with the policy in the loop**",
        "meta_world": "stock Meta-World `step`, no frames, no policy",
        "physics": "MuJoCo's physics alone",
    }
    rows = [["", "environment steps/s", "of vla-rl"]]
    ours = result["mean"]["collector"]
    for way, text in names.items():
        rate = result["mean"][way]
        rows.append([text, f"{rate:,.0f}", f"{rate / ours:.2g}"])
    split = ", ".join(f"{p} {s:.0%}" for p, s in result["collector_time_split"].items())
    note = (
        f"{result['times_usual']:.0f} times the usual way, {result['share_of_physics']:.0%} of "
        f"bare physics. Time of vla-rl: {split}. Chunks of {result['chunk']}, two 64 px cameras. "
        f"{origin(result)}"
    )
    return f"{table(*rows)}\n\n{note}"


def densities(result: dict[str, Any]) -> str:
    """Success by density and learning rate."""
    rows = [["algorithm", "density", "learning rate", "after RL", "each seed", *result["tasks"]]]
    for arm, rates in result["arms"].items():
        for rate, runs in rates.items():
            each = ", ".join(f"{100 * run['success']:.0f}" for run in runs)
            tasks = [
                sum(run["tasks"][task] for run in runs) / len(runs) for task in result["tasks"]
            ]
            label = f"**{rate}**" if rate == result["best_rate"][arm] else rate
            after = percent(result["over_seeds"][arm][rate])
            rows.append([*arm.split(), label, after, each, *(f"{share:.0%}" for share in tasks)])
    clones = ", ".join(f"{100 * value:.0f}" for value in result["clones"])
    note = (
        f"Success within {result['horizon']} steps; clones of the seeds: {clones} %. "
        f"{result['env_steps']:,} environment steps of RL. Bold: the best rate of a line's "
        f"algorithm and density, chosen on validation starts. "
        f"Intervals over seeds (Student's t). {origin(result)}"
    )
    return f"{table(*rows)}\n\n{note}"


def algorithms(result: dict[str, Any]) -> str:
    """Success, speed and cost by algorithm, best first."""
    tasks = list(result["clone"]["tasks"])
    threshold = f"steps to {result['threshold']:.0%}"
    timed = "generous" in result
    short = within(*result["horizons"]) if timed else "within the horizon of training"
    later = [f"success {within(result['generous'])}"] if timed else []
    steps = "median steps when solved" if timed else "steps when solved"
    costs = [steps, threshold, "gradient steps", "update"]
    rows = [["algorithm", f"success {short}", *tasks, *later, *costs]]

    def with_time(found: dict[str, Any]) -> list[str]:
        return [percent(found["generous"]["held_out"])] if timed else []

    clone = result["clone"]
    each = [percent(clone["tasks"][task]) for task in tasks]
    numbers = [percent(clone["held_out"]), *each, *with_time(clone), _length(clone)]
    rows.append(["clone", *numbers, "", "", ""])
    count = result["seeds"]
    for name, found in sorted(
        result["algorithms"].items(), key=lambda item: -item[1]["held_out"][0]
    ):
        reached = found["env_steps_to_threshold"]
        when = f"{reached / 1000:.0f}k ({found['seeds_that_reached_it']} of {count})"
        rows.append(
            [
                f"`{name}`",
                f"**{percent(found['held_out'])}**",
                *(percent(found["tasks"][task]) for task in tasks),
                *with_time(found),
                _length(found),
                when if reached else "-",
                f"{sum(found['gradient_steps']) / count:,.0f}",
                f"{found['time_split']['update']:.0%}",
            ]
        )
    note = (
        f"{count} seeds each, {result['env_steps']:,} environment steps of RL, all from one clone; "
        "100 held-out starts of each task; mean over seeds with Student's t interval (clone: over "
        f"starts). {threshold}: environment steps until training success, smoothed over 5 "
        "iterations, first reached it. Update: its share of the wall time. "
        f"{_horizons(result)}{origin(result)}"
    )
    figure = "![Learning curves of every algorithm](benchmarks/results/algorithms.png)"
    return f"{table(*rows)}\n\n{note}\n\n{figure}"


def _length(found: dict[str, Any]) -> str:
    """Median steps of solved episodes; of earlier results their mean."""
    if "median_steps" in found:
        return "-" if found["median_steps"] is None else f"{found['median_steps']:.0f}"
    mean = found["solved_steps"]
    return f"{mean[0] if isinstance(mean, list) else mean:.0f}"


def gfpo(result: dict[str, Any]) -> str:
    """Success and length by arm."""
    timed = "generous" in result
    later = [f"success {within(result['generous'])}"] if timed else []
    success = [f"success {within(result['horizon'])}", *later]
    rows = [["arm", *success, "steps when solved", "shorter than GRPO by", "groups without use"]]
    for name, found in result["over_seeds"].items():
        shorter = result["shorter"].get(name)
        dead = [seed["arms"][name].get("frac_groups_dead") for seed in result["seeds"]]
        value, low, high = found["solved_steps"]
        rows.append(
            [
                name,
                percent(found["success"]),
                *([percent(found["generous"])] if timed else []),
                f"{value:.1f} [{low:.1f}, {high:.1f}]",
                percent_of_either_sign(shorter) if shorter else "",
                "" if None in dead else f"{sum(dead) / len(dead):.0%}",
            ]
        )
    note = (
        f"{result['task']} with a horizon of {result['horizon']} steps, {len(result['seeds'])} "
        f"seeds each with its own clone, {result['env_steps']:,} environment steps, groups of 16 "
        "of which GFPO keeps 4; 100 held-out starts; intervals over seeds (Student's t; shorter: "
        f"paired). {_horizons(result)}{origin(result)}"
    )
    return f"{table(*rows)}\n\n{note}"


def percent_of_either_sign(estimate: list[float]) -> str:
    """``12 % [-3, 27]``."""
    return "{:.0f} % [{:.0f}, {:.0f}]".format(*(100 * share for share in estimate))


def gspo(result: dict[str, Any]) -> str:
    """What several passes over a batch do at either level of the ratio."""
    timed = "generous" in result
    short = within(*result["horizons"]) if timed else "within the horizon of training"
    later = [f"held-out success {within(result['generous'])}"] if timed else []
    rows = [
        ["arm", f"held-out success {short}", "each seed", *later, "training success over time",
         "clipped", "spread", "KL"]
    ]  # fmt: skip
    for label, seeds in result["arms"].items():
        mean = lambda name: sum(seed[name] for seed in seeds) / len(seeds)  # noqa: B023,E731
        pieces = zip(*(seed["train_success"] for seed in seeds), strict=True)
        rows.append(
            [
                label,
                percent(result["over_seeds"][label]),
                ", ".join(f"{100 * seed['success']:.0f}" for seed in seeds),
                *([percent(result["over_seeds_generous"][label])] if timed else []),
                " ".join(f"{sum(piece) / len(piece):.2f}" for piece in pieces),
                f"{mean('pg_clipfrac'):.0%}",
                f"{mean('ratio_std'):.2g}",
                f"{mean('ppo_kl'):.2g}",
            ]
        )
    seeds = len(next(iter(result["arms"].values())))
    note = (
        f"drawer-open-v3 and push-v3 from one clone at {percent(result['clone'])}, {seeds} seeds, "
        f"{result['env_steps']:,} environment steps, six passes over every batch without KL, early "
        "stop or anchor. Clipped: share of units; spread: standard deviation of the ratio; KL per "
        f"action within an update. {_horizons(result)}{origin(result)}"
    )
    return f"{table(*rows)}\n\n{note}"


def kitchen_elements(result: dict[str, Any]) -> str:
    """Success of single elements before and after."""
    seeds, arm = result["seeds"], result["arm"]
    rows = [["element", "clone", "after RL", "difference in points", "each seed"]]
    for name, found in result["over"].items():
        each = [seed.get(name) or seed["measures"][name] for seed in seeds]
        told = ", ".join(f"{100 * e['before'][0]:.0f} → {100 * e['after'][0]:.0f}" for e in each)
        means = {
            "mean": f"**mean, {within(arm['horizon'])}**",
            "generous": f"**mean, {within(arm.get('generous', 0))}**",
        }
        rows.append([means.get(name, name), *_three(found), told])
    note = (
        f"One policy for all, {arm['demos']} demonstrations of each, horizon {arm['horizon']} "
        f"steps, {arm['env_steps']:,} environment steps of RL (DAPO, sparse success); "
        f"{arm['episodes']} held-out starts of each; {_over(seeds)} {_horizons(arm)}"
        f"{origin(result)}"
    )
    return f"{table(*rows)}\n\n{note}"


def kitchen_sequence(result: dict[str, Any]) -> str:
    """How much of a sequence is completed before and after."""
    seeds, arm = result["seeds"], result["arm"]
    parts = 4
    rows = [["measure", "clone", "after RL", "difference", "each seed"]]
    for name, found in result["over"].items():
        if name in ("mean", "generous"):
            continue
        each = [seed["measures"][name] for seed in seeds]
        measure = name.partition(": ")[2]
        if measure.startswith("share"):
            counts = [counted(found[w], parts) for w in ("before", "after", "difference")]
            told = ", ".join(
                f"{parts * e['before'][0]:.2f} → {parts * e['after'][0]:.2f}" for e in each
            )
            rows.append([f"**mean completed of {parts}**", *counts, told])
        else:
            told = ", ".join(
                f"{100 * e['before'][0]:.0f} → {100 * e['after'][0]:.0f}" for e in each
            )
            rows.append([measure, *_three(found), told])
    note = (
        f"`{arm['tasks'][0]}`, {arm['demos']} demonstrations, horizon {arm['horizon']} steps, "
        f"{arm['env_steps']:,} environment steps of RL (PPO, progress and a reward for each part); "
        f"{arm['episodes']} held-out starts; {_over(seeds)} {origin(result)}"
    )
    return f"{table(*rows)}\n\n{note}"


def _over(seeds: list[Any]) -> str:
    return (
        f"{len(seeds)} seeds, each with its own demonstrations, weights and starts; mean over "
        "seeds with Student's t interval."
    )


def counted(estimate: list[float], parts: int) -> str:
    """``1.25 [0.80, 1.71]`` of so many parts."""
    value, low, high = (parts * share for share in estimate[:3])
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def kitchen_experts(result: dict[str, Any]) -> str:
    """Success of the scripted experts."""
    rows = [["task", "solved", "95 % interval", "steps", "completed parts"]]
    for name, found in result["tasks"].items():
        low, high = (100 * end for end in found["interval"])
        steps = found["mean_steps_when_solved"]
        parts = found.get("subgoals")
        rows.append(
            [
                name,
                f"{found['success'] * found['episodes']:.0f} of {found['episodes']}",
                f"{low:.0f}-{high:.0f} %",
                "-" if steps is None else f"{steps:.0f}",
                f"{found['mean_completed']:.1f} of {len(parts)}" if parts else "",
            ]
        )
    return f"{table(*rows)}\n\nDefault starts. {origin(result)}"


def state_expert(result: dict[str, Any]) -> str:
    """Held-out success of experts that Stable-Baselines3 trained."""
    rows = [["task", "algorithm", "steps", "CPU seconds", "held-out success"]]
    for task, by_algorithm in result["tasks"].items():
        for name, found in by_algorithm.items():
            seconds, steps = f"{found['cpu_seconds']:.0f}", f"{found['steps']:,}"
            rows.append([task, name, steps, seconds, percent(found["held_out"])])
    return f"{table(*rows)}\n\nOne seed, 100 held-out starts. {origin(result)}"


def gym_ids(result: dict[str, Any]) -> str:
    """What was made of three Gymnasium ids."""
    arm, runner, block = (result[name] for name in ("fetch", "cheetah", "pusht"))
    rows = [
        ["environment", "how", "before", "after"],
        [
            "`gym:FetchReachDense-v4`",
            "PPO expert on the state, 10 demonstrations, cloned from images and state",
            f"expert {percent(arm['expert'])}",
            f"clone {percent(arm['clone'])} held-out success",
        ],
    ]
    courses = []
    for name, found in (("gym:HalfCheetah-v5", runner), ("gym:gym_pusht/PushT-v0", block)):
        if "success_sixths" in found:
            value, low, high = found["held_out_return"]
            courses.append(
                f"`{name}` in sixths of training: return "
                f"{', '.join(f'{value:.3g}' for value in found['return_sixths'])}; success "
                f"{', '.join(f'{100 * share:.0f} %' for share in found['success_sixths'])}; mean "
                f"action on held-out starts: return {value:.3g} [{low:.3g}, {high:.3g}], "
                "Student's t over starts."
            )
        rule = found["protocol"].partition("success=")[2].partition(",")[0]
        rows.append(
            [
                f"`{name}`",
                f"PPO from fresh weights on state, {found['env_steps']:,} steps, "
                f"{found['seconds'] / 60:.1f} min",
                f"return {found['return_first']:.1f}",
                f"return {found['return_last']:.1f}; `{rule}` on held-out starts: "
                f"{percent(found['held_out'])}",
            ]
        )
    note = (
        "One seed. Returns are the environment's own, means of the first and last tenth of "
        f"training, with exploration noise. {' '.join([*courses, origin(result)])}"
    )
    return f"{table(*rows)}\n\n{note}"


def backbones(result: dict[str, Any]) -> str:
    """Success, size and cost by backbone."""
    timed = "generous" in result
    horizons = [int(word) for word in result["world"] if word.isdecimal()]
    numbers = ["clone", "after RL", "difference in points"]
    kinds = {"": within(*horizons)}
    if timed:
        kinds["generous"] = within(result["generous"])
    named = [f"{number}, {when}" for when in kinds.values() for number in numbers]
    rows = [["backbone", "parameters", *named, "cloning", "RL", "memory"]]
    for arm in result["arms"].values():
        for seed in arm["seeds"]:
            cost = [seed["cost"].get(stage) for stage in ("sft", "rl")]
            rows.append(
                [
                    arm["about"],
                    f"{seed['parameters'] / 1e6:.1f} M",
                    *(cell for kind in kinds for cell in _of_backbone(seed, kind)),
                    *(f"{spent['seconds'] / 60:.1f} min" if spent else "" for spent in cost),
                    f"{max(spent['peak_gb'] for spent in cost if spent):.1f} GB",
                ]
            )
    count = len(next(iter(result["arms"].values()))["seeds"])
    note = (
        f"{_seeds(count)}; drawer-open, door-open and push in one policy, {_and(result['demos'])} "
        f"demonstrations, {result['env_steps']:,} environment steps of DAPO with the backbone "
        "frozen; 100 held-out starts of each task, Wilson intervals. Memory: most that a command "
        f"and its workers held; times on a machine with other work. {_horizons(result)}"
        f"{origin(result)}"
    )
    return f"{table(*rows)}\n\n{note}"


def _of_backbone(seed: dict[str, Any], kind: str) -> list[str]:
    """Clone, after RL and difference, of one kind of horizon."""
    before, after, difference = (
        ("generous_before", "generous_after", "difference_generous")
        if kind
        else ("before", "after", "difference")
    )
    later = [percent(seed[after]), points(seed[difference])] if after in seed else ["not run", ""]
    return [percent(seed[before]), *later]


def heads(result: dict[str, Any]) -> str:
    """Success before and after RL, and speed, by action head."""
    when = within(result["horizon"])
    timed = "generous" in result
    later = [f"{w}, {within(result['generous'])}" for w in ("clone", "after RL")] if timed else []
    rows = [
        ["head", f"clone, {when}", f"after RL, {when}", "each seed", *later, "decisions/s",
         "ms per gradient step"]
    ]  # fmt: skip
    for name, seeds in result["heads"].items():
        mean = result["over_seeds"][name]
        steps = [seed["update_seconds"] for seed in seeds if "update_seconds" in seed]
        rows.append(
            [
                f"`{name}`",
                percent(mean["before"]),
                percent(mean["after"]),
                ", ".join(f"{100 * s['before']:.0f} → {100 * s['after']:.0f}" for s in seeds),
                *(percent(mean["generous"][w]) for w in ("before", "after") if timed),
                f"{fmean(seed['decisions_per_second'] for seed in seeds):,.0f}",
                f"{1000 * fmean(steps):.0f}",
            ]
        )
    count = len(next(iter(result["heads"].values())))
    note = (
        f"{result['task']}, {result['demos']} demonstrations, {result['sft_steps']} steps of "
        f"cloning, {result['env_steps']:,} environment steps of {result['algorithm'].upper()}, "
        f"{result['episodes']} held-out starts; {count} seeds, each with its own demonstrations, "
        f"mean with Student's t interval. Speeds on a machine with other work. {_horizons(result)}"
        f"{origin(result)}"
    )
    return f"{table(*rows)}\n\n{note}"


IRE_VLA_PAPER = {
    # arXiv 2501.16664, figure 5: Meta-World, success on expert, RL and unseen tasks.
    "metaworld": {
        "sft": (0.83, 0.41, 0.51),
        "replay": (0.69, 0.35, 0.39),
        "freeze": (0.75, 0.79, 0.61),
        "ire_vla": (0.84, 0.89, 0.81),
    },
    # Table I: Kitchen, mean over its five expert tasks, then the red and the yellow slide door.
    "franka_kitchen": {
        "sft": (0.758, 0.46, 0.98),
        "replay": (0.51, 0.30, 0.64),
        "ire_vla": (0.904, 0.99, 1.0),
    },
}


def ire_vla(result: dict[str, Any]) -> str:
    """Success by group of tasks after the last RL task, the paper's beside."""
    groups = ("expert", "rl", "unseen")
    paper = IRE_VLA_PAPER[result["suite"]]
    several = bool(result["over_seeds"])
    timed = "generous" in result
    later = [f"the same {within(result['generous'])}"] if timed else []
    gains = ["RL over SFT, points", "each seed, RL", *later, "paper"]
    rows = [["method", "expert", "RL", "unseen", *gains]]
    for arm, seeds in result["arms"].items():
        means = result["over_seeds"].get(arm)
        found = [percent(means[g]) if several else f"{100 * seeds[0][g]:.0f} %" for g in groups]
        gain = points(result["over_sft"][arm]["rl"]) if arm in result["over_sft"] else ""
        each = ", ".join(f"{100 * seed['rl']:.0f}" for seed in seeds)
        said = " / ".join(f"{100 * share:.0f}" for share in paper[arm]) if arm in paper else ""
        with_time = [
            " / ".join(f"{100 * fmean(s[f'generous_{g}'] for s in seeds):.0f}" for g in groups)
            for _ in later
        ]
        name = f"**{arm}**" if arm == "ire_vla" else arm
        rows.append([name, *found, gain, each, *with_time, said])
    over = "means over seeds with Student's t interval" if several else "one seed"
    note = (
        f"Expert: {', '.join(result['expert'])}; RL: {', '.join(result['rl'])}; unseen: "
        f"{', '.join(result['unseen'])}. {result['demos']} demonstrations of each expert task, "
        f"horizon {result['horizon']}, {result['practice'][-1]} environment steps of RL (LOOP "
        f"where no other is named) on each RL task; {result['episodes']} held-out starts of each "
        f"task, {over}. {_horizons(result)}{origin(result)}"
    )
    return f"{table(*rows)}\n\n{note}"


def stage1_cost(result: dict[str, Any]) -> str:
    """Rate and memory of updates with kept features and without."""
    rows = [["backbone", "looking again", "kept features", "times", "memory", "gradients apart"]]
    for found in result["backbones"].values():
        kept, again = found["kept"], found["again"]
        rows.append(
            [
                found["about"],
                f"{_rate(again['steps_per_second'])} steps/s",
                f"{_rate(kept['steps_per_second'])} steps/s",
                f"{_rate(found['times'])}",
                f"{again['peak_gb']:.2f} → {kept['peak_gb']:.2f} GB",
                f"{found['gradients_apart']:.1e}",
            ]
        )
    note = (
        f"Gradient steps of head and critic on {result['rows']} decisions, two 64 px views; memory "
        "is the most that the process held; gradients by the norm of their difference, as features "
        f"are kept in half precision. {origin(result)}"
    )
    return f"{table(*rows)}\n\n{note}"


def _seeds(count: int) -> str:
    return "One seed" if count == 1 else f"{count} seeds"


def _and(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def vlm_speed(result: dict[str, Any]) -> str:
    """Rates of ours and of a plain loop."""
    names = {
        "plain_act": "decisions/s, plain loop",
        "act": "**decisions/s, vla-rl**",
        "plain_update": "update samples/s, plain loop",
        "update": "**update samples/s, vla-rl** (adapters and head)",
        "update_frozen": "**update samples/s, vla-rl** (head only)",
    }
    models = result["models"].values()
    rows = [["", *(model["about"] for model in models)]]
    for case, text in names.items():
        found = [model["cases"][case] for model in models]
        rows.append([text, *(f"{_rate(f['per_second'])}, {f['peak_gb']:.1f} GB" for f in found)])
    note = (
        f"{result['batch']} observations at a time, LoRA of rank {result['lora_rank']}; memory is "
        f"the most that the process held. {origin(result)}"
    )
    return f"{table(*rows)}\n\n{note}"


def sb3_ppo(result: dict[str, Any]) -> str:
    """Return of our PPO and of Stable-Baselines3's."""
    names = {"sb3": "Stable-Baselines3 PPO", "ours": "**vla-rl `ppo`**"}
    rows = [
        ["task", "PPO", "held-out return", "each seed", "training return in tenths", "wall time"]
    ]
    for task, arms in result["tasks"].items():
        for arm, seeds in arms.items():
            over = result["over_seeds"][task].get(arm)
            tenths = zip(*(seed["curve"] for seed in seeds), strict=True)
            known = [[value for value in tenth if value is not None] for tenth in tenths]
            rows.append(
                [
                    f"`{result['worlds'][task][3]}`",
                    names[arm],
                    "{:,.0f} [{:,.0f}, {:,.0f}]".format(*over) if over else "",
                    ", ".join(f"{seed['return']:,.0f}" for seed in seeds),
                    " ".join(f"{fmean(tenth):,.0f}" if tenth else "-" for tenth in known),
                    f"{fmean(seed['seconds'] for seed in seeds) / 60:.1f} min",
                ]
            )
    count = max(len(seeds) for arms in result["tasks"].values() for seeds in arms.values())
    note = (
        f"State only, {result['env_steps']:,} environment steps, {_seeds(count).lower()} each; "
        f"mean action on {result['held_out']} held-out starts, mean over seeds with Student's t "
        f"interval; {result['jobs']} runs at once. {origin(result)}"
    )
    return f"{table(*rows)}\n\n{note}"


TABLES = {
    "sb3_ppo": sb3_ppo,
    "backbones": backbones,
    "heads": heads,
    "ire_vla_metaworld": ire_vla,
    "ire_vla_kitchen": ire_vla,
    "stage1_cost": stage1_cost,
    "vlm_speed_embedded": vlm_speed,
    "vlm_speed_smolvlm-256m": vlm_speed,
    "kitchen_elements": kitchen_elements,
    "kitchen_sequence": kitchen_sequence,
    "kitchen_experts": kitchen_experts,
    "state_expert": state_expert,
    "gym_ids": gym_ids,
    "main_job": main_job,
    "rollout_throughput": rollout_throughput,
    "densities": densities,
    "algorithms": algorithms,
    "gfpo": gfpo,
    "gspo": gspo,
}


def filled(text: str) -> str:
    """The README with every table whose result is there."""
    for name, make in TABLES.items():
        path = RESULTS / f"{name}.json"
        if path.exists():
            body = make(json.loads(path.read_text()))
            start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
            head, tail = text.split(start)[0], text.split(end)[1]
            text = f"{head}{start}\n{body}\n{end}{tail}"
    return text


def main() -> None:
    """Write the README, or with ``--check`` fail if it is not up to date."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    old = README.read_text()
    new = filled(old)
    if parser.parse_args().check and new != old:
        raise SystemExit("the README's tables differ from benchmarks/results")
    README.write_text(new)


if __name__ == "__main__":
    main()
