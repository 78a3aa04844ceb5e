"""Names resolve to files or dotted paths, and wrong ones are answered with the near ones."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from vla_rl import plugins


def test_a_shipped_name_is_a_file():
    assert plugins.load("algorithms", "loop").__name__ == "vla_rl.algorithms.loop"
    assert "_policy_gradient" not in plugins.names("algorithms")


def test_a_dotted_path_is_a_users_module():
    module = plugins.load("envs", "tests.user_code.fragile_reach")
    assert module.tasks()


@pytest.mark.parametrize(
    ("kind", "name", "hint"),
    [
        ("algorithms", "lop", "did you mean 'loop'"),
        ("envs", "point_reech", "did you mean 'point_reach'"),
        ("rewards", "zzz", "allowed: dense, overlong, progress, sparse, speed"),
        ("curricula", "frontiers", "did you mean 'frontier'"),
    ],
)
def test_unknown_names_are_answered_with_the_near_ones(kind, name, hint):
    with pytest.raises(ValueError, match=hint):
        plugins.load(kind, name)


def test_a_module_that_is_not_there():
    said = r"'my_lab\.nothing' .* cannot be imported from /.*the folder that holds 'my_lab'"
    with pytest.raises(ValueError, match=said):
        plugins.load("algorithms", "my_lab.nothing")


def test_a_module_without_the_agreed_names():
    with pytest.raises(ValueError, match="must define Algorithm"):
        plugins.load("algorithms", "tests.user_code.fragile_reach")


def test_a_family_makes_one_suite_for_each_name():
    assert "gym:ID" in plugins.names("envs")
    pole, pendulum = (plugins.load("envs", f"gym:{i}") for i in ("CartPole-v1", "Pendulum-v1"))
    assert plugins.load("envs", "gym:CartPole-v1") is pole
    assert pole.__name__ == pendulum.__name__ == "vla_rl.envs.gym"  # what workers preload
    assert [suite.tasks()[0].suite for suite in (pole, pendulum)] == [
        "gym:CartPole-v1",
        "gym:Pendulum-v1",
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gym", "name one as gym:ID"),
        ("gym:", "name one as gym:ID"),
        ("point_reach:red", "point_reach is not a family.*without the colon"),
        ("gin:CartPole-v1", "unknown envs plug-in.*gym:ID"),
    ],
)
def test_families_are_named_with_a_colon_and_others_without(name, message):
    with pytest.raises(ValueError, match=message):
        plugins.load("envs", name)


def test_an_installed_package_offers_plug_ins_as_entry_points(tmp_path):
    (tmp_path / "my_lab.py").write_text('"""Mine."""\nfrom vla_rl.envs.point_reach import *\n')
    package = tmp_path / "my_lab-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: my_lab\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[vla_rl.envs]\nmy_reach = my_lab\n")
    done = subprocess.run(
        [sys.executable, "-m", "vla_rl", "list", "envs"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    listed = dict(re.findall(r"^(\S+) +(\S.*?) *$", done.stdout, re.MULTILINE))
    assert listed["my_reach"] == "Mine."
    assert listed["gym:ID"].startswith("Any Gymnasium environment")
    assert "metaworld" in listed


def test_an_unknown_kind():
    with pytest.raises(ValueError, match=r"'gizmos'.*envs, policies"):
        plugins.names("gizmos")
