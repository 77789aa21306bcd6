"""Pages of a table, newest first. The cursor is the number of the last row told, as opaque text."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Column, Connection, RowMapping, Select

from orchestrator.errors import CursorInvalidError
from orchestrator.ports import Page

Item = TypeVar("Item")


def read_page(
    connection: Connection,
    rows: Select[Any],
    *,
    seq: Column[int],
    to_item: Callable[[RowMapping], Item],
    limit: int,
    cursor: str | None,
) -> Page[Item]:
    """At most `limit` of `rows`, which must hold the column `seq`. Raises CursorInvalidError."""
    if cursor is not None:
        rows = rows.where(seq < _to_seq(cursor))
    # One more than asked for tells whether there is a next page.
    found: Sequence[RowMapping] = connection.execute(rows.order_by(seq.desc()).limit(limit + 1)).mappings().all()
    shown = found[:limit]
    return Page(
        items=[to_item(row) for row in shown],
        next_cursor=_to_cursor(shown[-1]["seq"]) if len(found) > limit else None,
    )


def _to_cursor(seq: int) -> str:
    return base64.urlsafe_b64encode(seq.to_bytes(8, "big")).decode().rstrip("=")


def _to_seq(cursor: str) -> int:
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as exc:
        raise CursorInvalidError("the cursor is not one of ours; start without one") from exc
    if len(raw) != 8 or raw[0] > 0x7F:
        raise CursorInvalidError("the cursor is not one of ours; start without one")
    return int.from_bytes(raw, "big")
