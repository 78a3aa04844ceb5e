"""Names resolve to files or dotted paths, and wrong ones are answered with the near ones."""

from __future__ import annotations

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
    with pytest.raises(ValueError, match=r"my_lab\.nothing"):
        plugins.load("algorithms", "my_lab.nothing")


def test_a_module_without_the_agreed_names():
    with pytest.raises(ValueError, match="must define Algorithm"):
        plugins.load("algorithms", "tests.user_code.fragile_reach")


def test_an_unknown_kind():
    with pytest.raises(ValueError, match=r"'gizmos'.*envs, policies"):
        plugins.names("gizmos")
