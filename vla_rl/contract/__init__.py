"""The contracts of suites, policies and algorithms, as checks that say what to fix.

``vla-rl check`` and tests run them. What is imported from here is the contract of suites; that of
policies is :mod:`vla_rl.contract.policy`, that of algorithms :mod:`vla_rl.contract.algorithm`.

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
