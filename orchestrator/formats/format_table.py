"""The formats that detections leave in, by name."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from orchestrator.errors import FormatUnknownError
from orchestrator.formats.csv_text import encode_csv
from orchestrator.formats.json_text import encode_json, encode_ndjson
from orchestrator.formats.parquet_file import encode_parquet
from orchestrator.results import DetectionBlock, ResultHeader

Encode = Callable[[ResultHeader, AsyncIterator[DetectionBlock]], AsyncGenerator[bytes, None]]


@dataclass(frozen=True, slots=True)
class Format:
    """encode: streams a result in frame order; suffix: of a file of it."""

    name: str
    media_type: str
    suffix: str
    encode: Encode


FORMATS: Final[Mapping[str, Format]] = {
    known.name: known
    for known in (
        Format("json", "application/json", ".json", encode_json),
        Format("ndjson", "application/x-ndjson", ".ndjson", encode_ndjson),
        Format("csv", "text/csv", ".csv", encode_csv),
        Format("parquet", "application/vnd.apache.parquet", ".parquet", encode_parquet),
    )
}


def format_named(name: str) -> Format:
    """Raises FormatUnknownError, which names the formats there are."""
    if name not in FORMATS:
        raise FormatUnknownError(f"there is no format {name!r:.40}; ask for {', '.join(FORMATS)}")
    return FORMATS[name]
