"""One evaluation at a generous horizon says what shorter ones would have found."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from tests.helpers import WORLD, make_policy
from vla_rl import cli, plugins
from vla_rl.envs import point_reach
from vla_rl.envs._kitchen.simulator import Settings
from vla_rl.evaluate import EvalConfig, evaluate, shorter_horizons, with_protocol
from vla_rl.policies import tiny
from vla_rl.results.evaluation import EvalResult, TaskResult, horizon_text, paired_horizons
from vla_rl.results.page import PageContent, summary_page
from vla_rl.results.protocol_id import ProtocolId
from vla_rl.rollout.collector import Rollout
from vla_rl.rollout.local_collector import LocalCollector
from vla_rl.rollout.play import LocalSimulation, play
from vla_rl.rollout.slots import SlotPool
from vla_rl.stages import run
from vla_rl.stages.report import within_training
from vla_rl.stages.tables import show_comparison, show_evaluation
from vla_rl.types import Timing
from vla_rl.world import World

ID = "custom:toys:4x{}steps:image_size=64:{}tasks-abcd"


def toys(horizon: str = "50", **steps: str) -> EvalResult:
    """Lengths of episodes by task; those with a plus were solved."""
    tasks = {
        task: TaskResult(
            seeds=tuple(range(len(words.split()))),
            success=tuple(word.endswith("+") for word in words.split()),
            steps=tuple(int(word.strip("+")) for word in words.split()),
        )
        for task, words in steps.items()
    }
    longest = max(map(int, horizon.split("+")))
    return EvalResult(ID.format(horizon, len(tasks)), "toys", longest, {}, "none", tasks)


class Here(LocalCollector):
    """Plays in this process, as no worker has to start."""

    def __init__(self) -> None:
        self._simulation = LocalSimulation(SlotPool("point_reach", point_reach.Settings()))

    def collect(self, policy, specs, keys, settings, on_episode=None) -> Rollout:  # type: ignore[override]
        played = play(policy, self._simulation, specs, keys, settings, Timing())
        return Rollout(played, {})


@pytest.mark.parametrize("horizons", [(8,), (9, 5, 7)])
def test_it_equals_an_evaluation_at_the_shorter_horizon(horizons):
    policy = wandering()
    with_time = evaluate_(policy, WORLD, EvalConfig(episodes_per_task=40))
    short = dataclasses.replace(WORLD, max_steps=horizons)
    found = evaluate_(policy, short, EvalConfig(episodes_per_task=40))
    assert (
        with_time.within(short.resolve().horizons) == found
    )  # outcomes, lengths, protocol id and horizon
    assert 0 < found.mean.value < with_time.mean.value, "the test needs late successes"


def wandering() -> tiny.Policy:
    """Moves about, and so comes to some of the dots early and to some late."""
    policy = make_policy()
    for parameter in policy.head.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
    return policy


def evaluate_(policy, world: World, config: EvalConfig) -> EvalResult:
    result, _ = evaluate(Here(), policy, world.resolve(), config, lambda task, share: None)
    return result


def test_a_generous_evaluation_tells_success_within_the_horizon_of_training():
    training = dataclasses.replace(WORLD, max_steps=(5, 12, 20))
    config = EvalConfig(episodes_per_task=10, max_steps=20, also_within=(7,))
    result = evaluate_(make_policy(), training, config)
    assert result.also_within == (
        {"red": 5, "green": 12, "blue": 20},
        {"red": 7, "green": 7, "blue": 7},
    )
    assert [each.horizon for each in result.each_horizon()] == [20, 7, 20]
    own = evaluate_(make_policy(), training, EvalConfig(episodes_per_task=10))
    assert own.also_within == ()
    assert within_training(result, training.resolve()) == own
    assert EvalResult.from_json(result.to_json()) == result
    assert [horizon_text(each) for each in result.each_horizon()] == [
        "within 5/12/20 steps",
        "within 7 steps",
        "within 20 steps",
    ]


def test_by_hand():
    result = toys("50+40", push="12+ 30+ 50 50+", reach="40 8+ 39+ 21")
    short = result.within({"push": 30, "reach": 20})
    assert short.tasks["push"].success == (True, True, False, False)
    assert short.tasks["push"].steps == (12, 30, 30, 30)
    assert short.tasks["reach"].success == (False, True, False, False)
    assert short.tasks["reach"].steps == (20, 8, 20, 20)
    assert short.protocol_id == ID.format("30+20", 2)
    assert short.horizon == 30
    assert result.within(12).protocol_id == ID.format("12", 2)
    assert result.tasks["push"].median_steps == 30  # of 12, 30 and 50
    assert result.tasks["reach"].median_steps == 23.5
    assert result.median_steps == pytest.approx(26.75)
    assert toys(push="50 50").median_steps is None


def test_what_cannot_be_known_is_refused():
    result = toys("50+40", push="12+ 50", reach="40 8+")
    for steps in (0, 41):
        with pytest.raises(ValueError, match=rf"within {steps} steps is not known.*give 1 to"):
            result.within({"push": 20, "reach": steps})
    with pytest.raises(ValueError, match=r"each of \['push', 'reach'\], got \['push'\]"):
        result.within({"push": 20})
    lasting = dataclasses.replace(result, settings={"success_ends": False})
    with pytest.raises(ValueError, match="does not end an episode"):
        lasting.within(20)
    assert lasting.within(lasting.horizons) == lasting
    with pytest.raises(ValueError, match="does not say its horizon"):
        dataclasses.replace(result, protocol_id="custom:toys").within(20)
    parts = TaskResult((0, 1), (True, False), (20, 30), ("a", "b"), (("a", "b"), ("a",)))
    assert parts.within(30) == parts
    with pytest.raises(ValueError, match="its parts were completed are not kept"):
        parts.within(25)


def test_a_named_protocol_at_another_horizon_is_no_longer_it():
    said = "metaworld-official:gym:a/B-v0:50x500steps:kwargs=x=1steps:1tasks-ab"
    parts = ProtocolId.of(said, "gym:a/B-v0")
    assert (parts.name, parts.episodes, parts.horizons) == ("metaworld-official", 50, (500,))
    assert str(parts) == said
    assert str(parts.with_horizons([500])) == said
    assert str(parts.with_horizons([100])) == said.replace("metaworld-official", "custom").replace(
        "x500steps", "x100steps"
    )


def test_protocols_and_horizons_that_do_not_go_together():
    world = World("metaworld", ("push-v3", "reach-v3"), (100, 90))
    official = EvalConfig(protocol="metaworld-official")
    assert shorter_horizons(world.resolve(), official) == ({"push-v3": 100, "reach-v3": 90},)
    with pytest.raises(ValueError, match="metaworld-official sets the horizon"):
        EvalConfig(protocol="metaworld-official", max_steps=200)
    with pytest.raises(ValueError, match="600 is longer than the 500 steps that push-v3"):
        with_protocol(world.resolve(), EvalConfig(max_steps=600))
    with pytest.raises(ValueError, match="95 is longer than the evaluation, which ends after 90"):
        with_protocol(world.resolve(), EvalConfig(also_within=(95,)))
    for bad in ({"max_steps": -1}, {"also_within": (0,)}):
        with pytest.raises(ValueError, match=r"eval\.(max_steps|also_within) must be"):
            EvalConfig(**bad)


def test_where_success_does_not_end_an_episode_only_one_horizon_is_told():
    cheetah = plugins.load("envs", "gym:HalfCheetah-v5")
    settings = cheetah.Settings(image=("none",), success="return>=100", success_ends=False)
    world = World("gym:HalfCheetah-v5", ("HalfCheetah-v5",), (200,), settings)
    assert shorter_horizons(world.resolve(), EvalConfig(max_steps=400)) == ()
    with pytest.raises(ValueError, match="does not end an episode of this suite"):
        with_protocol(world.resolve(), EvalConfig(also_within=(100,)))
    sequence = World("franka_kitchen", ("kitchen-burners",), (100,), Settings())
    assert shorter_horizons(sequence.resolve(), EvalConfig(max_steps=200)) == ()
    with pytest.raises(ValueError, match="parts of kitchen-burners are completed are not kept"):
        with_protocol(sequence.resolve(), EvalConfig(also_within=(50,)))


def pair() -> tuple[EvalResult, EvalResult]:
    """Within 20 steps 1 of 4 and then 3; with time 3 and then 3."""
    before = toys(push="12+ 30+ 40+ 50")
    after = toys(push="10+ 15+ 17+ 50")
    return before, dataclasses.replace(after, also_within=({"push": 20},))


def test_both_horizons_are_printed(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    before, after = pair()
    assert [(w.mean.value, n.mean.value) for w, n in paired_horizons(before, after)] == [
        (0.25, 0.75),
        (0.75, 0.75),
    ]
    show_comparison(before, after)
    shown = " ".join(capsys.readouterr().out.split())
    assert "within 20 steps" in shown
    assert "within 50 steps" in shown
    assert "+50.0%" in shown
    assert "+0.0%" in shown
    assert "30 → 15" in shown
    show_evaluation(after)
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.index("within 20 steps") < shown.index("within 50 steps")
    assert shown.count("75.0%") == 4  # of the task and on the mean, at both horizons


def test_the_page_shows_both_side_by_side(tmp_path):
    summary = PageContent("toys", {}, *pair(), {}, {}, {})
    summary_page(summary, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<b>25 % → 75 %</b> mean success on the task within 20 steps" in page
    assert "<b>75 % → 75 %</b> mean success on the task within 50 steps" in page
    row = page[page.index("<td>push") :].split("</tr>")[0]
    assert [row.count(text) for text in ("25 %", "75 %", "+50 points", "30 → 15")] == [1, 3, 1, 1]


def test_eval_writes_the_shorter_horizons_beside(tmp_path, capsys):
    policy = tmp_path / "policy"
    run.save_policy(make_policy(), dataclasses.replace(WORLD, max_steps=(8,)).resolve(), policy)
    words = ["eval", "--policy", str(policy), "--eval.episodes-per-task", "6"]
    generous = ["--eval.max-steps", "20", "--eval.also-within", "12"]
    assert cli.main([*words, *generous, "--rollout.workers", "1"]) == 0
    whole, at_8, at_12 = (
        EvalResult.from_json((tmp_path / f"eval_custom{end}.json").read_text())
        for end in ("", "_within_8", "_within_12")
    )
    assert [result.horizon for result in (whole, at_8, at_12)] == [20, 8, 12]
    assert whole.within(8) == at_8
    assert whole.within(12) == at_12
    assert json.loads((tmp_path / "eval_custom.json").read_text())["also_within"][0]["red"] == 8
    capsys.readouterr()
    assert cli.main([*words, "--eval.max-steps", "21"]) == 2
    assert "longer than the 20 steps" in capsys.readouterr().err
