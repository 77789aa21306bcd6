"""What lies beside a published version on this machine: its certificate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orchestrator.core.contract import CERTIFICATE_FILE
from orchestrator.errors import ContractError


def load_certificate(repository: Path, name: str, version: int) -> dict[str, Any] | None:
    """The certificate of a version, as its publish wrote it; None where the repository is not on this machine.

    `name` comes from the catalogue, not from a request. Raises ContractError if the file is damaged.
    """
    path = repository / name / str(version) / CERTIFICATE_FILE
    if not path.is_file():
        return None
    try:
        certificate: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise ContractError(f"the certificate of {name}:{version} cannot be read; publish it again") from exc
    return certificate
