"""The real Triton that the suites of this folder share."""

from __future__ import annotations

from tests.support.triton import embedded_triton, slots

__all__ = ["embedded_triton", "slots"]
