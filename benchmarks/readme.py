"""Write the tables of the README from ``benchmarks/results``.

python -m benchmarks.readme [--check]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
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
    where = f"{machine['cores']} cores of an {machine['processor']}"
    return f"Measured {result['date']} at `{result['git']}` on {where}, no GPU."


def main_job(result: dict[str, Any]) -> str:
    """Success before and after."""
    seeds = result["seeds"]
    rows = [["task", "seed", "clone", "after RL", "difference in points"]]
    for task in seeds[0]["tasks"]:
        for seed in seeds:
            found = seed["tasks"][task]
            numbers = [percent(found["before"]), percent(found["after"])]
            rows.append([task, str(seed["seed"]), *numbers, points(found["difference"])])
    for task, found in result["over_seeds"].get("tasks", {}).items():
        rows.append([f"**{task}**", f"mean of {len(seeds)}", *_three(found)])
    if result["over_seeds"]:
        rows.append(
            ["**mean over tasks**", f"mean of {len(seeds)}", *_three(result["over_seeds"]["mean"])]
        )
    minutes = ", ".join(f"{seed['seconds'] / 60:.1f}" for seed in seeds)
    world = result["config"]["world"]
    horizons = zip(world["tasks"], world["max_steps"], strict=True)
    within = ", ".join(f"{task} {steps}" for task, steps in horizons)
    note = (
        f"Success within a fixed horizon ({within} steps) on 100 held-out starts of each task; "
        f"95 % intervals (Wilson, paired Newcombe; over seeds Student's t). Wall time from command "
        f"to summary: {minutes} minutes. {origin(result)}"
    )
    return f"{table(*rows)}\n\n{note}"


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


def noise_density(result: dict[str, Any]) -> str:
    """Success by density."""
    rows = [["density", "clone", "after RL", "each seed after RL"]]
    for name, found in result["over_seeds"].items():
        each = ", ".join(f"{100 * seed[name]['after']:.0f}" for seed in result["seeds"])
        rows.append([name, percent(found["before"]), percent(found["after"]), each])
    note = (
        f"{result['task']}, {result['minutes'] * 60:.0f} s of RL, {len(result['seeds'])} seeds, "
        f"intervals over seeds (Student's t). {origin(result)}"
    )
    return f"{table(*rows)}\n\n{note}"


TABLES = {
    "main_job": main_job,
    "rollout_throughput": rollout_throughput,
    "noise_density": noise_density,
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
