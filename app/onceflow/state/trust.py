"""Whether a warm store may be used, and if not, why it is rebuilt.

Pure decisions over a store's metadata; reads no clock and no file. The rules:

* A store belongs to one application and one Kafka cluster, and each table to one changelog topic by
  its topic id: a topic deleted and created anew starts again at offset 0, and its offsets mean
  something else.
* A changelog forgets a deleted key's tombstone ``delete.retention.ms`` after compacting it. A store
  that has not followed the changelog for longer could keep such a key for ever, so it is trusted
  for half of that time only.
* *As of* which time a table is complete: the store's last applied epoch, because the task's one
  owner writes all its tables and so knows them to be current. A table that is being restored is
  complete only as of an earlier time, which is kept beside it until the first epoch: what it was
  before, or for an empty table the time when its restore began. (A tombstone outlives by
  ``delete.retention.ms`` the compaction that removes the key's older records, so a replay that
  read an older record still finds the tombstone for that long after it began.) A table that only
  follows its changelog, as a GlobalTable does away from its owner, moves that time whenever it
  has reached the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from onceflow.limits import STORE_CLOCK_SKEW_MS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FORMAT_VERSION = 1
"""Version of the layout of files, metadata and keys. Another one is rebuilt, never converted,
because the changelog holds the same rows."""

WHOLE_STORE = "*"
"""Key of a rebuild reason that concerns all tables of a store."""


class StoreIdentity(NamedTuple):
    """Whose state it is: application, Kafka cluster id, and each changelog's Kafka topic id."""

    app: str
    cluster_id: str
    changelog_topic_ids: Mapping[str, str]


class Reason(Enum):
    """Why a store or a table of it is rebuilt from the changelog."""

    OTHER_APP = "other_app"
    OTHER_CLUSTER = "other_cluster"
    OTHER_FORMAT = "other_format"
    OTHER_TOPIC = "other_topic"
    TOO_OLD = "too_old"
    CLOCK = "clock"
    CORRUPT = "corrupt"
    AHEAD_OF_CHANGELOG = "ahead_of_changelog"


class RebuildReason(NamedTuple):
    """A reason for machines, and the same for people."""

    reason: Reason
    text: str


@dataclass(slots=True)
class StoreMetadata:
    """What a store says of itself. Empty strings and dictionaries in a new one."""

    app: str = ""
    cluster_id: str = ""
    applied_ms: int | None = None
    """Wall clock of the last apply, None before the first."""
    topic_ids: dict[str, str] = field(default_factory=dict[str, str])
    positions: dict[str, int] = field(default_factory=dict[str, int])
    """Next changelog offset to replay, per table that has rows."""
    as_of_ms: dict[str, int] = field(default_factory=dict[str, int])
    """As of when a table is complete that follows its changelog instead of being written by
    epochs."""

    def complete_as_of_ms(self, table: str) -> int | None:
        """The time at which ``table`` was complete; None if it has never been written."""
        return self.as_of_ms.get(table, self.applied_ms)


def distrust(
    stored: StoreMetadata,
    identity: StoreIdentity,
    tables: Sequence[str],
    *,
    now_ms: int,
    trusted_for_ms: int,
) -> dict[str, RebuildReason]:
    """The tables that must be rebuilt, with reasons; ``{"*": ...}`` alone for the whole store."""
    if stored.app and stored.app != identity.app:
        return {
            WHOLE_STORE: RebuildReason(
                Reason.OTHER_APP,
                f"it belongs to the application {stored.app!r}, not to {identity.app!r}",
            )
        }
    if stored.cluster_id and stored.cluster_id != identity.cluster_id:
        return {
            WHOLE_STORE: RebuildReason(
                Reason.OTHER_CLUSTER,
                f"it was filled from the Kafka cluster {stored.cluster_id}, but this is "
                f"{identity.cluster_id}, where the same offsets mean other records",
            )
        }
    reasons: dict[str, RebuildReason] = {}
    for table in tables:
        reason = _distrust_table(stored, identity, table, now_ms, trusted_for_ms)
        if reason is not None:
            reasons[table] = reason
    return reasons


def _distrust_table(
    stored: StoreMetadata, identity: StoreIdentity, table: str, now_ms: int, trusted_for_ms: int
) -> RebuildReason | None:
    if table not in stored.positions:
        return None
    topic_id = identity.changelog_topic_ids[table]
    if stored.topic_ids.get(table) != topic_id:
        return RebuildReason(
            Reason.OTHER_TOPIC,
            f"the changelog of table {table!r} is another topic (id {topic_id}) than the one it "
            f"was filled from (id {stored.topic_ids.get(table)}): it was deleted and created anew",
        )
    as_of_ms = stored.complete_as_of_ms(table)
    if as_of_ms is None or as_of_ms - now_ms > STORE_CLOCK_SKEW_MS:
        return RebuildReason(
            Reason.CLOCK,
            f"table {table!r} was last complete at {as_of_ms} ms, which is in the future of "
            f"{now_ms} ms: a clock was wrong, so its age is unknown",
        )
    if now_ms - as_of_ms >= trusted_for_ms:
        return RebuildReason(
            Reason.TOO_OLD,
            f"table {table!r} was last complete {(now_ms - as_of_ms) // 1000} s ago, over "
            f"the {trusted_for_ms // 1000} s (half of the changelog's delete.retention.ms) for "
            "which deleted keys are sure to be seen",
        )
    return None
