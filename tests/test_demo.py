"""The main job, end to end on real simulation, cut short."""

from __future__ import annotations

import json
import math

import imageio.v2 as imageio
import minari
import pytest

from vla_rl import cli
from vla_rl.policy import load_policy
from vla_rl.results.evaluation import EvalResult
from vla_rl.results.metrics import read_metrics

SHORT = [
    *("--sft.steps", "60", "--train.iterations", "2", "--train.minutes", "0"),
    *("--train.episodes-per-iteration", "12", "--algo.group-size", "4"),
    *("--train.eval-every", "1", "--train.eval-episodes", "2"),
    *("--eval.episodes-per-task", "4", "--eval.max-steps", "160"),
]
DEMOS = 20  # the starts, of 21, that the experts solve


@pytest.mark.sim
def test_the_main_job_leaves_everything_it_promises(tmp_path, capsys):
    out = tmp_path / "demo"
    assert cli.main(["demo", "--out", str(out), *SHORT]) == 0
    before, after = (
        EvalResult.from_json((out / f"eval_{when}.json").read_text())
        for when in ("before", "after")
    )
    assert before.protocol_id == after.protocol_id
    assert before.horizon == 160
    assert [list(each.horizons.values()) for each in after.each_horizon()] == [
        [150, 100, 100],
        [160] * 3,
    ]
    assert set(before.tasks) == {"drawer-open-v3", "push-v3", "sweep-into-v3"}
    assert before.renderer.split(":")[0] in ("egl", "osmesa")
    rows = read_metrics(out / "metrics.jsonl")
    assert [row["step"] for row in rows if "train/success" in row] == [1, 2]
    assert all(math.isfinite(row["sft/loss"]) for row in rows if "sft/loss" in row)
    assert all(row["validation/steps"] > 0 for row in rows if "train/success" in row)
    policy = load_policy(out / "policy")
    assert load_policy(out / "best").text_memory.keys() == policy.text_memory.keys()
    assert len(policy.text_memory) == 3
    assert minari.MinariDataset(out / "demos").total_episodes == DEMOS
    assert len(list(imageio.get_reader(out / "before_after.mp4").iter_data())) > 20
    assert (out / "learning_curve.png").stat().st_size > 10_000
    page = (out / "summary.html").read_text()
    assert "data:video/mp4" in page
    assert "3 tasks within 150/100/100 steps" in page
    assert "3 tasks within 160 steps" in page
    assert "--eval.protocol metaworld-official" in page
    assert "metaworld-vla" not in page  # it asks for another camera
    assert "the best one, after iteration" in page
    assert f"vla-rl eval --policy {out}/best" in page
    assert json.loads((out / "config.json").read_text())["algorithm"] == "dapo"
    shown = " ".join(capsys.readouterr().out.split())
    assert "summary.html" in shown
    assert "within 150/100/100 steps" in shown

    # Again with --resume: finished stages are kept, training has nothing left to do.
    assert cli.main(["demo", "--out", str(out), "--resume"]) == 0
    assert minari.MinariDataset(out / "demos").total_episodes == DEMOS
    # And without it, the folder is not overwritten.
    assert cli.main(["demo", "--out", str(out), *SHORT]) == 2
    assert "already holds a run" in capsys.readouterr().err
