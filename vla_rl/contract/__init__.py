"""The contract of a suite, as checks that say what to fix, for ``vla-rl check`` and for tests.

A short test file checks a suite of your own::

    import pytest
    from vla_rl.contract import CHECKS, Subject

    SUITE = Subject("my_lab.my_suite")

    @pytest.mark.parametrize("check", CHECKS)
    def test_the_contract(check):
        SUITE.must_pass(check)
"""

from vla_rl.contract.suite import CHECKS, Subject

__all__ = ["CHECKS", "Subject"]
