"""Evaluations during training: the rule by hand, and that they change nothing in training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.numpy import load_file

from tests.helpers import fit, make_policy
from vla_rl import cli
from vla_rl.demos.chunks import ChunkDataset
from vla_rl.envs import point_reach
from vla_rl.evaluate import EvalConfig, evaluate
from vla_rl.learning.distributed import ALONE
from vla_rl.policy import load_policy
from vla_rl.results.evaluation import EvalResult, TaskResult
from vla_rl.results.metrics import read_metrics
from vla_rl.results.run_folders import kept_policies
from vla_rl.rollout.collector import RolloutConfig
from vla_rl.rollout.local_collector import LocalCollector
from vla_rl.rollout.slots import SlotPool
from vla_rl.sft import SFTConfig
from vla_rl.stages import train as stages_train
from vla_rl.stages.run import save_policy
from vla_rl.stages.train import save_checkpoint
from vla_rl.stages.validation import Validation
from vla_rl.train_config import TrainConfig
from vla_rl.world import World

# ------------------------------------------------------------------------------------ by hand


def result(*solved: int, protocol: str = "custom:toys:validation") -> EvalResult:
    """Ten starts of each task, of which the first were solved in 5 steps, the others not in 20."""
    tasks = {
        f"task {i}": TaskResult(
            tuple(range(10)), tuple(n < count for n in range(10)),
            tuple(5 if n < count else 20 for n in range(10)),
        )
        for i, count in enumerate(solved)
    }  # fmt: skip
    return EvalResult(protocol, "toys", 20, {}, "none", tasks)


def validation(*results: EvalResult, **config: Any) -> Validation:
    """One whose evaluations give these results, one after the other."""
    given = iter(results)
    return Validation(TrainConfig(**{"eval_every": 1, **config}), lambda: next(given))


def test_the_best_is_the_first_of_the_highest_and_patience_counts_from_it():
    rule = validation(early_stop=2)
    told = []
    for iteration, solved in enumerate((2, 5, 4, 6, 6, 1), start=1):
        is_best = rule.take(result(solved), iteration)
        told.append((is_best, rule.best["iteration"], rule.without_better, rule.gives_up))
    assert told == [
        (True, 1, 0, False),
        (True, 2, 0, False),
        (False, 2, 1, False),
        (True, 4, 0, False),
        (False, 4, 1, False),  # a tie keeps the earlier one
        (False, 4, 2, True),
    ]
    assert rule.best["mean"] == 0.6
    assert rule.last == 0.1
    assert rule.text == "validation 0.10, best 0.60"
    assert EvalResult.from_json(json.dumps(rule.best)) == result(6)


def test_without_early_stop_it_never_gives_up():
    rule = validation()
    for iteration in range(1, 50):
        rule.take(result(5), iteration)
    assert rule.without_better == 48
    assert not rule.gives_up


def test_the_mean_over_tasks_decides_and_its_rounding_does_not():
    rule = validation()
    assert sum([0.1, 0.2, 0.3]) / 3 > sum([0.3, 0.2, 0.1]) / 3  # the same successes
    rule.take(result(3, 2, 1), 1)
    assert not rule.take(result(1, 2, 3), 2)
    assert rule.take(result(0, 0, 7), 3)


def test_results_of_other_starts_are_not_compared():
    rule = validation()
    rule.take(result(9), 1)
    assert rule.take(result(2, protocol="custom:toys of 30 steps:validation"), 2)
    assert rule.best["iteration"] == 2


def test_the_state_survives_json():
    rule = validation(early_stop=3)
    for iteration, solved in enumerate((4, 3, 3), start=1):
        rule.take(result(solved), iteration)
    other = validation(early_stop=3)
    other.load_state_dict(json.loads(json.dumps(rule.state_dict())))
    assert (other.best, other.last, other.without_better) == (rule.best, rule.last, 2)
    assert not other.take(result(4), 4)
    assert other.gives_up


def test_it_is_due_every_few_iterations_and_after_the_last():
    config = {"iterations": 5, "eval_every": 2}
    rule = validation(result(1, 3), result(2, 2), result(5, 1), **config)
    loop = SimpleNamespace(
        **{"iteration": 0, "env_steps": 0, "seconds": 0.0, "config": rule.config},
        learner=SimpleNamespace(ranks=ALONE),
    )
    seen = {}
    for loop.iteration in range(1, 6):
        metrics = {"time/total": 1.0}
        if rule.after_iteration(loop, metrics) or len(metrics) > 1:
            seen[loop.iteration] = metrics
    assert list(seen) == [2, 4, 5]
    spent = [metrics.pop("time/validation") for metrics in seen.values()]
    assert loop.seconds > 0
    assert loop.seconds == pytest.approx(sum(spent))
    assert seen[5] == {
        "time/total": 1.0 + spent[-1],
        "validation/success/task 0": 0.5,
        "validation/success/task 1": 0.1,
        "validation/success": pytest.approx(0.3),
        "validation/steps": pytest.approx((6 * 5 + 14 * 20) / 20),
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"eval_every": -1}, "eval_every must not be negative, got -1"),
        ({"eval_episodes": 0}, "eval_episodes must be at least 1, got 0"),
        ({"early_stop": 3}, "early_stop 3 needs evaluations.*--train.eval-every"),
    ],
)
def test_bad_settings_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**given)


# ----------------------------------------------------------------------------------- real runs

RED = World("point_reach", ("red",), max_steps=(20,))
EPISODES = 24


def vla_rl(*words: object) -> int:
    return cli.main([str(word) for word in words])


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A policy that solves some of the starts."""
    pool = SlotPool("point_reach", point_reach.Settings())
    policy = make_policy(chunk=2, std=0.2)
    data = ChunkDataset(
        [pool.record(spec) for spec in RED.resolve().specs("demo", 60)], policy.chunk
    )
    fit(policy, data, SFTConfig(steps=200, image_shift=0))
    folder = tmp_path_factory.mktemp("validation") / "policy"
    save_policy(policy, RED.resolve(), folder)
    return folder


def train(clone, out, *options: object) -> int:
    return vla_rl(
        *("train", "--policy", clone, "--out", out, "--rollout.workers", 1, "--learner.lr", 1e-3),
        *("--train.iterations", 6, "--train.checkpoint-every", 2, "--algorithm", "grpo"),
        *("--train.episodes-per-iteration", 48, "--curriculum", "uniform", *options),
    )


EVALUATED = ("--train.eval-every", 1, "--train.eval-episodes", EPISODES)


@pytest.fixture(scope="module")
def whole(clone, tmp_path_factory):
    """A run that was evaluated after every iteration."""
    out = tmp_path_factory.mktemp("validation") / "whole"
    assert train(clone, out, *EVALUATED) == 0
    return out


def weights(folder: Path) -> dict[str, bytes]:
    return {name: t.tobytes() for name, t in load_file(folder / "model.safetensors").items()}


def metrics(folder: Path, *left_out: str) -> list[dict[str, float]]:
    """Rows without what depends on the clock."""
    rows = read_metrics(folder / "metrics.jsonl")
    return [{k: v for k, v in r.items() if not k.startswith(("time", *left_out))} for r in rows]


def test_a_run_is_the_same_bit_for_bit_without_evaluations(clone, whole, tmp_path):
    assert train(clone, tmp_path / "plain") == 0
    assert weights(tmp_path / "plain" / "policy") == weights(whole / "policy")
    assert metrics(tmp_path / "plain") == metrics(whole, "validation")
    assert not (tmp_path / "plain" / "best").exists()
    assert kept_policies(tmp_path / "plain") == {}
    one, other = (
        load_file(out / "checkpoints" / "step_000006" / "tensors.safetensors")
        for out in (tmp_path / "plain", whole)
    )
    assert one.keys() == other.keys()
    assert all((one[name] == other[name]).all() for name in one)  # of the optimizer


def test_the_best_policy_is_the_best_that_was_evaluated(whole):
    rows = read_metrics(whole / "metrics.jsonl")
    found = {row["step"]: row["validation/success"] for row in rows}
    assert list(found) == [1, 2, 3, 4, 5, 6]
    assert len(set(found.values())) > 1
    best = json.loads((whole / "best" / "validation.json").read_text())
    assert best["mean"] == max(found.values())
    assert best["iteration"] == next(i for i in found if found[i] == best["mean"])
    policy = load_policy(whole / "best")
    policy.freeze({"vlm"})  # as it acted in training
    with LocalCollector(
        "point_reach", point_reach.Settings(), RolloutConfig(workers=1), "cpu"
    ) as c:
        config = EvalConfig(episodes_per_task=EPISODES, starts="validation")
        again, _ = evaluate(c, policy, RED.resolve(), config, renderer="none")
    assert again == EvalResult.from_json(json.dumps(best))
    told = kept_policies(whole)
    assert f"after iteration {best['iteration']}: {best['mean']:.1%}" in told["best"]
    assert f"after iteration 6: {found[6]:.1%}" in told["policy"]


class Killed(BaseException):
    """Ends a run where it is, as a kill does."""


def before_the_checkpoint(monkeypatch, iteration):
    """Kill when the checkpoint of an iteration would be written."""
    save = save_checkpoint

    def dying(run, loop, validation):
        if loop.iteration == iteration:
            raise Killed
        save(run, loop, validation)

    monkeypatch.setattr(stages_train, "save_checkpoint", dying)


def before_the_best_is_kept(monkeypatch, iteration):
    """Kill when the policy of an iteration would be written as the best."""
    save = save_policy

    def dying(policy, world, folder, validation=None):
        if validation is not None and validation["iteration"] == iteration:
            raise Killed
        save(policy, world, folder, validation)

    monkeypatch.setattr(stages_train, "save_policy", dying)


@pytest.mark.parametrize("kill", [before_the_checkpoint, before_the_best_is_kept])
def test_a_run_that_was_killed_right_after_an_evaluation_goes_on_exactly(
    kill, clone, whole, tmp_path
):
    best = json.loads((whole / "best" / "validation.json").read_text())["iteration"]
    assert best > 1, "nothing to lose"
    cut = tmp_path / "cut"
    with pytest.MonkeyPatch.context() as patch:
        kill(patch, best)
        with pytest.raises(Killed):
            train(clone, cut, *EVALUATED)
    earlier = json.loads((cut / "best" / "validation.json").read_text())
    assert earlier["iteration"] < best
    assert vla_rl("train", "--out", cut, "--resume") == 0
    for name in ("policy", "best"):
        assert weights(cut / name) == weights(whole / name)
    assert metrics(cut) == metrics(whole)
    told = [(out / "best" / "validation.json").read_text() for out in (cut, whole)]
    assert told[0] == told[1]


def test_a_run_ends_early_where_nothing_gets_better(clone, tmp_path, capsys):
    still = ("--learner.lr", 1e-12, "--train.iterations", 50)
    assert train(clone, tmp_path / "run", *EVALUATED, "--train.early-stop", 2, *still) == 0
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert len({row["validation/success"] for row in rows}) == 1
    assert "stopped early: 2 evaluations in a row" in capsys.readouterr().out
    assert "after iteration 1:" in kept_policies(tmp_path / "run")["best"]
    # It stays ended, until it is allowed to go on.
    assert vla_rl("train", "--out", tmp_path / "run", "--resume") == 0
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == 3
    on = ("--train.early-stop", 0, "--train.iterations", 4)
    assert vla_rl("train", "--out", tmp_path / "run", "--resume", *on) == 0
    assert [row["step"] for row in metrics(tmp_path / "run")] == [1, 2, 3, 4]


def test_commands_know_the_best_policy(whole, tmp_path, capsys):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    for path in (run, run / "best"):
        assert vla_rl("inspect", path) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in kept_policies(run).values():
        assert words in shown
    assert f"{EPISODES}x20steps" in shown
    few = ("--eval.episodes-per-task", 2, "--rollout.workers", 1)
    assert vla_rl("eval", "--policy", run / "best", *few) == 0
    assert vla_rl("eval", "--policy", run / "policy", "--eval.starts", "validation", *few) == 0
    assert (run / "eval_custom_best.json").is_file()
    assert (run / "validation_custom.json").is_file()
    assert vla_rl("compare", run / "eval_custom_best.json", run / "validation_custom.json") == 2
    assert "different protocols cannot be compared" in capsys.readouterr().err
