"""The real Triton that the suites of this folder share, and the choice between it and the fake one."""

from __future__ import annotations

from tests.support.either_triton import either_triton
from tests.support.triton import embedded_triton, slots

__all__ = ["either_triton", "embedded_triton", "slots"]
