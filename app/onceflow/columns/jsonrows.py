"""Reads JSON values into columns, each value on its own, so that each error has its record.

Values are decoded one by one, never joined into one document: two broken values could otherwise
complete each other into something that decodes. With msgspec this costs no more than the joined
document does (tests/bench/bench_columns.py).

Must never import Faust, Kafka or RocksDB.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, get_args

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onceflow.columns.batch import RecordBatch


class JsonRows:
    """Decodes the named fields of JSON objects; what is not named is skipped.

    Args:
        fields: the type expression of each JSON field by its name in the JSON. A type that admits
            None makes the field optional: absent is None.
    """

    __slots__ = ("_attributes", "_decode")

    def __init__(self, fields: Mapping[str, Any]) -> None:
        # JSON names may be no identifiers, so the struct has names of its own.
        self._attributes = {name: f"f{index}" for index, name in enumerate(fields)}
        members: list[tuple[str, Any] | tuple[str, Any, None]] = [
            (attribute, fields[name], None)
            if type(None) in get_args(fields[name])
            else (attribute, fields[name])
            for name, attribute in self._attributes.items()
        ]
        row = msgspec.defstruct(
            "Row",
            members,
            rename={attribute: name for name, attribute in self._attributes.items()},
            kw_only=True,
            # Rows live for one call and hold no cycles; tracking them would only cost.
            gc=False,
        )
        self._decode = msgspec.json.Decoder(row).decode

    def decode(self, batch: RecordBatch) -> list[Any]:
        """Give a row object per record.

        Raises:
            ColumnDecodeError: names the first record whose value does not decode.
        """
        return decoded(batch, "value", batch.values, self._decode)

    def column(self, rows: list[Any], name: str) -> list[Any]:
        """Give the JSON field ``name`` of each row."""
        return list(map(attrgetter(self._attributes[name]), rows))


def json_decoder(annotation: Any) -> Callable[[bytes], Any]:
    """Give a function that reads one JSON document as this type expression."""
    return msgspec.json.Decoder(annotation).decode


def decoded(
    batch: RecordBatch,
    what: str,
    column: Sequence[bytes | None],
    decode: Callable[[Any], Any],
) -> list[Any]:
    """Decode each entry of a column.

    Args:
        batch: whose column it is, for the error.
        what: ``key`` or ``value``, for the error.
        column: one entry per record.
        decode: raises ValueError or TypeError for an entry that it refuses.

    Raises:
        ColumnDecodeError: names the first record whose entry does not decode.
    """
    try:
        return list(map(decode, column))
    except (ValueError, TypeError):
        for index, entry in enumerate(column):
            try:
                decode(entry)
            except (ValueError, TypeError) as reason:
                why = "there is none (a tombstone)" if entry is None else str(reason)
                raise batch.blame(index, what, why) from reason
        raise
