"""Held-out demonstrations: which they are, their loss by hand, and whose weights are kept."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tests.helpers import WORLD, make_policy
from vla_rl import cli, sft
from vla_rl.envs import point_reach
from vla_rl.learning.held_out import HeldOut, held_out, split
from vla_rl.results.metrics import MetricsWriter, read_metrics
from vla_rl.rollout.slots import SlotPool
from vla_rl.stages.run import RunFolder
from vla_rl.stages.sft import supervised_stage
from vla_rl.types import EpisodeSpec

RED, GREEN, BLUE = point_reach.tasks()


@pytest.fixture(scope="module")
def recorded():
    """Four demonstrations of each of three tasks."""
    pool = SlotPool("point_reach", point_reach.Settings())
    return [pool.record(spec) for spec in WORLD.resolve().specs("demo", 4)]


def specs(*starts: tuple[int, ...]) -> list[EpisodeSpec]:
    """Starts of red, of green and of blue."""
    return [
        EpisodeSpec(task, seed)
        for task, seeds in zip((RED, GREEN, BLUE), starts, strict=False)
        for seed in seeds
    ]


# ------------------------------------------------------------------------------ which they are


def test_a_share_of_the_starts_of_every_task_is_held_out():
    starts = specs(tuple(range(10)), tuple(range(20)))
    apart = held_out(starts, 0.3, seed=0)
    assert [int(apart[:10].sum()), int(apart[10:].sum())] == [3, 6]
    assert (apart == held_out(starts, 0.3, seed=0)).all()
    assert (apart != held_out(starts, 0.3, seed=1)).any()
    assert not held_out(starts, 0.0, seed=0).any()


@pytest.mark.parametrize(("share", "expected"), [(0.01, 1), (0.5, 2), (0.99, 3)])
def test_one_start_stays_on_either_side(share, expected):
    assert held_out(specs((1, 2, 3, 4)), share, seed=0).sum() == expected


def test_episodes_of_one_start_stay_together():
    starts = specs((1, 1, 1, 2, 2, 2))
    for seed in range(5):
        apart = held_out(starts, 0.5, seed)
        assert apart[:3].tolist() in ([True] * 3, [False] * 3)
        assert apart[3:].tolist() == (~apart[:3]).tolist()


def test_a_task_with_one_start_is_refused():
    with pytest.raises(ValueError, match=r"demonstrations of green from at least 2 .* record more"):
        held_out(specs((1, 2), (7, 7)), 0.1, seed=0)
    assert not held_out(specs((1,)), 0.0, seed=0).any()


# ------------------------------------------------------------------------------------- the loss


def losses_by_task(policy, apart):
    """Of every task by itself, and how many actions it has."""
    batches = [apart.take(rows) for rows in apart.rows_by_task()]
    with torch.no_grad():
        found = [
            float(policy.imitation_loss(b.obs, b.instruction, b.actions, b.mask)) for b in batches
        ]
    return found, [int(b.mask.sum()) for b in batches]


@pytest.mark.parametrize("balance", [True, False])
def test_the_held_out_loss_by_hand(recorded, balance):
    policy = make_policy()
    _, apart = split(recorded[:4] + recorded[4:7], policy.chunk, 0.5, seed=0)
    assert apart is not None
    by_task, actions = losses_by_task(policy, apart)
    assert len(by_task) == 2
    assert actions[0] != actions[1]
    mean = np.mean(by_task) if balance else np.average(by_task, weights=actions)
    for batch_size in (1000, 5):  # in one batch of a task, and in several
        found = HeldOut(policy, apart, batch_size, balance, seed=0).loss()
        assert found == pytest.approx(mean, rel=1e-5)


def test_looking_changes_nothing_of_the_training(recorded):
    found = []
    for looks in (True, False):
        policy = make_policy(head="flow_sde")
        learned, apart = split(recorded, policy.chunk, 0.25, seed=0)
        config = sft.SFTConfig(steps=6, validation_every=2, validation_share=0.25)
        cloning = sft.Cloning(policy, learned, config, 0, apart if looks else None)
        found.append([cloning.advance() for _ in range(2)])
        if looks:
            assert cloning.validation is not None
            stood = torch.get_rng_state()
            assert cloning.validation.look(2) == cloning.validation.look(2)
            assert torch.equal(torch.get_rng_state(), stood)
            assert all(p.grad is None for p in policy.parameters())
        found[-1] += [cloning.advance() for _ in range(4)]
    assert found[0] == found[1]


# --------------------------------------------------------------------------- whose weights are kept


def cloned(recorded, monkeypatch, losses, **settings):
    """Cloning whose held-out losses are given, and its weights at every look."""
    given = iter(losses)
    monkeypatch.setattr(HeldOut, "loss", lambda self: next(given))
    policy = make_policy()
    learned, apart = split(recorded, policy.chunk, 0.25, seed=0)
    config = sft.SFTConfig(validation_share=0.25, validation_every=2, **settings)
    cloning = sft.Cloning(policy, learned, config, 0, apart)
    weights, rows = [], []

    def on_step(step, metrics):
        rows.append(metrics)
        if "sft/validation_loss" in metrics:
            weights.append(policy.state_dict()["vision.weight"].clone())

    cloning.run(on_step)
    return cloning, policy.state_dict()["vision.weight"], weights, rows


def test_the_weights_of_the_lowest_held_out_loss_are_kept(recorded, monkeypatch):
    cloning, end, weights, rows = cloned(recorded, monkeypatch, [3, 1, 2, 1.5], steps=7)
    assert [row.get("sft/validation_loss") for row in rows] == [None, 3, None, 1, None, 2, 1.5]
    assert (cloning.step, cloning.validation.best.step, cloning.validation.best.loss) == (7, 4, 1)
    assert torch.equal(end, weights[1])
    assert not torch.equal(end, weights[3])


def test_it_ends_when_the_held_out_loss_has_not_fallen_for_long(recorded, monkeypatch):
    losses = [3, 2, 2.5, 1, 1, 1.2, 0.1]
    cloning, end, weights, rows = cloned(recorded, monkeypatch, losses, steps=100, early_stop=2)
    assert cloning.step == len(rows) == 12  # 2.5 is one look in vain, 1 and 1.2 are two
    assert cloning.validation.best.step == 8
    assert torch.equal(end, weights[3])


class Torn(MetricsWriter):
    """The machine is lost at step 60."""

    def write(self, step, values):
        if step == 60:
            raise KeyboardInterrupt
        super().write(step, values)


@pytest.mark.parametrize("head", ["gaussian", "flow_sde"])
def test_a_resumed_run_is_the_same_bit_for_bit(recorded, tmp_path, head):
    # It learns by heart what it sees, so the best look is well before the end.
    config = sft.SFTConfig(
        **{"steps": 100, "lr": 3e-3, "validation_share": 0.5, "validation_every": 5},
        **{"checkpoint_every": 20, "early_stop": 12, "batch_size": 16},
    )

    def run(name, writer, resume):
        policy = make_policy(head=head)
        torch.manual_seed(len(name))  # another process stands elsewhere
        data = split(recorded, policy.chunk, config.validation_share, seed=0)
        policy.fit_statistics(data.learned.obs.state)
        with writer(tmp_path / name) as metrics:
            where = RunFolder(tmp_path / name, metrics)
            supervised_stage(where, policy, data, config, 0, resume, "clone")
        return policy

    whole = run("whole", MetricsWriter, resume=False)
    with pytest.raises(KeyboardInterrupt):
        run("cut", Torn, resume=False)
    resumed = run("cut", MetricsWriter, resume=True)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    rows = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "cut")]
    left, right = ([{**row, "time": 0} for row in part] for part in rows)
    assert left == right
    assert rows[0][-1]["sft/best_step"] % 5 == 0
    found = [r["sft/validation_loss"] for r in rows[0] if "sft/validation_loss" in r]
    assert rows[0][-1]["sft/best_validation_loss"] == min(found) < found[0]


# ----------------------------------------------------------------------------------- the command


def test_the_command_says_which_weights_it_kept(tmp_path, capsys):
    world = ["--suite", "point_reach", "--tasks", "red"]
    record = ["record", *world, "--episodes", "4", "--out", str(tmp_path / "demos")]
    assert cli.main(record) == 0
    words = ["sft", "--demos", str(tmp_path / "demos"), "--network", "tiny", "--sft.steps", "20"]
    words += ["--sft.validation-share", "0.25", "--sft.validation-every", "10"]
    assert cli.main([*words, "--out", str(tmp_path / "sft")]) == 0
    assert "whose held-out loss is the lowest" in " ".join(capsys.readouterr().out.split())
    config = json.loads((tmp_path / "sft" / "config.json").read_text())
    assert config["sft"]["validation_share"] == 0.25
    one = ["record", *world, "--episodes", "1", "--out", str(tmp_path / "one")]
    assert cli.main(one) == 0
    words[2] = str(tmp_path / "one")
    assert cli.main([*words, "--out", str(tmp_path / "refused")]) == 2
    assert "demonstrations of red from at least 2 starts" in capsys.readouterr().err
    words[2] = str(tmp_path / "demos")
    assert cli.main([*words, "--tasks", "green", "--out", str(tmp_path / "refused")]) == 2
    assert "holds no demonstration of green; it has: red" in capsys.readouterr().err
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize(
    ("bad", "answer"),
    [
        ({"validation_share": 1.0}, r"in \[0, 1\), got 1.0"),
        ({"validation_share": -0.1}, r"in \[0, 1\), got -0.1"),
        ({"validation_every": 0}, "validation_every must be at least 1, got 0"),
        ({"early_stop": 3}, "early_stop 3 needs a held-out loss.* validation_share"),
        ({"early_stop": -1, "validation_share": 0.1}, "must not be negative, got -1"),
    ],
)
def test_bad_settings_are_refused(bad, answer):
    with pytest.raises(ValueError, match=answer):
        sft.SFTConfig(**bad)
