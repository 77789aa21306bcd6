"""A server of one's own for the time of one command: `python -m orchestrator serve` as a child on a free port."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import TYPE_CHECKING, BinaryIO, Final, NoReturn

import click

from orchestrator.cli.exit_codes import TERMINATED, WRONG_USAGE
from orchestrator.client_errors import ConnectionLostError, ServerUnreachableError, StackStartError
from orchestrator.errors import SettingsError

if TYPE_CHECKING:
    from orchestrator.client import Client

LOG_NAME: Final = "serve.log"
LOCALHOST: Final = "127.0.0.1"
# Triton loads and warms its models first; a GPU's first start is slow.
START_TIMEOUT_S: Final = 180.0
POLL_S: Final = 0.2
STOP_TIMEOUT_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class EmbeddedStack:
    """A server that is ready, whose embedded Triton and decoders are processes below `pid`."""

    url: str
    pid: int


@contextmanager
def open_server(url: str, *, data_dir: Path | None) -> Iterator[str]:
    """The address of the server at `url`, or of an embedded stack where none answers.

    data_dir: of the embedded stack; None is a temporary one, which goes with it.
    """
    from orchestrator.client import Client

    with Client(url) as client:
        is_there = answers(client)
    if is_there:
        if data_dir is not None:
            click.echo(f"--data-dir is not used, since the server at {url} has its own", err=True)
        yield url
        return
    click.echo(f"no server answers at {url}; starting an embedded stack", err=True)
    with embedded_stack(data_dir) as own:
        yield own.url


def answers(client: Client) -> bool:
    """Whether a server is there, ready or not. Raises ConnectionLostError when it is there and hangs."""
    try:
        client.readiness()
    except ConnectionLostError:
        raise
    except ServerUnreachableError:
        return False
    return True


@contextmanager
def embedded_stack(data_dir: Path | None, settings: Mapping[str, str] | None = None) -> Iterator[EmbeddedStack]:
    """Starts a server and yields it once it is ready; stops it at the end, also after SIGTERM.

    settings: environment variables beside this process' own. Raises StackStartError, and SettingsError where the
    server refused its settings.
    """
    from orchestrator.client import Client

    with ExitStack() as stack:
        stack.enter_context(_sigterm_as_exit())
        if data_dir is None:
            temporary = TemporaryDirectory(prefix="trireel-", ignore_cleanup_errors=True)
            data_dir = Path(stack.enter_context(temporary))
        data_dir.mkdir(parents=True, exist_ok=True)
        log_path = data_dir / LOG_NAME
        log = stack.enter_context(log_path.open("wb"))
        port = free_port()
        process = stack.enter_context(_serving(port, data_dir, log, settings or {}))
        client = stack.enter_context(Client(f"http://{LOCALHOST}:{port}"))
        _wait_until_ready(client, process, log_path)
        yield EmbeddedStack(client.url, process.pid)


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _serving(
    port: int, data_dir: Path, log: BinaryIO, settings: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    own = {"TRIREEL_HOST": LOCALHOST, "TRIREEL_PORT": str(port), "TRIREEL_DATA_DIR": str(data_dir.absolute())}
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "serve"],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env={**os.environ, **settings, **own},
        # A group of its own: Ctrl-C at the terminal is for this command, which then stops the server in order.
        start_new_session=True,
    )
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        # It, Triton and the decoders share the group, and none of them may stay behind.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_ready(client: Client, process: subprocess.Popen[bytes], log_path: Path) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    reasons = "it does not answer"
    while time.monotonic() < deadline_s:
        try:
            code = process.wait(POLL_S)
        except subprocess.TimeoutExpired:
            pass
        else:
            raise _start_error(code, log_path)
        try:
            readiness = client.readiness()
        except ServerUnreachableError:
            continue
        if readiness.is_ready:
            return
        reasons = "; ".join(readiness.reasons)
    raise StackStartError(f"the embedded stack was not ready after {START_TIMEOUT_S:.0f} s: {reasons}")


def _start_error(code: int, log_path: Path) -> SettingsError | StackStartError:
    """Why the server ended, by the last line of its log."""
    lines = log_path.read_text(errors="replace").strip().splitlines()
    last_line = lines[-1].removeprefix("trireel: ") if lines else "it wrote no log"
    if code == WRONG_USAGE:
        return SettingsError(last_line.removeprefix(f"{SettingsError.code}: "))
    return StackStartError(f"the embedded stack ended with {code} while starting: {last_line}")


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that it ends what was started, instead of ending this process alone."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
