"""The contract of every reward, and numbers by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest

from tests.helpers import make_policy, play_groups
from vla_rl import cli, plugins
from vla_rl.commands._parsing import naming_options
from vla_rl.episode_end import EpisodeEnd
from vla_rl.rewards import overlong, rewarded, sparse, speed, subgoals
from vla_rl.stages.setup import rewards_named
from vla_rl.storage import checkpoint

END = EpisodeEnd()


@pytest.fixture(scope="module")
def episodes():
    return [t for group in play_groups(make_policy(), 6, 4) for t in group]


@pytest.mark.parametrize("name", plugins.names("rewards"))
def test_contract(name, episodes):
    reward = plugins.load("rewards", name).Reward()
    for t in episodes:
        before = t.env_reward.copy(), t.reward.copy(), t.progress.copy()
        ((paid,),) = reward.score([[t]], END)
        assert paid.shape == (t.decisions,)
        assert paid.dtype == np.float32
        assert np.isfinite(paid).all()
        for old, new in zip(before, (t.env_reward, t.reward, t.progress), strict=True):
            np.testing.assert_array_equal(old, new)


def test_sparse_pays_once_at_success(episodes):
    for t in episodes:
        paid = sparse.Reward().of(t, END)
        assert paid.sum() == float(t.success)
        assert not paid[:-1].any()


def test_subgoals_pay_each_part_when_it_is_done(episodes):
    t = of_length(episodes[0], 4, success=False)
    task = replace(t.spec.task, subgoals=("kettle", "microwave", "light", "cabinet"))
    bits = np.array([0, 0b0100, 0b0100, 0b0111, 0b0111], np.int64)  # one, none, two at once, none
    sequence = replace(t, spec=replace(t.spec, task=task), completed=bits)
    np.testing.assert_allclose(subgoals.Reward().of(sequence, END), [0.25, 0, 0.5, 0])
    assert sequence.subgoals_done == ("kettle", "microwave", "light")
    assert sequence.share_done == 0.75


def test_subgoals_is_sparse_for_a_task_without_parts(episodes):
    for t in episodes:
        np.testing.assert_array_equal(subgoals.Reward().of(t, END), sparse.Reward().of(t, END))
        assert t.share_done == float(t.success)


def of_length(t, decisions, success):
    """Decisions of three steps that were all executed; the horizon is 30."""
    task = replace(t.spec.task, max_steps=30)
    return replace(
        t,
        spec=replace(t.spec, task=task),
        env_reward=np.zeros(decisions, np.float32),
        executed=np.ones((decisions, 3), bool),
        success=success,
        truncated=not success,
    )


# steps 24 of 30 and fewer cost nothing, then up to 1
@pytest.mark.parametrize(("decisions", "paid"), [(1, 0), (8, 0), (9, -0.5), (10, -1)])
def test_overlong_punishes_slow_successes(episodes, decisions, paid):
    found = overlong.Reward().of(of_length(episodes[0], decisions, success=True), END)
    assert found[-1] == pytest.approx(paid)
    assert not found[:-1].any()


def test_overlong_does_not_punish_failures(episodes):
    assert not overlong.Reward().of(of_length(episodes[0], 10, success=False), END).any()


def test_overlong_punishment_ends_at_the_limit():
    assert overlong.overlong_penalty(100, limit=30, cache=6) == -1


@pytest.mark.parametrize(("decisions", "paid"), [(1, 0.97), (5, 0.85), (10, 0.7)])
def test_speed_pays_more_for_an_earlier_success(episodes, decisions, paid):
    found = speed.Reward().of(of_length(episodes[0], decisions, success=True), END)
    assert found[-1] == pytest.approx(paid)
    assert not found[:-1].any()
    assert not speed.Reward().of(of_length(episodes[0], decisions, success=False), END).any()


def test_an_episode_that_ends_inside_a_chunk_is_as_long_as_what_was_executed(episodes):
    t = of_length(episodes[0], 9, success=True)
    t.executed[-1, 1:] = False  # 25 steps instead of 27
    assert overlong.Reward().of(t, END)[-1] == pytest.approx(-1 / 6)
    assert speed.Reward().of(t, END)[-1] == pytest.approx(1 - 0.3 * 25 / 30)


def test_overlong_punishes_nobody_where_success_does_not_end_an_episode(episodes):
    t = of_length(episodes[0], 10, success=True)
    assert not overlong.Reward().of(replace(t, truncated=True), END).any()


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("speed", {"share": 1.5}, r"speed share 1\.5 is outside the allowed range \[0, 1\]"),
        ("overlong", {"cache": 0.0}, r"overlong cache 0\.0 is outside the allowed range \(0, 1\]"),
    ],
)
def test_settings_out_of_range_are_refused(name, settings, said):
    with pytest.raises(ValueError, match=said):
        plugins.load("rewards", name).Reward(**settings)


def test_settings_change_what_is_paid(episodes):
    t = of_length(episodes[0], 5, success=True)
    assert speed.Reward(share=0.8).of(t, END)[-1] == pytest.approx(1 - 0.8 * 0.5)
    assert overlong.Reward(cache=1.0).of(t, END)[-1] == pytest.approx(-0.5)


def test_numbers_of_another_length_are_refused(episodes):
    @dataclass(frozen=True)
    class TooMany(sparse.Reward):
        def of(self, trajectory, end):
            return np.zeros(trajectory.decisions + 1, np.float32)

    with pytest.raises(ValueError, match="reward 'mine' gave numbers of shape"):
        rewarded([episodes[:1]], {"mine": TooMany()}, END)


@pytest.mark.parametrize("keep", [False, True])
def test_the_last_observation_is_kept_only_if_asked_for(keep):
    for group in play_groups(make_policy(), 3, 4, final_obs=keep):
        for t in group:
            assert (t.final_obs is not None) == keep
            if keep:
                assert t.final_obs.images.shape == t.obs.images.shape[1:]
                assert not np.array_equal(t.final_obs.state, t.obs.state[-1])


LEARNED = "tests.user_code.learned_reward"


def test_a_reward_that_looks_at_images_gets_them_also_from_a_frozen_backbone(tmp_path):
    """With options by its short name, several rewards in a run, and state that is resumed."""
    words = [
        *("train", "--env", "point_reach", "--tasks", "red", "--network", "tiny"),
        *("--rewards", "sparse", LEARNED, "--reward.learned-reward.scale", "0.5"),
        *("--reward.sparse.weight", "2", "--learner.train-vlm", "False", "--rollout.workers", "1"),
        *(
            "--train.episodes-per-iteration",
            "8",
            "--algo.group-size",
            "4",
            "--train.max-tries",
            "1",
        ),
        *("--train.checkpoint-every", "1", "--curriculum", "uniform"),
        *("--out", str(tmp_path / "run")),
    ]
    assert cli.main([*words, "--train.iterations", "1"]) == 0
    more = ["--resume", "--train.iterations", "2"]
    assert cli.main(["train", "--out", str(tmp_path / "run"), *more]) == 0
    said = json.loads((tmp_path / "run/config.json").read_text())
    assert said["reward"]["learned_reward"]["scale"] == 0.5
    assert said["reward"]["sparse"]["weight"] == 2
    state = checkpoint.load(tmp_path / "run/checkpoints").state()
    assert state["loop"]["rewards"] == {"sparse": {}, LEARNED: {"seen": 16}}


def test_a_reward_named_twice_is_refused(tmp_path, capsys):
    words = ["train", "--env", "point_reach", "--rewards", "sparse", "sparse"]
    assert cli.main([*words, "--out", str(tmp_path / "run")]) == 2
    assert "name 'sparse' twice, so their options would be the same" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_rewards_of_equal_short_names_are_refused(monkeypatch, tmp_path):
    (tmp_path / "lab_a").mkdir()
    (tmp_path / "lab_a/sparse.py").write_text("from vla_rl.rewards.sparse import Reward\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match="name 'sparse' twice"):
        rewards_named(["sparse", "lab_a.sparse"])


def test_state_is_no_setting(monkeypatch, tmp_path):
    (tmp_path / "with_field.py").write_text(
        "from dataclasses import dataclass, field\n"
        "from vla_rl.rewards import sparse\n"
        "@dataclass(frozen=True)\n"
        "class Reward(sparse.Reward):\n"
        "    seen: int = field(default=0, init=False)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match="declares 'seen', which is not a setting"):
        rewards_named(["with_field"])


def test_what_a_reward_learns_belongs_to_one_run():
    given = SimpleNamespace(learned_reward=plugins.load("rewards", LEARNED).Reward(scale=3.0))
    one, other = (rewards_named([LEARNED], given)[LEARNED] for _ in range(2))
    one.seen = 5
    assert (other.seen, other.scale) == (0, 3.0)


def test_too_few_episodes_of_a_group_are_refused(episodes):
    class Forgets(sparse.Reward):
        def score(self, groups, end):
            return [paid[1:] for paid in super().score(groups, end)]

    with pytest.raises(ValueError, match="'mine' paid 1 episodes of a group of 2"):
        rewarded([episodes[:2]], {"mine": Forgets()}, END)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--rewards", "a", "b", "--seed", "1"], ["a", "b"]),
        (["--rewards=a", "--seed", "1"], ["a"]),
        (["--rewards", "a", "--rewards", "b"], ["b"]),
        (["--rewards", "a", "-h"], ["a"]),
        (["--seed", "1"], []),
    ],
)
def test_the_rewards_are_read_off_the_command_line(words, found):
    assert naming_options(words).rewards == found


@dataclass(frozen=True)
class LateState(sparse.Reward):
    """State that is not there from the start."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "seen", {})

    def score(self, groups, end):
        object.__setattr__(self, "seen", {"groups": len(groups)})
        return super().score(groups, end)

    def state_dict(self):
        return self.seen


def test_state_that_appears_later_is_refused(monkeypatch, tmp_path, capsys):
    """As several processes would not agree on whether the reward learns."""
    monkeypatch.setattr(sparse, "Reward", LateState)
    words = ["--env", "point_reach", "--network", "tiny", "--train.iterations", "1"]
    assert cli.main(["train", *words, "--out", str(tmp_path / "run")]) == 2
    assert "return every key from the start" in capsys.readouterr().err
