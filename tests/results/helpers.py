"""Run folders and finished runs of known numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vla_rl import cli
from vla_rl.results.evaluation import EvalResult, TaskResult
from vla_rl.results.run_folders import FinishedRun

TASKS = ("push", "throw")


def make_run(folder: Path, seed: int = 0, algorithm: str = "loop", **changes: Any) -> Path:
    """A run folder of ten iterations of 100 steps, in which success grows with the seed."""
    config: dict[str, Any] = {
        "command": "train",
        "policy": "runs/sft/policy",
        "out": str(folder),
        "resume": False,
        "world": {"suite": "toys", "tasks": list(TASKS), "max_steps": [50], "env": {"size": 8}},
        "algorithm": algorithm,
        "algo": {"group_size": 8, "kl_coef": 0.0},
        "demos": None,
        "learner": {"lr": 1e-4},
        "seed": seed,
    }
    for name, value in changes.items():
        *path, last = name.split("__")
        place = config
        for part in path:
            place = place[part]
        place[last] = value
    rows: list[dict[str, Any]] = [{"step": 10, "time": 0.0, "sft/loss": 0.5}]
    for i in range(1, 11):
        row = {"step": i, "time": 0.0, "train/env_steps": 100 * i}
        row |= {"train/success/push": i / 10, "train/success/throw": (i + seed) / 20}
        row |= {"time/physics": 6.0, "time/update": 3.0, "time/total": 10.0}
        rows.append(row)
    del rows[5]["train/success/throw"]  # that iteration did not play it
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def evaluated(folder: Path, solved: int, protocol: str = "custom:toys") -> Path:
    task = TaskResult(tuple(range(10)), tuple(i < solved for i in range(10)), (30 + solved,) * 10)
    result = EvalResult(protocol, "toys", 50, {}, "egl", dict.fromkeys(TASKS, task))
    (folder / "eval_after.json").write_text(result.to_json())
    return folder


def run_of(env_steps: list[float], **success: list[float]) -> FinishedRun:
    horizons: dict[str, Any] = dict.fromkeys(success, 50)
    curves = {task: np.array(values, float) for task, values in success.items()}
    inputs: dict[str, str] = {}
    return FinishedRun(
        *(Path("a"), "loop", 0, "toys", horizons, {}, inputs),
        *(np.array(env_steps, float), curves, {}, None),
    )


def compare(*words: object) -> int:
    return cli.main(["compare", *map(str, words)])


def spread(picture: Path) -> float:
    return float(np.asarray(Image.open(picture).convert("L"), float).std())
