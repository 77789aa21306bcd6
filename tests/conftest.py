"""The `needs` marker: see `tests/support/needs.py`."""

from __future__ import annotations

import os

import pytest

from tests.support.needs import LACKS, promised_needs

pytest_plugins = ("tests.support.triton",)


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
