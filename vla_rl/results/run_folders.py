"""Reading run folders of ``vla-rl train`` and ``vla-rl demo``, and grouping them by label.

Only runs in the same world can be compared. Runs that differ only in their seed share a label.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_rl.config import dotted
from vla_rl.results.evaluation import EvalResult
from vla_rl.results.metrics import FILE, outcome, outcomes_by_task, read_metrics

Numbers = NDArray[np.float64]

BEST = "best"  # folder of the policy that was best on validation starts
RECORD = "validation.json"  # file in it: that evaluation, with its iteration
ALL = "all"  # in a world: every task of its suite
_NOT_SETTINGS = {"seed", "out", "resume", "algorithm", "world.suite", "world.tasks"}
_NOT_SETTINGS |= {"history"}  # see _settings
_NOT_SETTINGS |= {"world.max_steps"}  # like suite and tasks: must not differ
_NOT_SETTINGS |= {"train.eval_every", "train.eval_episodes"}  # do not affect training
_INPUTS = ("policy", "demos")  # paths, which may differ between seeds
_TIME = "time/"


@dataclass(frozen=True)
class FinishedRun:
    """One run of ``vla-rl train`` or ``vla-rl demo``.

    Attributes:
        folder: Where it is.
        algorithm: Name of the algorithm.
        seed: Seed of the run.
        suite: Name of the suite.
        horizons: Environment steps by task id, None for the suite's own; the only key may be
            ``all``.
        settings: All other settings by dotted name, as in ``config.json``.
        inputs: Paths that training started from (``policy``, ``demos``), if any.
        env_steps: ``[iterations]``, environment steps taken so far after each iteration.
        success: By task id ``[iterations]`` in [0, 1], NaN where the task was not played; of a
            sequence, the completed share.
        seconds: Wall time of all iterations by part; ``total`` is one of them.
        evaluation: Evaluation on held-out starts after training, if there was one.
    """

    folder: Path
    algorithm: str
    seed: int
    suite: str
    horizons: dict[str, Any]
    settings: dict[str, Any]
    inputs: dict[str, str]
    env_steps: Numbers
    success: dict[str, Numbers]
    seconds: dict[str, float]
    evaluation: EvalResult | None


def read_run(folder: Path) -> FinishedRun:
    """Read a run folder.

    Raises:
        ValueError: If it is not a run folder or has no iteration of training; says what to do.
    """
    config = _read_config(folder)
    again = f"`vla-rl {config.get('command', 'train')} --resume --out {folder}`"
    if not (folder / FILE).is_file():
        raise ValueError(f"{folder} has no {FILE}; start it with {again}, or leave it out")
    rows = [r for r in read_metrics(folder / FILE) if r.get("train/env_steps") is not None]
    if not rows:
        raise ValueError(
            f"{folder / FILE} has no iteration of training; continue with {again}, or leave it out"
        )
    outcomes = [outcomes_by_task(row) for row in rows]
    tasks = sorted({task for by_task in outcomes for task in by_task})
    parts = dict.fromkeys(n.removeprefix(_TIME) for r in rows for n in r if n.startswith(_TIME))
    inputs = {name: config[name] for name in _INPUTS if isinstance(config.get(name), str)}
    found = _settings(config)
    skipped = _NOT_SETTINGS | {
        name for name in _INPUTS if name in inputs or found.get(name) is None
    }
    return FinishedRun(
        folder=folder,
        algorithm=config["algorithm"],
        seed=config["seed"],
        suite=config["world"]["suite"],
        horizons=_horizons(config["world"]),
        settings={name: value for name, value in found.items() if name not in skipped},
        inputs=inputs,
        env_steps=_column(rows, "train/env_steps"),
        success={task: _column(outcomes, task) for task in tasks},
        seconds={part: float(np.nansum(_column(rows, _TIME + part))) for part in parts},
        evaluation=_read_evaluation(folder / "eval_after.json"),
    )


def _read_config(folder: Path) -> dict[str, Any]:
    wanted = "give folders that `vla-rl train` or `vla-rl demo` wrote"
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} is not a run folder, config.json is missing; {wanted}")
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); {wanted}") from error
    lacking = [n for n in ("algorithm", "seed", "world") if n not in config]
    if lacking:
        raise ValueError(f"{path} has no {', '.join(lacking)}: no run of RL; {wanted}")
    return config


def _read_evaluation(path: Path) -> EvalResult | None:
    try:
        return EvalResult.from_json(path.read_text()) if path.is_file() else None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> Numbers:
    return np.array([row.get(name) for row in rows], float)  # None becomes NaN


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted name; of changed learner settings, with their earlier values.

    A run that was extended counts like one that had the longer budget from the start.
    """
    settings = dict(dotted(config))
    for entry in reversed(config.get("history", [])):
        for name, (old, _) in entry["changed"].items():
            if name.startswith("learner."):
                settings[name] = f"{old}, then {settings[name]}"
    return settings


def _horizons(world: Mapping[str, Any]) -> dict[str, Any]:
    tasks, steps = world["tasks"], world["max_steps"]
    if steps is None or len(steps) == 1:
        return dict.fromkeys(tasks, None if steps is None else steps[0])
    return dict(zip(tasks, steps, strict=True)) if len(tasks) == len(steps) else {ALL: steps}


def group(runs: Sequence[FinishedRun]) -> dict[str, list[FinishedRun]]:
    """Group runs by label: the algorithm, and all settings that differ between its runs.

    Warns about runs that start from different policies or demonstrations.

    Raises:
        ValueError: If two runs have the same label and seed, or if suite, tasks, horizons or the
            protocol of the held-out evaluation differ.
    """
    if not runs:
        raise ValueError("no run was named")
    _check_worlds(runs)
    for name in _INPUTS:
        if len(paths := {run.inputs[name] for run in runs if name in run.inputs}) > 1:
            warnings.warn(f"the runs start from different {name}: {sorted(paths)}", stacklevel=2)
    groups: dict[str, list[FinishedRun]] = {}
    for run in runs:
        label = _label(run, [other for other in runs if other.algorithm == run.algorithm])
        for other in groups.setdefault(label, []):
            if other.seed == run.seed:
                raise ValueError(
                    f"{other.folder} and {run.folder} are both {label!r} with seed {run.seed}; "
                    "leave one out, or train it with another --seed"
                )
        groups[label].append(run)
    return groups


def _check_worlds(runs: Sequence[FinishedRun]) -> None:
    facts = [
        (run.folder, {"suites": run.suite, "tasks": sorted(run.horizons), "horizons": run.horizons})
        for run in runs
    ]
    evaluated = [(r.folder, {"protocols": r.evaluation.protocol_id}) for r in runs if r.evaluation]
    for world in (facts, evaluated):
        for folder, found in world:
            first, wanted = world[0]
            for name in found:
                if found[name] != wanted[name]:
                    raise ValueError(
                        f"runs of different {name} cannot be compared: {wanted[name]} in {first}, "
                        f"{found[name]} in {folder}"
                    )


def _label(run: FinishedRun, peers: Sequence[FinishedRun]) -> str:
    names = list(dict.fromkeys(name for peer in peers for name in peer.settings))
    if _differs("command", peers):  # settings of only one command are covered by its name
        names = [name for name in names if all(name in peer.settings for peer in peers)]
    shown = (
        f"{name.removeprefix('algo.')}={_shown(run.settings.get(name, 'unset'))}"
        for name in names
        if _differs(name, peers)
    )
    return " ".join([run.algorithm, *shown])


def _differs(name: str, runs: Sequence[FinishedRun]) -> bool:
    return len({json.dumps(run.settings.get(name, "unset")) for run in runs}) > 1


def _shown(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def kept_policies(folder: Path) -> dict[str, str]:
    """Descriptions of a run's last and best policy with their validation success, by folder name.

    Empty for a run without validation, or a folder that is not a run.
    """
    path = folder / FILE
    rows = read_metrics(path) if path.is_file() else []
    evaluated = [row for row in rows if outcome(row, "validation") is not None]
    if not evaluated or not (folder / BEST / RECORD).is_file():
        return {}
    best = json.loads((folder / BEST / RECORD).read_text())
    last, newest = evaluated[-1], max(row["step"] for row in rows if "train/env_steps" in row)
    told = f"{outcome(last, 'validation'):.1%} on validation starts"
    if last["step"] < newest:
        told += f" after iteration {last['step']}, not evaluated since"
    return {
        "policy": f"the last one, after iteration {newest}: {told}",
        BEST: f"the best one, after iteration {best['iteration']}: {best['mean']:.1%} on "
        "validation starts, by which it was chosen; `vla-rl eval` measures it on others",
    }
