"""Pins: the cluster and topics that this worker's state was made from.

Committed offsets and local state mean something only for the topics they were made from. A topic
deleted and made again under its name, another partition count or another cluster would be consumed
from offsets that belong to something else, so a change is refused at the start. The pins lie beside
the stores; a worker with an empty data directory has none and writes them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from onceflow.errors import DataAtRisk

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from onceflow.kafka.admin import TopicDescription

FILE_NAME = "topics.json"
_FORMAT = 1


def check_pins(
    directory: Path, app: str, cluster_id: str, topics: Mapping[str, TopicDescription]
) -> None:
    """Compare with what was pinned at the first start; pin what is new.

    Raises:
        DataAtRisk: cluster, topic id or partition count changed; exit 4, nothing was consumed.
    """
    path = directory / FILE_NAME
    pinned = _read(path)
    if pinned.cluster_id not in (None, cluster_id):
        raise DataAtRisk(
            f"The state in {directory} was made on the Kafka cluster {pinned.cluster_id}, and "
            f"this one is {cluster_id}: its offsets and topics are others. Nothing was consumed. "
            "Correct the broker address; or, if the move is meant, start with an empty data "
            "directory and check the group's offsets on the new cluster first."
        )
    for name, description in sorted(topics.items()):
        seen = (description.topic_id, description.partition_count)
        known = pinned.topics.setdefault(name, seen)
        if known[0] != seen[0]:
            raise DataAtRisk(
                f"The topic {name} was deleted and made again since this application first read "
                f"it (topic id {known[0]}, now {seen[0]}): committed offsets and state of {app} "
                "belong to the old one, so records would be lost or counted wrongly. Nothing was "
                f"consumed. Reset the group's offsets and the changelogs knowingly, then remove "
                f"{path} on every worker."
            )
        if known[1] != seen[1]:
            raise DataAtRisk(
                f"The topic {name} had {known[1]} partitions when this application first read it, "
                f"and has {seen[1]} now: keys have moved to other partitions than their state. "
                "Nothing was consumed. Copy the topic into one with the old number of partitions, "
                f"or rebuild the application under another id; to accept the change remove {path}."
            )
    pinned.cluster_id = cluster_id
    _write(path, pinned)


@dataclass(slots=True)
class _Pins:
    cluster_id: str | None
    topics: dict[str, tuple[str, int]]


def _read(path: Path) -> _Pins:
    if not path.exists():
        return _Pins(None, {})
    content = orjson.loads(path.read_bytes())
    if content.get("format") != _FORMAT:
        raise DataAtRisk(
            f"{path} was written by another version of onceflow (format {content.get('format')}, "
            f"this one reads {_FORMAT}). Nothing was consumed. Run the version that wrote it, or "
            "remove the file after checking that the topics are the same."
        )
    topics = {name: (topic_id, count) for name, (topic_id, count) in content["topics"].items()}
    return _Pins(content["cluster_id"], topics)


def _write(path: Path, pins: _Pins) -> None:
    """Replace the file as a whole, so that a crash leaves the old or the new one."""
    content = {"format": _FORMAT, "cluster_id": pins.cluster_id, "topics": pins.topics}
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
    fresh.replace(path)
