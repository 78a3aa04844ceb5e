"""A folder that is replaced is never lost, wherever a kill comes."""

from __future__ import annotations

import os

import pytest

from vla_rl.storage.files import replacing, standing


def write(folder, text):
    with replacing(folder) as fresh:
        fresh.mkdir()
        (fresh / "text").write_text(text)


def test_a_replaced_folder_holds_the_new_content_and_nothing_lies_beside_it(tmp_path):
    write(tmp_path / "policy", "old")
    write(tmp_path / "policy", "new")
    assert (tmp_path / "policy/text").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


def test_a_failure_while_writing_leaves_the_old_one(tmp_path):
    write(tmp_path / "policy", "old")

    def fails():
        with replacing(tmp_path / "policy") as fresh:
            fresh.mkdir()
            raise OSError("disk full")

    (tmp_path / "policy.old").mkdir()  # of the user
    with pytest.raises(OSError, match="disk"):
        fails()
    assert (tmp_path / "policy/text").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"policy", "policy.old"}


@pytest.mark.parametrize("survived", [0, 1])
def test_a_kill_between_the_moves_leaves_one_of_the_two(tmp_path, monkeypatch, survived):
    write(tmp_path / "policy", "old")
    moves, move = [], os.replace

    def dying(source, target):
        if len(moves) == survived:
            raise KeyboardInterrupt  # what a kill leaves on the disk
        moves.append(source)
        move(source, target)

    monkeypatch.setattr(os, "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "policy", "new")
    monkeypatch.setattr(os, "replace", move)
    assert (standing(tmp_path / "policy") / "text").read_text() == "old"
    write(tmp_path / "policy", "new")
    assert (tmp_path / "policy/text").read_text() == "new"
