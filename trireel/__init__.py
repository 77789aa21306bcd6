"""Trireel's client under its own name: `from trireel import Client`. See `orchestrator.client`."""

from __future__ import annotations

from orchestrator.client import *  # noqa: F403  # the same names; `orchestrator.client.__all__` is the list
from orchestrator.client import __all__ as __all__
