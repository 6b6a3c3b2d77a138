"""Runs of an outbox, and the messages that they are made of."""

from __future__ import annotations

import pytest

from onceflow.errors import (
    ConfigError,
    InvariantViolation,
    LaterVersion,
    SerializationError,
)
from onceflow.limits import OUTBOX_MESSAGE_BYTES_MAX
from onceflow.sinks import OutboxSink, SQLite
from onceflow.sinks.outbox import OnRefused, OutboxRun, on_refused
from onceflow.sinks.outbox_format import decode_message, encode_rows, readable


def run_of(expected=4, next_offset=9, offsets=(5, 6, 8), **options):
    return OutboxRun(0, "t", expected, next_offset, offsets, [b"m"] * len(offsets), **options)


def test_parts_of_a_run_lead_from_its_beginning_to_its_end():
    run = run_of()
    parts = [run.part(range(1)), run.part(range(1, 3))]
    assert [(p.expected, p.next_offset, list(p.offsets)) for p in parts] == [
        (4, 6, [5]),
        (6, 9, [6, 8]),
    ]
    assert run_of(None).part(range(1)).expected is None


@pytest.mark.parametrize(
    "given",
    [{"expected": 6}, {"next_offset": 8}, {"refusal": "two of its three are not refused"}],
    ids=str,
)
def test_a_run_that_would_skip_or_repeat_messages_breaks_inv_outbox_1(given):
    with pytest.raises(InvariantViolation, match="INV-OUTBOX-1"):
        run_of(**given)


def test_rows_come_back_as_they_were_in_pieces_of_the_same_columns():
    rows = [
        (("a", "b"), False, (1, "x")),
        (("a", "b"), False, (2, None)),
        (("a",), True, (1,)),
        (("a",), False, (b"\x00",)),
    ]
    encoded = encode_rows(rows)
    [message] = encoded.payload
    pieces = decode_message(message)
    assert [(p.columns, p.is_delete, list(p.rows)) for p in pieces] == [
        (("a", "b"), False, [(1, "x"), (2, None)]),
        (("a",), True, [(1,)]),
        (("a",), False, [(b"\x00",)]),
    ]
    assert (encoded.rows, encoded.size_bytes) == (4, len(message))
    assert b'"x"' in readable(message)


def test_a_long_yield_becomes_several_messages_and_nothing_none():
    text = "x" * (OUTBOX_MESSAGE_BYTES_MAX // 3)
    encoded = encode_rows([(("a",), False, (text,)) for _ in range(10)])
    assert len(encoded.payload) == 4
    assert max(map(len, encoded.payload)) <= OUTBOX_MESSAGE_BYTES_MAX + 100
    assert sum(len(p.rows) for m in encoded.payload for p in decode_message(m)) == 10
    assert encode_rows([]).payload == []


@pytest.mark.parametrize("message", [b"", b"{}", b"\x92\x01\x91", b"\x91\x01"], ids=repr)
def test_what_is_no_message_of_ours_is_refused(message):
    with pytest.raises(SerializationError):
        decode_message(message)
    assert readable(message) == b""


@pytest.mark.parametrize("message", [b"\x92\x02\x90", b"\x91\x02", b"\x93\x03\xa1x\xc0"], ids=repr)
def test_what_a_later_version_wrote_is_not_judged(message):
    with pytest.raises(LaterVersion, match="Run the version"):
        decode_message(message)
    assert readable(message) == b""


@pytest.mark.parametrize("value", [2**64, "\ud800", object()], ids=["large", "surrogate", "object"])
def test_values_that_cannot_travel_are_refused(value):
    with pytest.raises(SerializationError):
        encode_rows([(("a",), False, (value,))])


def test_policies_are_read_or_refused(tmp_path):
    sink = SQLite(tmp_path / "x.db", table="t", on_error="stop")
    assert isinstance(sink, OutboxSink)
    assert sink.on_error is OnRefused.STOP
    assert on_refused("dead_letter") is OnRefused.DEAD_LETTER
    with pytest.raises(ConfigError, match="dead_letter, stop"):
        on_refused("retry")
