"""What a member counts: a plain table, so that no metrics library is needed.

``as_table`` gives names and values; whoever exports metrics reads it when asked. Names ending in
``_total`` only grow while the process lives, the others are states.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(slots=True)
class Counters:
    """Counts since the member started."""

    commands_total: int = 0
    """Commands of clients that were proposed here and applied."""
    entries_applied_total: int = 0
    queries_total: int = 0
    read_rounds_total: int = 0
    """Rounds that confirmed linearizable reads; each serves all reads that waited."""
    refused_not_leader_total: int = 0
    refused_overloaded_total: int = 0
    refused_other_total: int = 0
    proposals_dropped_total: int = 0
    peer_messages_received_total: int = 0
    peer_messages_refused_total: int = 0
    connections_refused_total: int = 0
    elections_won_total: int = 0
    leader_changes_total: int = 0
    snapshots_taken_total: int = 0
    snapshots_sent_total: int = 0
    snapshots_received_total: int = 0
    snapshot_failures_total: int = 0
    disk_stalls_total: int = 0
    turns_total: int = 0

    def as_table(self) -> dict[str, float]:
        """Return all counts by name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}
