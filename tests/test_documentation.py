"""What the documents show is what happens."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.readme import filled
from tests.helpers import WORLD, make_policy
from vla_rl import stages
from vla_rl.cli import main as vla_rl
from vla_rl.metrics import read_metrics

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def test_the_tables_are_those_of_the_results():
    text = README.read_text()
    assert filled(text) == text


def test_the_algorithm_of_the_readme_trains_by_its_dotted_name(tmp_path):
    code = re.search(r"```python\n(# median_baseline\.py\n.*?)```", README.read_text(), re.DOTALL)
    assert code is not None
    (tmp_path / "median_baseline.py").write_text(code[1])
    stages.save_policy(make_policy(), WORLD, tmp_path / "policy")
    subprocess.run(
        [
            *(sys.executable, "-m", "vla_rl", "train", "--policy", "policy", "--out", "mine"),
            *("--algorithm", "median_baseline", "--algo.shrink", "0.5"),
            *("--train.iterations", "2", "--rollout.workers", "1"),
        ],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    config = json.loads((tmp_path / "mine" / "config.json").read_text())
    assert config["algorithm"] == "median_baseline"
    assert config["algo"]["shrink"] == 0.5
    rows = read_metrics(tmp_path / "mine" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    assert all(row["actor/updates"] >= 1 for row in rows)
    assert (tmp_path / "mine" / "policy" / "config.json").is_file()


def test_the_page_on_environments_does_what_it_says(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "environments.md").read_text()
    blocks = re.findall(r"```(bash|python)\n(.*?)```", page, re.DOTALL)
    for language, text in blocks:
        if language == "python":
            name = re.match(r"# (\w+\.py)\n", text)
            assert name is not None
            (tmp_path / name[1]).write_text(text)
    shown = "".join(text for language, text in blocks if language == "bash")
    commands = [shlex.split(line) for line in shown.splitlines()]
    assert len(commands) == 11
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    for program, *words in commands:
        assert program == "vla-rl"
        assert vla_rl(words) == 0, words
    assert pytest.main(["-q", "-p", "no:cacheprovider", "test_light_rail.py"]) == 0
