"""Decoders and encoders, resolved once per topic instead of once per record.

Faust looks the codec up and checks types at every call; here the look-up is done when a topic or
table is set up, and what remains per record is one or two calls. The result is the same bytes and
objects as Faust's, which the tests compare. Anything that is not Faust's stock schema or registry
goes the long way through Faust's own methods.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import orjson
from faust.exceptions import KeyDecodeError, ValueDecodeError
from faust.models import Record
from faust.serializers.codecs import get_codec
from faust.serializers.codecs import json as JsonCodec  # noqa: N812 - a class in Faust
from faust.serializers.registry import Registry
from faust.serializers.schemas import Schema
from faust.utils.json import on_default

if TYPE_CHECKING:
    from collections.abc import Callable

    from faust.types import AppT

    from onceflow.engine.topic import Topic

JSON_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z
"""The options of Faust's own JSON codec, so that bytes are the same as stock Faust's."""

_BLESSED = "__faust"


def is_json(serializer: Any) -> bool:
    """Return whether a serializer argument means Faust's plain JSON codec."""
    if not serializer:
        return False
    codec = get_codec(serializer)
    return type(codec) is JsonCodec and not codec.children


def _record_decoder(model: type[Any], slow: Callable[[bytes | None], Any]) -> Any:
    """Return a decoder of JSON into ``model`` that skips Faust's look-ups where they do nothing."""
    translated = any(d.field != d.input_name for d in model._options.descriptors.values())  # noqa: SLF001
    if translated:
        return slow
    loads = orjson.loads

    def decode(raw: bytes | None) -> Any:
        if raw is None:
            return slow(raw)
        try:
            data = loads(raw)
            if data.__class__ is dict and _BLESSED not in data:
                return model(**data, __strict__=False)
        except (ValueError, TypeError) as error:
            raise ValueDecodeError(str(error)) from error
        return slow(raw)

    return decode


def value_decoder(app: AppT, topic: Topic) -> Callable[[bytes | None], Any]:
    """Return the function that turns a record's value into what the agent receives.

    Raises (when called): ValueDecodeError; the reaction is the agent's ``on_error``.
    """
    schema = topic.schema
    registry = app.serializers
    typ, serializer = schema.value_type, schema.value_serializer
    allow_empty = schema.allow_empty

    def slow(raw: bytes | None) -> Any:
        if raw is None and allow_empty:
            return None
        return registry.loads_value(typ, raw, serializer=serializer)

    effective = serializer or registry.value_serializer
    if (
        type(registry) is Registry
        and isinstance(typ, type)
        and issubclass(typ, Record)
        and is_json(effective)
        and not cast("Any", typ)._options.polymorphic_fields  # noqa: SLF001
    ):
        return cast("Callable[[bytes | None], Any]", _record_decoder(typ, slow))
    return slow


def key_decoder(app: AppT, topic: Topic) -> Callable[[bytes | None], Any]:
    """Return the function that decodes a record's key.

    Raises (when called): KeyDecodeError; the reaction is the agent's ``on_error``.
    """
    schema = topic.schema
    registry = app.serializers

    def decode(raw: bytes | None) -> Any:
        return registry.loads_key(schema.key_type, raw, serializer=schema.key_serializer)

    return decode


def _encoder(serializer: Any, slow: Callable[[Any], bytes | None]) -> Callable[[Any], bytes | None]:
    """Return an encoder that takes the short way for bytes and for JSON of plain values."""
    if not is_json(serializer):
        return slow
    dumps = orjson.dumps

    def encode(value: Any) -> bytes | None:
        cls = value.__class__
        if cls is bytes:
            return value
        if cls is dict or cls is str or cls is int or cls is float or cls is list:
            return dumps(value, default=on_default, option=JSON_OPTIONS)
        return slow(value)

    return encode


def value_encoder(app: AppT, topic: Topic) -> Callable[[Any], bytes | None]:
    """Return the function that encodes the values sent to a topic, as Faust does."""
    schema, registry = topic.schema, app.serializers

    def slow(value: Any) -> bytes | None:
        return registry.dumps_value(schema.value_type, value, serializer=schema.value_serializer)

    if schema.value_type in (str, bytes) and not schema.value_serializer:
        return slow
    return _encoder(schema.value_serializer or registry.value_serializer, slow)


def key_encoder(app: AppT, topic: Topic) -> Callable[[Any], bytes | None]:
    """Return the function that encodes the keys sent to a topic, as Faust does."""
    schema, registry = topic.schema, app.serializers

    def slow(key: Any) -> bytes | None:
        if key is None or key.__class__ is bytes:
            return key
        return registry.dumps_key(schema.key_type, key, serializer=schema.key_serializer)

    if schema.key_type in (str, bytes) and not schema.key_serializer:
        return slow
    return _encoder(schema.key_serializer or registry.key_serializer, slow)


def is_stock_schema(schema: Any) -> bool:
    """Return whether records can be decoded from raw bytes alone, without a message object."""
    cls = type(schema)
    return all(
        getattr(cls, name) is getattr(Schema, name)
        for name in ("loads_value", "loads_key", "dumps_value", "dumps_key")
    )


__all__ = [
    "JSON_OPTIONS",
    "KeyDecodeError",
    "ValueDecodeError",
    "is_json",
    "is_stock_schema",
    "key_decoder",
    "key_encoder",
    "value_decoder",
    "value_encoder",
]
