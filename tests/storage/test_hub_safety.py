"""Nothing that comes from the hub is executed."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import pytest

from tests.helpers import make_policy
from tests.storage.helpers import REPO, names, push, tamper
from vla_rl import cli
from vla_rl.policies import tiny
from vla_rl.policy import load_policy
from vla_rl.storage import hub


@pytest.fixture
def trap(tmp_path, monkeypatch) -> Iterator[str]:
    """A module that could be imported, and must not be."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "trapdoor.py").write_text("from vla_rl.policies.tiny import *\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    yield "trapdoor"
    sys.modules.pop("trapdoor", None)


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
    said = r"processor whose tokenizer_config\.json requires custom code"
    with pytest.raises(ValueError, match=said):
        load_policy(REPO)


def test_a_model_of_another_library_is_refused_before_its_weights_are_fetched(played):
    make_policy().push_to_hub(REPO)
    (played.commits()[-1] / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match=r"ada/points on the hub is not a policy of vla-rl.*lacks"):
        load_policy(REPO)
    assert played.asked == [["config.json", "world.json"]]
