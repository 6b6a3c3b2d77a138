"""Takes secrets out of what is logged or shown: by the name of an option, and within texts.

A value is hidden when the name that it stands under speaks of a secret, whatever the value is, so
that more is hidden than must be (``sasl.mechanism`` too): a log is read by more people than a
configuration file. Pure functions; they never raise for any value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast

HIDDEN = "***"
"""What stands in place of a secret."""

_DEPTH_MAX = 6
"""Nesting that is searched; what lies deeper is hidden whole, so that nothing slips through."""

_REVEALING = r"password|passwd|secret|token|sasl|ssl[._-]?key|api[._-]?key|credential"
_REVEALING_NAME = re.compile(_REVEALING, re.IGNORECASE)
_URL_CREDENTIALS = re.compile(r"(\w[\w+.-]{0,32}://[^\s/?#:@]*):[^\s/?#]*@")
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END[^\n]*|\Z)", re.DOTALL)
# Bounded repetitions, because texts may quote records of a megabyte without a space.
_ASSIGNMENT = re.compile(
    rf"""(?P<name>(?:{_REVEALING})[\w.-]{{0,64}}["']?\s*(?:=|:(?!//))\s*)"""
    r"""(?P<value>"[^"]*"|'[^']*'|[^\s,;&})\]]+)""",
    re.IGNORECASE,
)


def is_secret(name: str) -> bool:
    """Say whether an option, key or variable of this name holds a secret."""
    return _REVEALING_NAME.search(name) is not None


def redact_text(text: str) -> str:
    """Hide private keys, passwords in URLs, and what is assigned to a secret's name."""
    if "PRIVATE KEY" in text:
        text = _PRIVATE_KEY.sub(HIDDEN, text)
    if "@" in text:
        text = _URL_CREDENTIALS.sub(rf"\1:{HIDDEN}@", text)
    if _REVEALING_NAME.search(text):
        text = _ASSIGNMENT.sub(rf"\g<name>{HIDDEN}", text)
    return text


def redact(value: object, depth: int = 0) -> object:
    """Return ``value`` with secrets hidden, in mappings, sequences and texts at any depth."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str | bytes):
        return redact_text(value if isinstance(value, str) else value.decode("utf-8", "replace"))
    if depth >= _DEPTH_MAX:
        return HIDDEN
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return {
            str(key): HIDDEN if is_secret(str(key)) else redact(each, depth + 1)
            for key, each in items
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(each, depth + 1) for each in cast("list[object]", value)]
    return redact_text(str(value))
