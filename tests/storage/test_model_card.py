"""The card of a policy: its evaluation with intervals, and how it was trained."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from tests.helpers import WORLD, make_policy
from tests.storage.helpers import RED, REPO, card_of, evaluation, four, push
from vla_rl.results.evaluation import TaskResult
from vla_rl.stages.run import save_policy
from vla_rl.storage import model_card
from vla_rl.types import seed_for


def test_every_policy_is_saved_with_a_card(tmp_path):
    make_policy().save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "vla-rl"
    assert card.data.pipeline_tag == "robotics"
    assert "- go to the red dot\n- go to the green dot" in card.text
    with pytest.raises(ValueError, match="a policy writes its own config.json"):
        make_policy().save_pretrained(tmp_path, config={"a": 1})  # type: ignore[arg-type]


def test_the_card_indexes_success_with_its_interval(played, run):
    push(run, "--repo", REPO, "--license", "apache-2.0")
    card = card_of(played)
    assert card.data.tags == ["vla-rl", "robotics", "reinforcement-learning", "point_reach"]
    assert (card.data.library_name, card.data.license) == ("vla-rl", "apache-2.0")
    (index,) = card.data.to_dict()["model-index"]
    assert index["name"] == "points"
    red, green, mean = index["results"]
    assert red["task"] == {"type": "robotics", "name": "red"}
    assert red["dataset"] == {
        "type": "point_reach",
        "name": "point_reach: red",
        "config": "red",
    }
    (metric,) = red["metrics"]
    assert (metric["type"], metric["value"]) == ("success_rate", 0.75)
    assert metric["args"] == {
        # Wilson, z^2 = 3.8415: (3 + 1.9207 -+ 1.96 sqrt(3 / 4 + 0.9604)) / 7.8415
        "confidence_interval_95": [0.3006, 0.9544],
        "episodes": 4,
        "seeds": "70 to 73",
        "protocol": "custom:point_reach:4x20steps",
        "card_written_by": f"vla-rl {model_card.version()}",
    }
    assert green["metrics"][0]["args"]["confidence_interval_95"] == [0.0, 0.4899]
    # (0.75 + 0) / 2; -0.4494 / 2, and +sqrt(0.2044^2 + 0.4899^2) / 2
    assert mean["metrics"][0]["value"] == 0.375
    assert mean["metrics"][0]["args"]["confidence_interval_95"] == [0.1503, 0.6404]
    assert mean["metrics"][0]["args"]["episodes"] == 8
    assert "| red | 75.0% | 30.1% to 95.4% | 4 | 70 to 73 |" in card.text
    assert "| mean success over 2 tasks | 37.5% | 15.0% to 64.0% |" in card.text


def test_the_card_says_how_it_was_trained_and_no_path(played, run):
    push(run, "--repo", REPO)
    text = card_of(played).text
    for row in (
        "| command | train |",
        "| algorithm | loop |",
        "| algo.group_size | 8 |",
        "| seed | 3 |",
        "| environment steps of reinforcement learning | 1,280 |",
        "| chunk | 3 |",
        "| head.std | 0.4 |",
    ):
        assert row in text
    assert "anchor" not in text, "its coefficient is 0"
    assert "secret" not in text
    assert "Suite `point_reach`, tasks red, green, blue, at most 20 steps." in text


def test_the_code_of_the_card_works(played, run, capsys):
    push(run, "--repo", REPO)
    (code,) = re.findall(r"```python\n(.*?)```", card_of(played).text, re.DOTALL)
    capsys.readouterr()
    exec(code, {})
    assert "go to the red dot" in capsys.readouterr().out


def test_a_sequence_is_told_by_its_completed_share(played, run):
    task = TaskResult(
        seeds=(3, 9),
        success=(True, False),
        steps=(9, 20),
        subgoals=("kettle", "lamp"),
        completed=(("kettle", "lamp"), ("lamp",)),
    )
    (run / "eval_custom.json").write_text(evaluation(both=task).to_json())
    push(run, "--repo", REPO)
    (result,) = card_of(played).data.to_dict()["model-index"][0]["results"]
    found = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert found == {"completed_share": 0.75, "success_rate": 0.5}
    assert result["metrics"][0]["args"]["seeds"] == "3, 9"
    assert "| both: lamp | 100.0% |" in card_of(played).text
    assert "mean" not in str(found), "one task is its own mean"


def no_evaluation(card: ModelCard) -> bool:
    assert "model-index" not in card.data.to_dict()
    return "There is no evaluation of this policy" in card.text


def test_without_an_evaluation_there_is_none(played, run, capsys):
    (run / "eval_custom.json").unlink()
    push(run, "--repo", REPO)
    assert no_evaluation(card_of(played))
    assert "card: no evaluation" in capsys.readouterr().out


def test_the_evaluation_of_older_weights_is_left_out(played, run, capsys):
    late = (run / "eval_custom.json").stat().st_mtime + 10
    os.utime(run / "policy" / "model.safetensors", (late, late))
    push(run, "--repo", REPO)
    assert no_evaluation(card_of(played))
    assert "eval_custom.json is left out: it is older than" in capsys.readouterr().out
    push(run, "--repo", REPO, "--evaluations", run / "eval_custom.json")  # the user answers for it
    assert "There is no evaluation" not in card_of(played).text


def test_evaluations_that_could_be_of_another_policy_are_left_out(played, run, capsys):
    shutil.copytree(run / "policy", run / "older")
    push(run, "--repo", REPO)
    assert no_evaluation(card_of(played))
    assert "2 policies are there" in capsys.readouterr().out


def test_the_best_policy_of_a_run_has_evaluations_of_its_own(played, run):
    best = {"iteration": 1, **json.loads(evaluation(red=RED).to_json())}
    save_policy(make_policy(), WORLD.resolve(), run / "best", best)
    (run / "eval_custom_best.json").write_text(evaluation(red=four(*[True] * 4)).to_json())
    for folder, steps, rates in ((run, "1,280", [0.75, 0.0, 0.375]), (run / "best", "640", [1.0])):
        push(folder, "--repo", REPO)
        card = card_of(played)
        (index,) = card.data.to_dict()["model-index"]
        assert [result["metrics"][0]["value"] for result in index["results"]] == rates
        assert f"| environment steps of reinforcement learning | {steps} |" in card.text
        assert "validation" not in card.text
    assert "validation.json" not in played.files()
    (run / "eval_custom_best.json").unlink()
    push(run / "best", "--repo", REPO)
    assert no_evaluation(card_of(played))


def test_a_card_says_that_validation_starts_were_for_choosing(played, run):
    seeds = tuple(seed_for("validation", i) for i in range(4))
    chosen = replace(RED, seeds=seeds)
    (run / "validation_custom.json").write_text(evaluation(red=chosen).to_json())
    push(run, "--repo", REPO)
    assert "validation" not in card_of(played).text
    push(run, "--repo", REPO, "--evaluations", run / "validation_custom.json")
    assert "These are validation starts" in card_of(played).text


def test_the_clone_of_a_demo_is_not_what_was_trained(played, run):
    (run / "eval_custom.json").rename(run / "eval_before.json")
    (run / "eval_after.json").write_text(evaluation(red=RED).to_json())
    push(run, "--repo", REPO)
    (index,) = card_of(played).data.to_dict()["model-index"]
    assert [result["task"]["name"] for result in index["results"]] == ["red"]
    shutil.copytree(run / "policy", run / "sft" / "policy")
    push(run / "sft" / "policy", "--repo", REPO)
    assert no_evaluation(card_of(played))
    assert "How it was trained was not recorded" in card_of(played).text
