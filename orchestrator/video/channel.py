"""The orchestrator's end of a packet socket, read by callbacks of the running event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence

from orchestrator.video.messages import MAX_MESSAGE_BYTES


class Channel:
    """Calls `on_packet` for each packet that comes, and `on_end` once, when the other end is closed."""

    def __init__(self, sock: socket.socket, *, on_packet: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._on_packet = on_packet
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._is_reading = False
        self._is_closed = False
        self.resume()

    def send(self, packet: bytes, fds: Sequence[int] = ()) -> None:
        """Send at once. Raises OSError if the other end is closed or reads nothing any more."""
        if fds:
            socket.send_fds(self._sock, [packet], list(fds))
        else:
            self._sock.send(packet)

    def pause(self) -> None:
        """Leave what comes in the socket, whose buffer has a bound."""
        if self._is_reading:
            self._is_reading = False
            self._loop.remove_reader(self._sock.fileno())

    def resume(self) -> None:
        if not self._is_reading and not self._is_closed:
            self._is_reading = True
            self._loop.add_reader(self._sock.fileno(), self._read)

    def close(self) -> None:
        if not self._is_closed:
            self.pause()
            self._is_closed = True
            self._sock.close()

    def _read(self) -> None:
        # To the last packet at once: uvloop stops watching a socket that was reset, and calls this for the last time.
        while self._is_reading:
            try:
                packet = self._sock.recv(MAX_MESSAGE_BYTES)
            except BlockingIOError:
                return
            except ConnectionResetError:
                # The other end closed without reading all; what it sent before is still to come, and then the end.
                continue
            if packet:
                self._on_packet(packet)
            else:
                self.close()
                self._on_end()


def packet_sockets() -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection that keeps packets apart."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
