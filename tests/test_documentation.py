"""What the documents show is what happens."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.tables import filled, pages
from tests.helpers import WORLD, make_policy
from vla_rl import plugins
from vla_rl.cli import main as vla_rl
from vla_rl.evaluate import EvalConfig, protocol_id, with_protocol
from vla_rl.results.metrics import read_metrics
from vla_rl.stages.run import save_policy
from vla_rl.types import SEED_RANGES
from vla_rl.world import World

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def test_the_tables_are_those_of_the_results():
    for page in pages():
        text = page.read_text()
        assert filled(text) == text, page


def test_the_algorithm_of_the_readme_trains_by_its_dotted_name(tmp_path):
    code = re.search(r"```python\n(# median_baseline\.py\n.*?)```", README.read_text(), re.DOTALL)
    assert code is not None
    (tmp_path / "median_baseline.py").write_text(code[1])
    save_policy(make_policy(), WORLD.resolve(), tmp_path / "policy")
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


def execute(blocks: list[tuple[str, str]], count: int) -> None:
    """Run every command of the blocks of a page."""
    shown = "".join(text for language, text in blocks if language == "bash")
    commands = [shlex.split(line) for line in shown.splitlines()]
    assert len(commands) == count
    for program, *words in commands:
        assert program == "vla-rl"
        assert vla_rl(words) == 0, words


def test_the_page_on_environments_does_what_it_says(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "environments.md").read_text()
    blocks = re.findall(r"```(bash|python)\n(.*?)```", page, re.DOTALL)
    for language, text in blocks:
        if language == "python":
            name = re.match(r"# (\w+\.py)\n", text)
            assert name is not None
            (tmp_path / name[1]).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    execute(blocks, count=11)
    assert pytest.main(["-q", "-p", "no:cacheprovider", "test_light_rail.py"]) == 0


def test_the_update_on_one_page_improves_its_policy(tmp_path):
    page = (ROOT / "docs" / "one_update.md").read_text()
    code = "".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    assert len(code.splitlines()) < 120
    (tmp_path / "one_update.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "one_update.py"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    before, after = map(float, re.findall(r"\d\.\d\d", done.stdout))
    assert after > before + 0.1, done.stdout


def test_the_page_on_rewards_does_what_it_says(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "rewards.md").read_text()
    blocks = re.findall(r"```(bash|python)\n(.*?)```", page, re.DOTALL)
    (code,) = [text for language, text in blocks if language == "python"]
    (tmp_path / "calm.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    execute(blocks, count=2)
    for name in plugins.names("rewards"):
        assert f"| `{name}` | {plugins.load('rewards', name).Reward().pays} |" in page
    config = json.loads(Path("runs/calm/config.json").read_text())
    assert config["reward"] == {"calm": {"weight": 1.0, "cost": 0.3}}


def test_the_page_on_evaluation_does_what_it_says(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "evaluation.md").read_text()
    monkeypatch.chdir(tmp_path)
    execute(re.findall(r"```(bash)\n(.*?)```", page, re.DOTALL), count=13)
    shown = capsys.readouterr().out
    assert "best one, after iteration" in shown
    found = {
        path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("runs/*/*_custom*.json")
    }
    assert found == {
        "runs/clone/eval_custom.json",
        *(f"runs/{run}/validation_custom.json" for run in "ab"),
        *(f"runs/rl/eval_custom{which}.json" for which in ("", "_best")),
    }
    # The example of a protocol id, and the table of ranges.
    world = World("point_reach", ("red",), max_steps=None)
    example = protocol_id(
        *with_protocol(world.resolve(), EvalConfig(episodes_per_task=20, starts="validation"))
    )
    assert f"    {example}\n" in page
    for use, seeds in SEED_RANGES.items():
        assert re.search(rf"\| `{use}` \| (from )?{seeds[0]:,} ", page)
