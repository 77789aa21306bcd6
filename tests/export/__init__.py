"""Tests that need PyTorch and Ultralytics; elsewhere each of these modules is skipped, visibly.

The skip is here and not in a marker because the modules below could not even be imported.
"""

from __future__ import annotations

import os

import pytest

from tests.support.needs import LACKS, promised_needs

if (lack := LACKS["export"]()) is not None and "export" not in promised_needs(os.environ):
    pytest.skip(lack, allow_module_level=True)
