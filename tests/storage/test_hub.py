"""Policies from the hub and to it; no network is needed."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import torch

from tests.helpers import WORLD, make_policy
from tests.storage.helpers import REPO, act, push
from vla_rl import cli
from vla_rl.policies import tiny, vla
from vla_rl.policy import load_policy
from vla_rl.results.evaluation import EvalResult
from vla_rl.storage import hub
from vla_rl.world import read_world


def test_a_pushed_policy_acts_alike(played):
    policy = make_policy()
    assert policy.push_to_hub(REPO, private=True).endswith("0" * 40)
    assert played.private == {REPO: True}
    assert played.files() == {"config.json", "model.safetensors", "README.md"}
    torch.manual_seed(1)
    for loaded in (load_policy(REPO), load_policy(Path(REPO)), tiny.Policy.from_pretrained(REPO)):
        assert (act(loaded) == act(policy)).all()
        assert loaded.config == policy.config


def test_a_revision_is_the_policy_that_was_there_then(played):
    first, second = make_policy(), make_policy()
    with torch.no_grad():
        for weights in second.head.parameters():
            weights += 0.1
    first.push_to_hub(REPO)
    second.push_to_hub(REPO)
    then = f"{0:040x}"
    assert (act(load_policy(REPO)) == act(second)).all()
    for loaded in (load_policy(f"{REPO}@{then}"), load_policy(REPO, revision=then)):
        assert (act(loaded) == act(first)).all()
    assert not (act(first) == act(second)).all()
    with pytest.raises(ValueError, match="names a revision, and so does revision='b'"):
        load_policy(f"{REPO}@a", revision="b")


def test_weights_of_a_policy_that_was_there_before_do_not_stay(played, tmp_path):
    folder = tmp_path / "large"
    stale = make_policy()
    with torch.no_grad():
        stale.vision.weight += 1
    stale.save_pretrained(folder, max_shard_size=100_000)
    hub.upload(folder, REPO)
    assert "model.safetensors.index.json" in played.files()
    policy = make_policy()
    policy.push_to_hub(REPO)
    assert played.files() == {"config.json", "model.safetensors", "README.md"}
    assert (act(load_policy(REPO)) == act(policy)).all()


def test_a_folder_that_is_there_wins(played, tmp_path):
    make_policy(std=0.1).push_to_hub(REPO)
    make_policy(std=0.2).save_pretrained(tmp_path / REPO)
    assert load_policy(REPO).config.head.std == 0.2
    assert not played.asked


def test_other_classes_and_spaces_are_refused_from_the_hub_too(played):
    policy = make_policy()
    policy.push_to_hub(REPO)
    with pytest.raises(ValueError, match=r"holds a vla_rl\.policies\.tiny\.Policy, not a"):
        vla.Policy.from_pretrained(REPO)
    with pytest.raises(ValueError, match="not for Spaces"):
        load_policy(REPO, replace(policy.spaces, state_dim=9))


# ---------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("name", ["runs/train/policy", "./points", "points", "/ada/points"])
def test_what_looks_like_no_repository_is_a_missing_folder(played, name):
    with pytest.raises(ValueError, match="is missing; is .*points|policy the folder of a saved"):
        load_policy(name)
    assert not played.asked


def test_an_unknown_repository_is_said_to_be_neither_here_nor_there(played, capsys):
    wanted = (
        r"no folder ada/other here, and the policy ada/other could not be read from the Hugging "
        r"Face hub \(LocalEntryNotFoundError: Cannot find .*\); check the name; .*hf auth login.*"
        "HF_TOKEN"
    )
    with pytest.raises(ValueError, match=wanted):
        load_policy("ada/other")
    for words in (["eval", "--policy"], ["train", "--policy"], ["inspect"]):
        assert cli.main([*words, "ada/other"]) == 2
        assert "error: there is no folder ada/other here" in capsys.readouterr().err


class _Refusing(BaseHTTPRequestHandler):
    """A server that answers as the hub does where nobody is logged in."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("X-Error-Message", "Repository not found")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def address():
    server = HTTPServer(("127.0.0.1", 0), _Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def talk_to(address: str, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


def anew(call: Callable[[], object]) -> None:
    """Call in a thread: before 1.0 the client has one session in each, offline if it once was."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(call).result()


def test_a_refusal_by_the_hub_says_what_to_do(address, monkeypatch, tmp_path):
    talk_to(address, monkeypatch, tmp_path)
    with pytest.raises(ValueError, match=r"RepositoryNotFoundError.*check the name.*HF_TOKEN"):
        anew(lambda: load_policy(REPO))
    with pytest.raises(ValueError, match=r"nothing could be uploaded to ada/points.*'ada' is you"):
        anew(lambda: make_policy().push_to_hub(REPO, token="wrong"))


def test_a_hub_that_cannot_be_reached_is_named(monkeypatch, tmp_path):
    talk_to("http://127.0.0.1:9", monkeypatch, tmp_path)  # nobody listens
    with pytest.raises(ValueError, match=r"ada/points could not be read .*check the name"):
        anew(lambda: load_policy(REPO))
    with pytest.raises(ValueError, match=r"nothing could be uploaded .*onnect.*hf auth login"):
        anew(lambda: make_policy().push_to_hub(REPO))


@pytest.mark.parametrize("name", ["points", "ada/points/x", "ada/two words", "-ada/points", ""])
def test_a_malformed_name_is_refused_before_any_work(played, run, name, capsys):
    with pytest.raises(ValueError, match="is not the name of a repository; give user/name"):
        make_policy().push_to_hub(name)
    assert push(run, f"--repo={name}") == 2
    assert "is not the name of a repository" in capsys.readouterr().err
    assert not played.private


# ---------------------------------------------------------------------------- commands from the hub


def test_a_policy_of_the_hub_is_evaluated_where_it_was_trained(played, run, tmp_path, capsys):
    push(run, "--repo", REPO)
    options = ["--eval.episodes-per-task", "2", "--rollout.workers", "1"]
    assert cli.main(["eval", "--policy", REPO, *options]) == 0
    result = EvalResult.from_json((tmp_path / "eval_custom.json").read_text())
    assert (result.suite, tuple(result.tasks)) == ("point_reach", WORLD.tasks)
    assert result.horizon == 20


def test_a_policy_of_the_hub_is_improved(played, run, tmp_path):
    push(run, "--repo", REPO)
    options = [
        *("--train.iterations", "1", "--train.episodes-per-iteration", "24"),
        *("--algo.group-size", "4", "--rollout.workers", "1", "--tasks", "red"),
    ]
    out = tmp_path / "more"
    assert cli.main(["train", "--policy", REPO, "--out", str(out), *options]) == 0
    assert json.loads((out / "config.json").read_text())["policy"] == REPO
    assert read_world(out / "policy").suite == "point_reach"


def test_a_policy_of_the_hub_is_inspected(played, run, capsys):
    push(run, "--repo", REPO)
    capsys.readouterr()
    assert cli.main(["inspect", REPO]) == 0
    assert json.loads(capsys.readouterr().out)["class"] == "vla_rl.policies.tiny.Policy"
