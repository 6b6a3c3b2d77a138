"""The marker: offset metadata that proves which epoch of which incarnation committed an offset.

Every transaction writes one for every claimed partition. Its text is compact,
versioned and bounded, because Kafka stores it once per partition and commit. Reading is strict:
metadata that is not understood is somebody else's or of a newer onceflow, and guessing there
would resume from offsets whose meaning is unknown.

This module also holds the rule for ``attempts``, the only count that survives a killed process.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from onceflow.errors import DataAtRisk, invariant
from onceflow.ids import CommitEpoch, Incarnation, Offset
from onceflow.limits import MARKER_BYTES_MAX

_VERSION: Final = "of1"
"""Grows when a field changes its meaning; an older onceflow then refuses to go on."""

PROBATION_ATTEMPTS: Final = 2
"""Owners lost in a row at one offset before its record is tried alone.

One lost owner is ordinary (a killed process); two without any progress in between point at the
records. From there on single-record attempts are noted in the marker before they begin, so that
counts above this number are exact and blame one record.
"""


NO_COMMIT_EPOCH: Final = CommitEpoch(0)
"""Commit epochs count from 1."""


class Handover(StrEnum):
    """Whether the owner named by a marker may still write."""

    HELD = "h"
    """The owner did not say goodbye: fence it before its partition is used."""
    RELEASED = "r"
    """The owner handed the partition over with this very transaction: no fence needed."""


@dataclass(frozen=True, slots=True)
class Marker:
    """Offset metadata of one claimed partition in one committed transaction."""

    incarnation: Incarnation
    """Who committed it."""
    commit_epoch: CommitEpoch
    """Which attempt of that incarnation; the same number on all its claimed partitions."""
    with_participants: CommitEpoch = NO_COMMIT_EPOCH
    """k: the incarnation's last committed epoch that had participants; 0 for none."""
    released: Handover = Handover.HELD
    attempts: int = 0
    """How often processing from this very offset was begun without progress.

    Up to ``PROBATION_ATTEMPTS``: owners lost in a row at this offset. Above: as many single-record
    attempts more, each noted before it began. Invariant: 0 after progress.
    """
    participants: tuple[str, ...] = ()
    """Names of the participants of ``with_participants``; each of them has to show that epoch."""

    def encode(self) -> str:
        """The offset metadata for Kafka: ASCII, at most 256 bytes.

        Raises:
            InvariantViolation: INV-MARKER, a field that would not be read back as it is.
        """
        fields = (
            f"{self.incarnation}:{self.commit_epoch}:{self.with_participants}"
            f":{self.released.value}:{self.attempts}"
        )
        if self.participants:
            fields += ":" + ",".join(self.participants)
        text = f"{_VERSION}:{fields}"
        invariant(
            len(text.encode()) <= MARKER_BYTES_MAX and _FORM.fullmatch(fields) is not None,
            "INV-MARKER: a marker fits its bound and is read back as it was written",
            marker=text,
        )
        return text


@dataclass(frozen=True, slots=True)
class CommittedOffset:
    """What Kafka holds for one partition of the group: a position and who wrote it."""

    offset: Offset | None
    """None: the group never committed this partition."""
    marker: Marker | None
    """None: never written by onceflow (nothing committed, or by another application)."""


_FORM: Final = re.compile(
    r"(?P<incarnation>[A-Za-z0-9_-]{1,64}):(?P<commit_epoch>[0-9]{1,19})"
    r":(?P<with_participants>[0-9]{1,19}):(?P<released>[hr]):(?P<attempts>[0-9]{1,9})"
    r"(:(?P<participants>[a-z0-9_]{1,16}(,[a-z0-9_]{1,16})*))?"
)


def parse(metadata: str | None) -> Marker | None:
    """Read offset metadata.

    Returns:
        The marker, or None for empty metadata: offsets that onceflow never wrote, such as those of
        a stock Faust group, which are continued.

    Raises:
        DataAtRisk: metadata of another tool or of a newer onceflow; do not start before it is
            known who commits offsets of this group.
    """
    if not metadata:
        return None
    version, _, rest = metadata.partition(":")
    if version != _VERSION:
        raise DataAtRisk(
            f"the committed offset carries metadata that this onceflow does not understand: "
            f"{metadata[:80]!r}. It was written by a newer onceflow or by another program that "
            f"commits offsets of this consumer group, so resuming could lose or double records. "
            f"Run the newer version again, or stop the other program and reset the group knowingly."
        )
    found = _FORM.fullmatch(rest)
    if found is None:
        raise DataAtRisk(
            f"the committed offset carries a damaged marker: {metadata[:80]!r}. Who committed the "
            f"offset is unknown, so resuming could lose or double records. Find out what changed "
            f"the group's offsets, then reset them knowingly."
        )
    names = found["participants"]
    return Marker(
        incarnation=Incarnation(found["incarnation"]),
        commit_epoch=CommitEpoch(int(found["commit_epoch"])),
        with_participants=CommitEpoch(int(found["with_participants"])),
        released=Handover(found["released"]),
        attempts=int(found["attempts"]),
        participants=tuple(names.split(",")) if names else (),
    )


def claim_attempts(
    previous: Marker | None, previous_offset: Offset | None, claim_offset: Offset
) -> int:
    """The ``attempts`` with which a partition is claimed.

    An owner lost without progress counts, up to ``PROBATION_ATTEMPTS``; one that released the
    partition does not, and neither does one whose records were committed since.
    """
    if previous is None or previous_offset != claim_offset:
        return 0
    if previous.released is Handover.RELEASED or previous.attempts >= PROBATION_ATTEMPTS:
        return previous.attempts
    return previous.attempts + 1


def commit_attempts(present: int, *, moved: bool, noted: bool) -> int:
    """The ``attempts`` of a partition in an epoch's marker.

    Args:
        present: the count in the last committed marker.
        moved: whether the epoch commits a higher offset than the last one.
        noted: whether a single-record attempt at the committed offset is about to begin.
    """
    kept = 0 if moved else present
    return max(kept, PROBATION_ATTEMPTS) + 1 if noted else kept


def noted_attempts(attempts: int) -> int:
    """How many single-record attempts at this very offset were begun and not finished."""
    return max(0, attempts - PROBATION_ATTEMPTS)
