"""A mount namespace of the test's own: small file systems that programs started in it fill up, and nobody else sees.

The namespace is held by a program that reads its standard input, so it goes with the test however that ends.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

READY: Final = "ready\n"


@dataclass(frozen=True, slots=True)
class PrivateMounts:
    """pid: of the holder."""

    pid: int

    @property
    def command_prefix(self) -> list[str]:
        """Before a command that is to run inside."""
        return ["nsenter", f"--mount=/proc/{self.pid}/ns/mnt", "--"]

    def seen(self, path: Path) -> Path:
        """The path of a folder inside, as it is reached from outside."""
        return Path(f"/proc/{self.pid}/root") / path.relative_to("/")

    def run(self, *command: str | Path) -> None:
        """Inside. Raises CalledProcessError."""
        subprocess.run([*self.command_prefix, *command], check=True, capture_output=True)


@contextmanager
def private_mounts(sizes: Mapping[Path, int]) -> Iterator[PrivateMounts]:
    """sizes: of the file system in memory at each folder, in bytes; the folders exist."""
    mounts = "".join(f"mount -t tmpfs -o size={size} none '{path}' && " for path, size in sizes.items())
    holder = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", f"{mounts} echo {READY.strip()} && exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        if holder.stdout.readline() != READY:
            raise OSError(f"no private mounts: unshare ended with {holder.wait()}")
        yield PrivateMounts(holder.pid)
    finally:
        holder.stdin.close()
        holder.wait()
        holder.stdout.close()


def lack_of_private_mounts() -> str | None:
    """Why there can be none; None where there can."""
    command = ["unshare", "--mount", "--propagation", "private", "mount", "-t", "tmpfs", "none", "/dev/shm"]
    try:
        tried = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unshare is not installed: apt-get install util-linux"
    return None if tried.returncode == 0 else f"this kernel lets nobody mount privately: {tried.stderr.strip()}"
