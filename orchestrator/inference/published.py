"""What lies in the model repository on this machine, beside what Triton serves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orchestrator.core.contract import CERTIFICATE_FILE, METADATA_FILE
from orchestrator.errors import ContractError


def largest_imgsz(repository: Path) -> int:
    """The largest `imgsz` of all versions published here; 0 where there are none, or none on this machine."""
    return max((_imgsz_in(path) for path in repository.glob(f"*/*/{METADATA_FILE}")), default=0)


def _imgsz_in(metadata: Path) -> int:
    try:
        imgsz = json.loads(metadata.read_text(encoding="utf-8"))["card"]["imgsz"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ContractError(f"{metadata} cannot be read; publish the model again, or remove it") from exc
    return int(imgsz)


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
