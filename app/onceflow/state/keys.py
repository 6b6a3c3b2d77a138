"""Keys of stores: how a changelog key becomes bytes that sort usefully, and back, byte for byte.

Plain tables use the changelog key as it is. A windowed table's changelog key is what Faust writes,
``[<inner JSON>,[<start>,<end>]]`` with both bounds as floats in seconds (Faust's key is the tuple
``(key, (start, end))`` through its ``json`` codec: ``faust/tables/base.py``,
``faust/utils/json.py``). Its store key is

    8 bytes  start, an IEEE double encoded so that bytes sort as numbers do
    8 bytes  end, likewise
    n bytes  the inner key's JSON, as it stands in the changelog key

Start comes first, so that expired windows are one range, and the range of one window is a prefix.

A changelog key whose bounds are not spelled as Faust spells them (``0`` for ``0.0``, or a
trailing blank) is a key of its own, because Kafka and Faust compare bytes. It is kept whole behind
a zero byte after the 16 bytes of its bounds; no JSON text begins with a zero byte, so the two forms
cannot meet. That makes the round trip exact for every key that is accepted.

Sans-IO: imports no rocksdict.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, NamedTuple, cast

import orjson

from onceflow.errors import DeserializationError, invariant
from onceflow.limits import WINDOW_CODES_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable

BOUNDS_BYTES = 16
"""Length of the two encoded bounds that a windowed store key begins with."""

_WHOLE_KEY = b"\x00"
_FIRST_USUAL = b"[" + _WHOLE_KEY
_AFTER_USUAL = b"\\"
# A changelog key is taken the usual way if its first two bytes lie between these: a bracket, and no
# zero byte after it.

_DOUBLE = struct.Struct(">d")
_BITS = struct.Struct(">Q")
_SIGN = 1 << 63
_ALL = (1 << 64) - 1


class WindowKey(NamedTuple):
    """A windowed store key taken apart: the inner key's bytes, start and end in seconds."""

    inner: bytes
    start_s: float
    end_s: float


def encode_seconds(seconds: float) -> bytes:
    """Eight bytes that sort as the number does; exact for every finite float.

    Non-negative numbers get their sign bit set, negative ones all bits inverted, which is the
    customary order-preserving form of IEEE doubles. ``-0.0`` sorts before ``0.0`` and is kept
    apart.
    """
    invariant(
        math.isfinite(seconds), "INV-KEY-1: a window bound is a finite number", seconds=seconds
    )
    (bits,) = cast("tuple[int]", _BITS.unpack(_DOUBLE.pack(seconds)))
    return _BITS.pack(bits ^ _ALL if bits & _SIGN else bits | _SIGN)


def decode_seconds(encoded: bytes) -> float:
    """The float that ``encode_seconds`` was given."""
    (bits,) = cast("tuple[int]", _BITS.unpack(encoded))
    (seconds,) = cast(
        "tuple[float]", _DOUBLE.unpack(_BITS.pack(bits & ~_SIGN if bits & _SIGN else bits ^ _ALL))
    )
    return seconds


def window_bounds(start_s: float, end_s: float) -> bytes:
    """The 16 bytes that all store keys of this window begin with: build it once per window."""
    return encode_seconds(start_s) + encode_seconds(end_s)


def window_key(inner: bytes, start_s: float, end_s: float) -> bytes:
    """Store key of ``inner`` (the key's JSON bytes) in the window ``[start_s, end_s]``."""
    return encode_seconds(start_s) + encode_seconds(end_s) + inner


def split_window_key(store_key: bytes) -> WindowKey:
    """Take a windowed store key apart. The inner key is its JSON, whatever form the key has."""
    start_s = decode_seconds(store_key[:8])
    end_s = decode_seconds(store_key[8:BOUNDS_BYTES])
    inner = store_key[BOUNDS_BYTES:]
    if inner.startswith(_WHOLE_KEY):
        inner = inner[2 : inner.rindex(b",[")]
    return WindowKey(inner, start_s, end_s)


def expired_ranges(table: str, horizon_start_s: float) -> tuple[bytes, bytes]:
    """The key range ``[first, second)`` of all windows that start before ``horizon_start_s``."""
    invariant(
        math.isfinite(horizon_start_s),
        "INV-KEY-1: an expiry horizon is a finite number",
        table=table,
        horizon_start_s=horizon_start_s,
    )
    return b"", encode_seconds(horizon_start_s)


def from_changelog(key: bytes) -> bytes:
    """Store key of a windowed table's changelog key.

    Raises:
        DeserializationError: the key is not of Faust's windowed form, so the topic is not the
            changelog of a windowed table. The message says which key; stop and check the table.
    """
    return from_changelog_many((key,))[0]


def to_changelog(store_key: bytes) -> bytes:
    """The changelog key that ``from_changelog`` was given, byte for byte."""
    return to_changelog_many((store_key,))[0]


def from_changelog_many(keys: Iterable[bytes]) -> list[bytes]:
    """``from_changelog`` over a column. Few windows share many keys, so bounds are looked up."""
    store_keys: list[bytes] = []
    add = store_keys.append
    known = _bounds_of_suffix.get
    for key in keys:
        cut = key.rfind(b",[")
        bounds = known(key[cut:])
        if bounds is None or not _FIRST_USUAL < key[:2] < _AFTER_USUAL:
            add(_from_unseen(key, cut))
        else:
            add(bounds + key[1:cut])
    return store_keys


def to_changelog_many(store_keys: Iterable[bytes]) -> list[bytes]:
    """``to_changelog`` over a column."""
    keys: list[bytes] = []
    add = keys.append
    known = _suffix_of_bounds.get
    for store_key in store_keys:
        inner = store_key[BOUNDS_BYTES:]
        if inner.startswith(_WHOLE_KEY):
            add(inner[1:])
            continue
        bounds = store_key[:BOUNDS_BYTES]
        add(b"[" + inner + (known(bounds) or _suffix_of(bounds)))
    return keys


# Two memos of pure functions, emptied when full: windows pass by in time order, so that what was
# dropped is rarely asked for again.
_bounds_of_suffix: dict[bytes, bytes] = {}
_suffix_of_bounds: dict[bytes, bytes] = {}


def _from_unseen(key: bytes, cut: int) -> bytes:
    """Parse the bounds of one changelog key and remember them if they are spelled as usual."""
    suffix = key[cut:]
    bounds = _parse_bounds(key, suffix)
    if _spelling(bounds) != suffix or key[1:2] == _WHOLE_KEY:
        return bounds + _WHOLE_KEY + key
    if len(_bounds_of_suffix) >= WINDOW_CODES_MAX:
        _bounds_of_suffix.clear()
    _bounds_of_suffix[suffix] = bounds
    return bounds + key[1:cut]


def _parse_bounds(key: bytes, suffix: bytes) -> bytes:
    """The encoded bounds in ``,[start,end]]``, or the error that names the key."""
    try:
        parsed: object = orjson.loads(suffix.rstrip()[1:-1]) if key.startswith(b"[") else None
    except orjson.JSONDecodeError:
        parsed = None
    if isinstance(parsed, list):
        found = cast("list[object]", parsed)
        numbers = [float(n) for n in found if isinstance(n, int | float) and math.isfinite(n)]
        if len(numbers) == len(found) == 2:  # noqa: PLR2004 - a start and an end
            return window_bounds(numbers[0], numbers[1])
    raise DeserializationError(
        f"The changelog key {key[:200]!r} is not of a windowed table ([key,[start,end]]). Its row "
        "cannot be restored, and skipping it would lose state. Check that the table was not "
        "changed from plain to windowed under the same name; if it was, give it a new name."
    )


def _spelling(bounds: bytes) -> bytes:
    """How Faust writes these bounds at the end of a windowed key."""
    start, end = decode_seconds(bounds[:8]), decode_seconds(bounds[8:])
    return b"," + orjson.dumps([start, end]) + b"]"


def _suffix_of(bounds: bytes) -> bytes:
    if len(_suffix_of_bounds) >= WINDOW_CODES_MAX:
        _suffix_of_bounds.clear()
    suffix = _suffix_of_bounds[bounds] = _spelling(bounds)
    return suffix
