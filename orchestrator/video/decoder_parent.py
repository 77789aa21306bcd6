"""The decoder parent: `python -m orchestrator.video.decoder_parent FD`, a small program that forks decoder children.

It imports av, cv2 and numpy once, so that a child starts in milliseconds, and nothing of web or storage, so that
neither secrets nor threads of the orchestrator are in a child. It has one thread, and ends, with all its children,
when the socket behind descriptor FD closes.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Final, NoReturn

from orchestrator.video.child import Child, prepare_libraries
from orchestrator.video.confinement import confine, die_with
from orchestrator.video.messages import MAX_MESSAGE_BYTES, Ended, Kill, Killed, Spawn, Spawned, from_wire, to_wire

MOST_DESCRIPTORS: Final = 3


class DecoderParent:
    """Forks, kills and reaps. Children are known by the numbers that the orchestrator gives them."""

    def __init__(self, control: socket.socket, *, fork: Callable[[], int] = os.fork) -> None:
        self._control = control
        self._fork = fork
        self._pids: dict[int, int] = {}
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> None:
        """Serve until the orchestrator closes its end; the kernel then kills the children."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # Ctrl-C and a service manager's SIGTERM reach every process; the orchestrator decides when decoding stops.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poll.poll()]
            if self._wake_read in ready:
                os.read(self._wake_read, 4096)
                self._reap()
            if self._control.fileno() in ready and not self._obey():
                return

    def _obey(self) -> bool:
        try:
            packet, fds, _, _ = socket.recv_fds(self._control, MAX_MESSAGE_BYTES, MOST_DESCRIPTORS)
        except ConnectionResetError:
            # The orchestrator died before it had read all that it was told.
            return False
        if not packet:
            return False
        match from_wire(packet, Spawn, Kill):
            case Spawn() as spawn:
                self._spawn(spawn, fds)
            case Kill(child):
                # A number that is gone has been reported as ended already.
                if child in self._pids:
                    os.kill(self._pids[child], signal.SIGKILL)
                    self._tell(Killed(child))
        return True

    def _spawn(self, spawn: Spawn, fds: list[int]) -> None:
        parent_pid = os.getpid()
        try:
            pid = self._fork()
        except OSError as exc:
            # A limit of processes or memory that passes; the other children go on.
            sys.stderr.write(f"no decoder can be forked: {exc.strerror}\n")
            answer: Spawned | Ended = Ended(spawn.child, exit_code=os.EX_OSERR, signal=0, was_started=False)
        else:
            if pid == 0:
                self._become_child(spawn, fds, parent_pid)
            self._pids[spawn.child] = pid
            answer = Spawned(spawn.child, pid)
        for fd in fds:
            os.close(fd)
        self._tell(answer)

    def _become_child(self, spawn: Spawn, fds: list[int], parent_pid: int) -> NoReturn:
        status = os.EX_SOFTWARE
        try:
            die_with(parent_pid)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for fd in (self._control.fileno(), self._wake_read, self._wake_write):
                os.close(fd)
            confine(memory_bytes=spawn.memory_bytes)
            sock_fd, file_fd, *region = fds
            # Held here, so that it closes with the process and not before the last words are printed.
            sock = socket.socket(fileno=sock_fd)
            Child(sock, file_fd, region[0] if region else None).serve()
            status = os.EX_OK
        finally:
            # A child must never run on into its parent's loop, whatever went wrong.
            if status != os.EX_OK:
                traceback.print_exc()
                sys.stderr.flush()
            os._exit(status)

    def _reap(self) -> None:
        by_pid = {pid: child for child, pid in self._pids.items()}
        while self._pids:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            child = by_pid[pid]
            del self._pids[child]
            code = os.waitstatus_to_exitcode(status)
            self._tell(Ended(child, exit_code=max(code, 0), signal=max(-code, 0)))

    def _tell(self, message: Spawned | Killed | Ended) -> None:
        try:
            self._control.send(to_wire(message))
        except (BrokenPipeError, ConnectionResetError):
            # The orchestrator is gone; the loop will read the end of the socket next.
            return


def main() -> None:
    prepare_libraries()
    DecoderParent(socket.socket(fileno=int(sys.argv[1]))).run()


if __name__ == "__main__":
    main()
