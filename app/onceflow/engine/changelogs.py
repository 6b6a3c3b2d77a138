"""Whether the changelog topics keep what state is restored from.

A changelog that another program made (stock Faust makes those of windowed tables with
``compact,delete``) may delete rows by age, or compact operations away. Records that are gone cannot
be missed by a restore, so this is looked at before any state is used: what loses state for certain
is refused, what may lose it later is said with the command that mends it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onceflow.errors import TopologyError
from onceflow.observe.events import LogEvent
from onceflow.observe.logs import get_logger
from onceflow.state.restore import KeyLayout

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

log = get_logger(__name__)

DELETE_RETENTION_MS = 86_400_000
"""Kafka's default ``delete.retention.ms``. A store is trusted for half of it: later, tombstones may
be gone from the changelog, and deleted keys would come back."""

_OPERATIONS = frozenset({KeyLayout.SETS, KeyLayout.WINDOWED_SETS})
_FOR_EVER = "-1"


def check_changelogs(
    sources: Iterable[Any], configs: Mapping[str, Mapping[str, str]], bootstrap: str
) -> int:
    """Look at the configuration of all changelogs; return the shortest ``delete.retention.ms``.

    Args:
        sources: tables and aggregates.
        configs: effective configuration per topic.
        bootstrap: brokers, for the commands that are told.

    Raises:
        TopologyError: a log of set operations is compacted, so that members are lost or come back.
    """
    shortest_ms = DELETE_RETENTION_MS
    for source in sources:
        topic = source.changelog_topic_name
        config = configs.get(topic, {})
        policies = set(config.get("cleanup.policy", "compact").split(","))
        if source.layout in _OPERATIONS:
            _check_operations(source.name, topic, policies, config, bootstrap)
            continue
        shortest_ms = min(shortest_ms, int(config.get("delete.retention.ms", DELETE_RETENTION_MS)))
        if "delete" in policies and _cuts_off(config):
            log.warning(
                LogEvent.CHANGELOG_CONFIG,
                table=source.name,
                topic=topic,
                cleanup_policy=",".join(sorted(policies)),
                retention_ms=config.get("retention.ms"),
                meaning="rows that nobody wrote for so long are deleted from the changelog while "
                "the table still has them; the next restore would lose them",
                action=_command(bootstrap, topic, "cleanup.policy=compact"),
            )
    return shortest_ms


def _check_operations(
    table: str, topic: str, policies: set[str], config: Mapping[str, str], bootstrap: str
) -> None:
    keep = _command(bootstrap, topic, "cleanup.policy=delete,retention.ms=-1,retention.bytes=-1")
    if "compact" in policies:
        raise TopologyError(
            f"The changelog {topic} of the set table {table} is compacted, but it is a log of "
            "operations of which each one counts: compaction has removed members already, or will. "
            f"Nothing was consumed. Change it with: {keep} -- and rebuild the sets from their "
            "input if it was compacted for long."
        )
    if _cuts_off(config):
        log.warning(
            LogEvent.CHANGELOG_CONFIG,
            table=table,
            topic=topic,
            retention_ms=config.get("retention.ms"),
            retention_bytes=config.get("retention.bytes"),
            meaning="operations older than that are deleted, and the members they added would be "
            "missing after the next restore",
            action=keep,
        )


def _cuts_off(config: Mapping[str, str]) -> bool:
    """Return whether a topic that deletes loses records by age or size."""
    return (
        config.get("retention.ms", _FOR_EVER) != _FOR_EVER
        or config.get("retention.bytes", _FOR_EVER) != _FOR_EVER
    )


def _command(bootstrap: str, topic: str, config: str) -> str:
    return (
        f"kafka-configs.sh --bootstrap-server {bootstrap} --alter --entity-type topics "
        f"--entity-name {topic} --add-config {config}"
    )
