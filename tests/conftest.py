"""The `needs` marker (see `tests/support/needs.py`), and property tests that do not fail for being slow."""

from __future__ import annotations

import importlib.util
import os
from typing import Final

import pytest

from tests.support.needs import LACKS, promised_needs

# Properties are tried on so many examples, each time on others: a few at the desk, more in CI (HYPOTHESIS_PROFILE).
QUICK: Final = "quick"
QUICK_EXAMPLES: Final = 30
THOROUGH_EXAMPLES: Final = 200


def pytest_runtest_setup(item: pytest.Item) -> None:
    promised = promised_needs(os.environ)
    for marker in item.iter_markers("needs"):
        for name in marker.args:
            lack = LACKS[name]()
            if lack is None:
                continue
            if name in promised:
                pytest.fail(f"{name} was promised, but {lack}", pytrace=False)
            pytest.skip(lack)


def pytest_configure(config: pytest.Config) -> None:
    # The export's environment has no hypothesis.
    if importlib.util.find_spec("hypothesis"):
        from hypothesis import HealthCheck, settings

        # How long an example takes says something about the machine, nothing about our code.
        patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
        settings.register_profile(QUICK, patient, max_examples=QUICK_EXAMPLES)
        settings.register_profile("thorough", patient, max_examples=THOROUGH_EXAMPLES)
        settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", QUICK))
