"""Registers the shared fixtures of ``tests/harness``."""

from __future__ import annotations

pytest_plugins = [
    "harness.kafka",
    "harness.mariadb_place",
    "harness.mariadb_server",
    "harness.postgres_server",
]
