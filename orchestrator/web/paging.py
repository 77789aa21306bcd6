"""What list calls share, and who asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, TypeAlias

from litestar.params import QueryParameter

MAX_PAGE_ITEMS: Final = 100
DEFAULT_PAGE_ITEMS: Final = 20
# Until there are API keys, everything belongs to one owner.
OWNER: Final = "local"

Limit: TypeAlias = Annotated[
    int, QueryParameter(ge=1, le=MAX_PAGE_ITEMS, description=f"Most items of the page, 1 to {MAX_PAGE_ITEMS}.")
]
Cursor: TypeAlias = Annotated[
    str | None, QueryParameter(max_length=200, description="`next_cursor` of the page before; left out: the newest.")
]


def words_of(texts: Sequence[str] | None) -> tuple[str, ...] | None:
    """The words of a query parameter that may be repeated, hold commas, or both; None where it is left out."""
    if texts is None:
        return None
    return tuple(word for text in texts for word in map(str.strip, text.split(",")) if word)
