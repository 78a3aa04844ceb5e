"""The command push."""

from __future__ import annotations

import re
import shutil

import pytest
from huggingface_hub import ModelCard

from tests.helpers import WORLD
from tests.storage.helpers import REPO, act, push
from tests.user_code import small_policy
from vla_rl.envs import point_reach
from vla_rl.policies import tiny
from vla_rl.policy import load_policy
from vla_rl.stages.run import save_policy
from vla_rl.storage import hub
from vla_rl.world import read_world


def test_push_uploads_the_policy_its_world_and_its_evaluation(played, run, capsys):
    (run / "policy" / "notes.txt").write_text("private")
    assert push(run, "--repo", REPO, "--private", "--license", "apache-2.0") == 0
    assert played.private == {REPO: True}
    assert played.files() == {"config.json", "model.safetensors", "world.json", "README.md"}
    shown = capsys.readouterr().out
    size = f"{(run / 'policy' / 'model.safetensors').stat().st_size:,}"
    assert re.search(rf"model\.safetensors\W+{size}", shown)
    assert "card: mean success 37.5% [15.0%, 64.0%] under custom:point_reach" in shown
    assert f"https://huggingface.co/{REPO}/commit/" in shown
    assert (act(load_policy(REPO)) == act(load_policy(run / "policy"))).all()
    assert read_world(hub.find(REPO)).tasks == WORLD.tasks


def test_a_dry_run_writes_the_folder_and_uploads_nothing(played, run, tmp_path, capsys):
    out = tmp_path / "dry"
    assert push(run, "--repo", REPO, "--dry-run", "--out", out) == 0
    assert not played.private
    assert {p.name for p in out.iterdir()} == {
        "config.json",
        "model.safetensors",
        "world.json",
        "README.md",
    }
    assert len(ModelCard.load(out / "README.md").data.eval_results) == 3
    said = capsys.readouterr().out
    assert "nothing was uploaded" in said
    assert "is not included" not in said
    assert (act(load_policy(out)) == act(load_policy(run / "policy"))).all()
    assert push(run, "--repo", REPO, "--dry-run", "--out", out) == 2
    assert "already exists; delete it" in capsys.readouterr().err


def test_a_push_says_that_the_code_of_a_users_class_stays_behind(tmp_path, capsys):
    policy = small_policy.Policy(tiny.Config(), point_reach.spaces(point_reach.Settings()))
    save_policy(policy, WORLD.resolve(), tmp_path / "policy")
    assert push(tmp_path, "--repo", REPO, "--dry-run", "--out", tmp_path / "dry") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "the code of the class tests.user_code.small_policy.Policy is not included" in said


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: shutil.rmtree(run / "policy"), "holds no saved policy; name the folder of a"),
        (lambda run: (run / "eval_custom.json").write_text("{}"), "not an evaluation result"),
        (lambda run: (run / "config.json").write_text("{"), "config.json is damaged"),
        (lambda run: (run / "policy" / "model.safetensors").write_bytes(b""), "is damaged"),
    ],
)
def test_what_cannot_be_pushed_is_said_before_anything_is_made(played, run, spoil, message, capsys):
    spoil(run)
    assert push(run, "--repo", REPO) == 2
    assert message in capsys.readouterr().err
    assert not played.private


def test_an_account_that_is_not_ones_own_is_refused(played, run, capsys):
    assert push(run, "--repo", "somebody/points") == 2
    assert "nothing could be uploaded to somebody/points" in capsys.readouterr().err
