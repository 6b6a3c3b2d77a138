"""Where two logs agree: the checks of AppendEntries and of votes (Raft paper, 5.3 and 5.4.1).

Free functions over a log. The rules: an append is taken only after the entry it follows matches;
only entries that conflict are replaced, because a delayed append must not cut off newer ones;
a position is compared lexicographically by (term, index).
Must never import anything that does I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onceflow_consensus.errors import invariant
from onceflow_consensus.raft.messages import EntryId

if TYPE_CHECKING:
    from onceflow_consensus.raft.log import RaftLog
    from onceflow_consensus.raft.messages import Entry, LogIndex, Term


def is_contiguous(previous: EntryId, entries: tuple[Entry, ...], term: Term) -> bool:
    """Whether entries follow ``previous`` without holes, with terms that never fall, up to term."""
    index, last_term = previous.index, previous.term
    for entry in entries:
        if entry.index != index + 1 or entry.term < last_term:
            return False
        index, last_term = entry.index, entry.term
    return last_term <= term


def append_from_leader(
    log: RaftLog, previous: EntryId, entries: tuple[Entry, ...], commit_index: LogIndex
) -> LogIndex | None:
    """Take an append; return the index up to which the logs are known to agree.

    Returns:
        The last index that this append proves, not the log's last: entries above it may differ
        from the leader's. None if the log does not hold ``previous``.

    Raises:
        InvariantViolation: the append contradicts a committed entry.
    """
    if not log.matches(previous):
        return None
    proven_index = previous.index + len(entries)
    conflict = find_conflict(log, entries)
    if conflict:
        invariant(
            conflict > log.commit_index,
            "INV-RAFT-3: a leader's log holds every committed entry",
            conflict=conflict,
            commit_index=log.commit_index,
        )
        log.append(entries[conflict - previous.index - 1 :])
    log.commit_to(min(commit_index, proven_index))
    return proven_index


def find_conflict(log: RaftLog, entries: tuple[Entry, ...]) -> LogIndex:
    """Return the first index at which ``entries`` differ from the log or go beyond it, else 0."""
    for entry in entries:
        if log.term_at(entry.index) != entry.term:
            return entry.index
    return 0


def find_conflict_by_term(log: RaftLog, index: LogIndex, term: Term) -> EntryId:
    """Return the highest position at or below ``index`` whose term does not exceed ``term``.

    Both sides of a rejected append use it to skip a whole term's worth of entries that cannot
    match. The term is 0 where the log no longer knows it.
    """
    while index > 0:
        own_term = log.term_at(index)
        if own_term is None:
            return EntryId(0, index)
        if own_term <= term:
            return EntryId(own_term, index)
        index -= 1
    return EntryId(0, 0)


def is_up_to_date(log: RaftLog, candidate: EntryId) -> bool:
    """Whether a candidate whose log ends there holds all that may be committed here (5.4.1)."""
    own = log.last_id
    return (candidate.term, candidate.index) >= (own.term, own.index)
