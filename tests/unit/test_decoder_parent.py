from __future__ import annotations

import errno
import os
import signal
import socket
from collections.abc import Iterator

import pytest

from orchestrator.video.decoder_parent import DecoderParent
from orchestrator.video.messages import MAX_MESSAGE_BYTES, Ended, Spawn, from_wire, to_wire

SIGNALS = (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM)


@pytest.fixture
def _signals() -> Iterator[None]:
    """A decoder parent is a program: it takes signals for itself."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    wakeup_fd = signal.set_wakeup_fd(-1)
    yield
    signal.set_wakeup_fd(wakeup_fd)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_signals")
def test_a_lack_of_processes_costs_one_child_and_not_its_parent(capsys: pytest.CaptureFixture[str]) -> None:
    def fork() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, open(os.devnull, "rb") as file:
        for number in (1, 2):
            socket.send_fds(ours, [to_wire(Spawn(number, memory_bytes=2**30))], [file.fileno()])
        ours.shutdown(socket.SHUT_WR)
        DecoderParent(theirs, fork=fork).run()
        answers = [from_wire(ours.recv(MAX_MESSAGE_BYTES), Ended) for _ in range(2)]
    assert [(answer.child, answer.was_started) for answer in answers] == [(1, False), (2, False)]
    assert "no decoder can be forked" in capsys.readouterr().err
