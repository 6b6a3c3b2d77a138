"""Watches a run from outside, by what its group has committed: progress, commits, recoveries.

Theory of operation: each look reads the group's committed offsets with their markers. A commit of
any worker moves them; the marker tells which incarnation committed, and in which of its epochs, so
the highest epoch of each incarnation counts its commits. A kill is survived when every partition
that still had input at that moment has moved past its offset at the kill.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onceflow.decisions.marker import parse
from onceflow.demo.names import APP_ID, FLIGHTS, REPARTITIONED, WEATHER, partitions_of
from onceflow.kafka.changelog import ChangelogReader
from onceflow.kafka.offsets import CommittedOffsets, Stability

if TYPE_CHECKING:
    from onceflow.ids import CommitEpoch, Incarnation, Partition
    from onceflow.kafka.admin import Admin
    from onceflow.kafka.configuration import ClientConfig

_READ_RECORDS = 10_000
_READ_S = 1.0


@dataclass(slots=True)
class Kill:
    """A worker killed: when (monotonic), where the flights' partitions stood, when they went on."""

    at_s: float
    offsets: dict[Partition, int]
    recovery_s: float | None = None


@dataclass(slots=True)
class Watch:
    """What has been seen of the run.

    Fields: how to reach Kafka, its administration; committed offsets and end offsets by partition;
    the highest commit epoch by incarnation; the kills.
    """

    config: ClientConfig
    admin: Admin
    committed: dict[Partition, int] = field(default_factory=dict["Partition", int])
    ends: dict[Partition, int] = field(default_factory=dict["Partition", int])
    commit_epochs: dict[Incarnation, CommitEpoch] = field(
        default_factory=dict["Incarnation", "CommitEpoch"]
    )
    kills: list[Kill] = field(default_factory=list[Kill])
    _offsets: CommittedOffsets = field(init=False)

    def __post_init__(self) -> None:
        self._offsets = CommittedOffsets(self.config)

    def close(self) -> None:
        """End its readers. Blocks."""
        self._offsets.close()

    async def look(self) -> None:
        """Read committed and end offsets.

        Raises:
            Unreachable: Kafka does not answer.
        """
        # The repartition topic is made by the application at its first start.
        topics = await self.admin.topics([WEATHER, FLIGHTS, REPARTITIONED])
        partitions = [each for topic in topics for each in partitions_of(topic)]
        found = await self._offsets.committed(APP_ID, partitions, Stability.LATEST)
        for partition, row in found.items():
            self.committed[partition] = row.offset or 0
            marker = parse(row.metadata)
            if marker is not None:
                seen = self.commit_epochs.get(marker.incarnation, marker.commit_epoch)
                self.commit_epochs[marker.incarnation] = max(seen, marker.commit_epoch)
        self.ends = await self.admin.end_offsets(partitions)
        self._note_recoveries()

    @property
    def commits(self) -> int:
        """Commits seen, over all incarnations."""
        return sum(self.commit_epochs.values())

    @property
    def flights_done(self) -> int:
        """Flights whose offsets are committed."""
        return sum(self.committed.get(each, 0) for each in partitions_of(FLIGHTS))

    @property
    def survived(self) -> int:
        """Kills after which everything went on."""
        return sum(kill.recovery_s is not None for kill in self.kills)

    def is_done(self, topic: str) -> bool:
        """Whether all that is in a topic, as of the last look, is committed."""
        return all(self.committed.get(p, 0) >= self.ends.get(p, 0) for p in partitions_of(topic))

    def note_kill(self, at_s: float) -> None:
        """Remember a kill at ``at_s`` (monotonic), which the last look has come after."""
        offsets = {each: self.committed.get(each, 0) for each in partitions_of(FLIGHTS)}
        self.kills.append(Kill(at_s, offsets))

    def is_recovering(self) -> bool:
        """Whether a kill's effects are still to be seen."""
        return any(kill.recovery_s is None for kill in self.kills)

    def has_repartitioned_rest(self) -> bool:
        """Whether records that ``group_by`` wrote are not yet committed as processed. Blocks.

        End offsets do not tell: the ends of transactions take offsets too, and no record is there.
        """
        starts = {each: self.committed.get(each, 0) for each in partitions_of(REPARTITIONED)}
        reader = ChangelogReader(self.config, starts)
        try:
            while reader.remaining():
                if reader.poll(_READ_RECORDS, _READ_S):
                    return True
        finally:
            reader.close()
        return False

    def _note_recoveries(self) -> None:
        now_s = time.monotonic()
        for kill in self.kills:
            if kill.recovery_s is None and all(
                self.committed.get(each, 0) > offset or offset >= self.ends.get(each, 0)
                for each, offset in kill.offsets.items()
            ):
                kill.recovery_s = now_s - kill.at_s
