"""Every bound, with its unit and its reason. A bound that users may change is a setting."""

from __future__ import annotations

MARKER_BYTES_MAX = 256
"""Offset metadata of a marker. Kafka refuses more than 4,096 bytes; 256 keeps commits small."""
