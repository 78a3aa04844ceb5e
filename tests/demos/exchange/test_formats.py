"""The commands export and import: targets, sources and options, whatever the format."""

from __future__ import annotations

import importlib.util

import pytest

from tests.test_cli import vla_rl
from vla_rl.demos.exchange import formats
from vla_rl.storage.files import appearing

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")


@pytest.mark.parametrize("words", [("export", "--to"), ("import", "--from")])
def test_an_occupied_target_is_refused_before_anything_is_read(tmp_path, capsys, words):
    (tmp_path / "note.txt").write_text("mine")
    name, option = words
    assert vla_rl(name, tmp_path / "nothing", option, "minari", "--out", tmp_path) == 2
    assert f"{tmp_path} is not empty; choose another --out" in capsys.readouterr().err


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    def fail() -> None:
        with appearing(tmp_path / "new") as made:
            made.mkdir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [f.name for f in tmp_path.iterdir()] == ["code"]
    (tmp_path / "new").mkdir()
    with appearing(tmp_path / "new") as made:
        made.mkdir()
        (made / "a").write_text("b")
    assert (tmp_path / "new" / "a").read_text() == "b"


def test_sources_that_are_not_there(tmp_path, capsys):
    back = ["--from", "minari", "--out", tmp_path / "back"]
    assert vla_rl("import", "lab/nothing-v0", *back) == 2
    assert "'lab/nothing-v0' is neither the folder" in capsys.readouterr().err
    assert vla_rl("import", tmp_path, *back) == 2
    assert "is not a Minari dataset: it has no metadata.json" in capsys.readouterr().err


def test_a_missing_library_is_named_with_how_to_get_it(demos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    assert vla_rl("export", demos.path, "--to", "lerobot", "--out", tmp_path / "out") == 2
    assert "pip install 'vla-rl[lerobot]'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="unknown format 'rlds'; allowed: lerobot, minari"):
        formats.load_format("rlds")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "minari", "--video"], "--video is an option of --to lerobot"),
        (["--to", "lerobot", "--dataset-id", "a/b-v0"], "--dataset-id is an option of --to minari"),
    ],
)
def test_options_of_the_other_format_are_refused(demos, tmp_path, capsys, options, message):
    assert vla_rl("export", demos.path, "--out", tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err
