"""The console command `trireel`, also as `python -m orchestrator`."""

from __future__ import annotations

from orchestrator.cli.program import program


def main() -> None:
    program(prog_name="trireel")


if __name__ == "__main__":
    main()
