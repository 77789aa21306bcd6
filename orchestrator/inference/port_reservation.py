"""Ports for a server that is yet to start, and starts again on the same ones.

A socket that is bound but does not listen receives nothing; with SO_REUSEADDR and SO_REUSEPORT on both sides the server
binds beside it, and nobody else gets the port in between.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from orchestrator.errors import TritonStartError


@contextmanager
def reserve_ports(host: str, wanted: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Hold ports until the end; 0 takes a free one. Raises TritonStartError where a port is taken."""
    with ExitStack() as stack:
        ports = []
        for port in wanted:
            holder = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            try:
                holder.bind((host, port))
            except OSError as exc:
                raise TritonStartError(f"port {port} of {host} cannot be used: {exc.strerror}") from exc
            ports.append(holder.getsockname()[1])
        yield tuple(ports)
