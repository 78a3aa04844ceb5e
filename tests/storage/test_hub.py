"""Policies on the hub: fetched, vetted, pushed with their evaluation; no network is needed."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import LocalEntryNotFoundError

from tests.helpers import WORLD, make_policy
from vla_rl import cli
from vla_rl.policies import tiny, vla
from vla_rl.policy import PolicyBase, load_policy
from vla_rl.results.evaluation import EvalResult, TaskResult
from vla_rl.stages.run import save_policy
from vla_rl.storage import hub, model_card
from vla_rl.types import Observation, seed_for
from vla_rl.world import read_world

REPO = "ada/points"


class Hub:
    """What the client of the hub is asked for, answered from folders: one of each commit."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.private: dict[str, bool | None] = {}
        self.asked: list[list[str]] = []

    def commits(self, repo_id: str = REPO) -> list[Path]:
        return sorted((self.root / repo_id).glob("*"))

    def files(self) -> set[str]:
        return names(self.commits()[-1])

    def create_repo(self, repo_id, private, exist_ok):
        if repo_id.startswith("somebody/"):
            raise huggingface_hub.errors.HfHubHTTPError.__bases__[0]("403 Forbidden")
        self.private[repo_id] = private
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self, repo_id, folder_path, allow_patterns, delete_patterns, **_):
        before = self.commits(repo_id)
        new = self.root / repo_id / f"{len(before):040x}"
        new.mkdir(parents=True)
        if before:
            copy(before[-1], new, lambda name: not matches(name, delete_patterns))
        copy(Path(folder_path), new, lambda name: matches(name, allow_patterns or "*"))
        return f"https://huggingface.co/{repo_id}/commit/{new.name}"

    def snapshot_download(self, repo_id, *, revision=None, allow_patterns, **_):
        self.asked.append(allow_patterns)
        commits = self.commits(repo_id)
        found = next((c for c in commits if c.name == revision), None)
        if not commits or (revision is not None and found is None):
            raise LocalEntryNotFoundError("Cannot find the requested files")
        commit = found or commits[-1]
        cached = self.root / "cache" / repo_id / commit.name
        copy(commit, cached, lambda name: matches(name, allow_patterns))
        return str(cached)


def names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def copy(source: Path, target: Path, wanted: Callable[[str], bool]) -> None:
    for name in filter(wanted, names(source)):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, target / name)


@pytest.fixture
def played(tmp_path, monkeypatch) -> Hub:
    """A hub without a network."""
    made = Hub(tmp_path / "hub")
    api = huggingface_hub.HfApi
    monkeypatch.setattr(api, "create_repo", lambda self, **asked: made.create_repo(**asked))
    monkeypatch.setattr(api, "upload_folder", lambda self, **asked: made.upload_folder(**asked))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.snapshot_download)
    monkeypatch.chdir(tmp_path)  # `ada/points` must be no folder here
    return made


def act(policy: PolicyBase) -> np.ndarray:
    rng = np.random.default_rng(0)
    spaces = policy.spaces
    shape = (4, len(spaces.views), spaces.image_size, spaces.image_size, 3)
    obs = Observation(
        images=rng.integers(0, 255, shape, np.uint8),
        state=rng.normal(size=(4, spaces.state_dim)).astype(np.float32),
    )
    return policy.act(obs, [next(iter(policy.text_memory))] * 4, keys=None).actions


def evaluation(**tasks: TaskResult) -> EvalResult:
    return EvalResult("custom:point_reach:4x20steps", "point_reach", 20, {}, "none", tasks)


def four(*solved: bool) -> TaskResult:
    return TaskResult(seeds=(70, 71, 72, 73), success=solved, steps=(20, 9, 9, 9))


RED = four(False, True, True, True)
GREEN = four(False, False, False, False)


@pytest.fixture
def run(tmp_path) -> Path:
    """A finished run of `vla-rl train` with an evaluation of what it wrote."""
    folder: Path = tmp_path / "run"
    folder.mkdir()
    policy = make_policy()
    policy.fit_statistics(np.random.default_rng(1).normal(size=(9, 2)).astype(np.float32))
    save_policy(policy, WORLD.resolve(), folder / "policy")
    config = {
        "command": "train",
        "algorithm": "loop",
        "algo": {"group_size": 8},
        "anchor": {"coef": 0.0},
        "demos": "/home/ada/secret/demos",
        "out": "/home/ada/secret/run",
        "seed": 3,
    }
    (folder / "config.json").write_text(json.dumps(config))
    rows = [{"step": 1, "train/env_steps": 640}, {"step": 2, "train/env_steps": 1280}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "eval_custom.json").write_text(evaluation(red=RED, green=GREEN).to_json())
    return folder


def push(*options) -> int:
    return cli.main(["push", *map(str, options)])


def card_of(played: Hub) -> ModelCard:
    card: ModelCard = ModelCard.load(played.commits()[-1] / "README.md")
    return card


# ---------------------------------------------------------------------------- there and back again


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
    assert load_policy(REPO).config.std == 0.2
    assert not played.asked


def test_other_classes_and_spaces_are_refused_from_the_hub_too(played):
    policy = make_policy()
    policy.push_to_hub(REPO)
    with pytest.raises(ValueError, match=r"holds a vla_rl\.policies\.tiny\.Policy, not a"):
        vla.Policy.from_pretrained(REPO)
    with pytest.raises(ValueError, match="not for Spaces"):
        load_policy(REPO, replace(policy.spaces, state_dim=9))


def test_every_policy_is_saved_with_a_card(tmp_path):
    make_policy().save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "vla-rl"
    assert card.data.pipeline_tag == "robotics"
    assert "- go to the red dot\n- go to the green dot" in card.text
    with pytest.raises(ValueError, match="a policy writes its own config.json"):
        make_policy().save_pretrained(tmp_path, config={"a": 1})  # type: ignore[arg-type]


# --------------------------------------------------------------------------------- what is refused


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


# ------------------------------------------------------------------- nothing of theirs is executed


@pytest.fixture
def trap(tmp_path, monkeypatch) -> Iterator[str]:
    """A module that could be imported, and must not be."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "trapdoor.py").write_text("from vla_rl.policies.tiny import *\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    yield "trapdoor"
    sys.modules.pop("trapdoor", None)


def tamper(played: Hub, name: str, **changes) -> None:
    path = played.commits()[-1] / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_class_outside_the_package_is_not_imported(played, trap):
    make_policy().push_to_hub(REPO)
    tamper(played, "config.json", **{"class": f"{trap}.Policy"})
    with pytest.raises(ValueError, match=r"is a trapdoor\.Policy.*import it first.*--local-dir"):
        load_policy(REPO)
    assert trap not in sys.modules
    assert played.asked == [["config.json", "world.json"]], "the weights were not fetched"
    __import__(trap)  # what the user has imported is the user's choice
    assert hub.find(REPO).is_dir()


@pytest.mark.parametrize("suite", ["trapdoor", "gym:trapdoor:Env-v0", "gym:trapdoor/Env-v0"])
def test_a_suite_outside_the_package_is_not_imported(played, run, trap, suite):
    assert push(run, "--repo", REPO) == 0
    tamper(played, "world.json", suite=suite)
    with pytest.raises(ValueError, match=f"acts in '{suite}'.*--env {re.escape(suite)}"):
        load_policy(REPO)
    assert cli.main(["eval", "--policy", REPO]) == 2
    assert trap not in sys.modules
    assert hub.find(REPO, named=[suite]).is_dir()  # `--env` says it


def test_shipped_suites_need_no_word_of_the_user(played, run):
    push(run, "--repo", REPO)
    for suite, env, fine in (
        ("metaworld", {}, True),
        ("vla_rl.envs.metaworld", {}, True),
        ("gym:CartPole-v1", {"kwargs": []}, True),
        ("gym:Wrapper-v0", {"kwargs": ["env_id=trapdoor:Env-v0"]}, False),
        ("os.path", {}, True),  # imported already: nothing happens, and it is no suite
        ("antigravity", {}, False),
    ):
        tamper(played, "world.json", suite=suite, env=env)
        if fine:
            assert hub.find(REPO).is_dir()
        else:
            with pytest.raises(ValueError, match="may not import modules outside vla_rl"):
                hub.find(REPO)
    assert "antigravity" not in sys.modules


def test_only_json_and_safetensors_are_fetched(played):
    make_policy().push_to_hub(REPO)
    for name in ("tiny.py", "pytorch_model.bin", "state.pkl", "other.json"):
        (played.commits()[-1] / name).write_text("raise SystemExit")
    assert names(hub.find(REPO)) == {"config.json", "model.safetensors", "README.md"}


@pytest.fixture
def reader(monkeypatch) -> list[str]:
    """A policy with more to save than weights, as one whose backbone has a tokenizer."""
    read: list[str] = []

    def save(self, folder):
        (folder / "processor").mkdir(exist_ok=True)
        (folder / "processor" / "tokenizer_config.json").write_text('{"pad": 1}')
        (folder / "processor" / "merges.txt").write_text("a b")
        (folder / "processor" / "processing.py").write_text("raise SystemExit")

    def load(self, folder):
        read.append((folder / "processor" / "merges.txt").read_text())

    monkeypatch.setattr(tiny.Policy, "save_extras", save)
    monkeypatch.setattr(tiny.Policy, "load_extras", load)
    return read


def test_the_tokenizer_goes_along_but_no_code(played, reader, run, capsys):
    wanted = {"processor/tokenizer_config.json", "processor/merges.txt"}
    for upload in (lambda: push(run, "--repo", REPO), lambda: make_policy().push_to_hub(REPO)):
        upload()
        assert wanted < names(hub.find(REPO))
        assert not any(name.endswith(".py") for name in played.files())
        reader.clear()
        load_policy(REPO)
        assert reader == ["a b"]
    assert "processor/merges.txt" in capsys.readouterr().out


def test_a_processor_with_code_of_its_own_is_refused(played, reader):
    make_policy().push_to_hub(REPO)
    tamper(played, "processor/tokenizer_config.json", auto_map={"AutoProcessor": "a/b--c.D"})
    with pytest.raises(
        ValueError, match=r"processor whose tokenizer_config\.json requires custom code"
    ):
        load_policy(REPO)


def test_a_model_of_another_library_is_refused_before_its_weights_are_fetched(played):
    make_policy().push_to_hub(REPO)
    (played.commits()[-1] / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match=r"ada/points on the hub is not a policy of vla-rl.*lacks"):
        load_policy(REPO)
    assert played.asked == [["config.json", "world.json"]]


# ------------------------------------------------------------------------------- the command: push


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
        "| std | 0.4 |",
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
    assert "nothing was uploaded" in capsys.readouterr().out
    assert (act(load_policy(out)) == act(load_policy(run / "policy"))).all()
    assert push(run, "--repo", REPO, "--dry-run", "--out", out) == 2
    assert "already exists; delete it" in capsys.readouterr().err


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


# ------------------------------------------------------------------------- commands from the hub


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
