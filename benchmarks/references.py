"""The programs of `denominators/`, kept running and asked for so many frames at a time."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.pairs import Cost

DENOMINATORS: Final = Path(__file__).with_name("denominators")


class Reference:
    """A program that does nothing until it is asked, and then measures itself."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def cost(self, frames: int) -> Cost:
        """Raises RuntimeError when the program ended; its last words are on standard error."""
        if self._process.stdin is None or self._process.stdout is None:
            raise ValueError("a reference needs pipes")
        self._process.stdin.write(f"{frames}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self._process.args!r} ended instead of measuring")
        return Cost(**json.loads(answer))


@contextmanager
def open_reference(python: Path, program: str, *arguments: object) -> Iterator[Reference]:
    """python: of the environment to run `denominators/<program>` in."""
    command: Sequence[str] = [str(python), str(DENOMINATORS / program), *(str(argument) for argument in arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            yield Reference(process)
        finally:
            if process.stdin is not None:
                process.stdin.close()
            process.wait(30)
