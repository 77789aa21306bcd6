"""Honest fakes of the ports, in memory: they pass the contract suites of `tests/contract` like the real parts."""
