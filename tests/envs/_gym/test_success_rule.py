"""The rule for success, as it is said or found."""

from __future__ import annotations

import pytest

from vla_rl.envs._gym import success_rule


@pytest.mark.parametrize(
    ("text", "info", "threshold", "expected"),
    [
        ("auto", {"success", "is_success"}, 9.0, success_rule.Success("info", "success")),
        ("auto", {"is_success"}, 9.0, success_rule.Success("info", "is_success")),
        ("auto", {"speed"}, 9.0, success_rule.Success("return", threshold=9.0)),
        ("lifted", set(), None, success_rule.Success("info", "lifted")),
        ("reward>=-0.5", set(), None, success_rule.Success("reward", threshold=-0.5)),
        ("return >= 1e3", set(), None, success_rule.Success("return", threshold=1000.0)),
        ("terminated", set(), None, success_rule.Success("terminated")),
    ],
)
def test_the_rule_for_success_is_said_or_found(text, info, threshold, expected):
    assert success_rule.rule(text, "Thing-v0", info, threshold) == expected
