"""What is known of a whole group, and what must therefore hold: the safety properties.

The ledger sees every replica at once. It is told what a replica holds, commits, applies, promises
and answers, compares that with all it was told before, and raises ``Violation`` where a property
does not hold. Each check looks only at what is new, so that it can be made after every event.
Raft's properties are those of the paper's figure 3; the words fit the other engine as well.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from onceflow_consensus.raft.configuration import EMPTY_CONFIGURATION

if TYPE_CHECKING:
    from collections.abc import Callable

    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.raft.configuration import Configuration
    from onceflow_consensus.raft.messages import Entry, LogIndex, Term


class Property(Enum):
    """What must hold."""

    ELECTION_SAFETY = "at most one replica leads a term"
    ELECTED = "who leads has the durable votes of a quorum"
    COUNTED = "what a leader counts as held is durable where it is held"
    ONE_VOTE = "a replica votes once in a term, also across crashes"
    LOG_MATCHING = "logs that agree at a position agree below it"
    COMPLETENESS = "who leads holds everything that was committed in earlier terms"
    COMMITTED_FOR_EVER = "a position that was committed never changes"
    SAFE_COMMIT = "who lacks a committed entry cannot be elected any more"
    DURABLE_QUORUM = "what is committed is durable at a quorum"
    KEPT_PROMISE = "what is promised is durable at whoever promises"
    MACHINE_SAFETY = "all replicas apply the same entries in the same order"
    APPLIED_ONCE = "entries are applied in order, once"
    READ = "a read reflects everything that was committed before it was asked for"
    ACKNOWLEDGED = "an acknowledged write is never lost"
    CONFIGURATION = "a replica's members are those of its log"
    DAMAGE_SEEN = "damage to acknowledged data is noticed"
    STARTS_AGAIN = "a replica starts again after a crash"
    OWN_INVARIANT = "no replica stops by an invariant of its own"
    COMES_TO_REST = "a replica that is told nothing more has nothing more to do"
    PROGRESS = "a healed group makes progress"


class Violation(Exception):  # noqa: N818 - named by what happened
    """A property does not hold. Reaction: shrink the plan, then find the bug."""

    def __init__(self, broken: Property, details: str) -> None:
        super().__init__(f"{broken.value}: {details}")
        self.broken = broken


class Ledger:
    """Everything that was ever committed, applied, voted and acknowledged in a run.

    committed: the entry at each committed index.
    highest_index: the highest of them.
    asked: writes that wait, with the replica that they were asked of. acknowledged: where those
        are that clients heard of.
    read_floors: what each read must reflect at least.
    """

    def __init__(self, first_index: LogIndex) -> None:
        self.committed: dict[LogIndex, Entry] = {}
        self.highest_index = first_index
        self.first_index = first_index
        self.asked: dict[bytes, PeerId] = {}
        self.acknowledged: dict[bytes, LogIndex] = {}
        self.read_floors: dict[bytes, LogIndex] = {}
        self._entries: dict[tuple[LogIndex, Term], tuple[Entry, Term | None]] = {}
        self._elected: dict[Term, PeerId] = {}
        self._votes: dict[Term, dict[PeerId, PeerId]] = {}
        self._committed_in: dict[Term, LogIndex] = {}
        self._machines: dict[LogIndex, tuple[int, Configuration]] = {}
        self._applied_index = 0
        self.newest_configuration = EMPTY_CONFIGURATION

    @property
    def elections(self) -> int:
        """Return how many elections were won."""
        return len(self._elected)

    def held(self, peer_id: PeerId, entries: tuple[Entry, ...], previous_term: Term | None) -> None:
        """Check entries that a replica puts into its log behind one of ``previous_term``."""
        for entry in entries:
            key = (entry.index, entry.term)
            known = self._entries.get(key)
            if known is None:
                self._entries[key] = (entry, previous_term)
            else:
                same, term_before = known
                if same is not entry and same != entry:
                    raise Violation(
                        Property.LOG_MATCHING, f"{peer_id} holds {entry}, others hold {same}"
                    )
                if term_before is None:
                    self._entries[key] = (entry, previous_term)
                elif previous_term is not None and previous_term != term_before:
                    raise Violation(
                        Property.LOG_MATCHING,
                        f"{peer_id} holds {entry} behind one of term {previous_term}, "
                        f"others behind one of term {term_before}",
                    )
            previous_term = entry.term

    def elected(self, peer_id: PeerId, term: Term, holds: Callable[[LogIndex, Term], bool]) -> None:
        """Check that a replica may lead a term; ``holds`` says which entries it has."""
        other = self._elected.setdefault(term, peer_id)
        if other != peer_id:
            raise Violation(Property.ELECTION_SAFETY, f"{other} and {peer_id} lead term {term}")
        for earlier, index in self._committed_in.items():
            if earlier < term and not holds(index, self.committed[index].term):
                raise Violation(
                    Property.COMPLETENESS,
                    f"{peer_id} leads term {term} and lacks {self.committed[index]}, committed "
                    f"in term {earlier}",
                )

    def voted(self, peer_id: PeerId, term: Term, candidate: PeerId) -> None:
        """Check a vote that a replica gives away."""
        other = self._votes.setdefault(term, {}).setdefault(peer_id, candidate)
        if other != candidate:
            raise Violation(
                Property.ONE_VOTE, f"{peer_id} votes for {other} and {candidate} in term {term}"
            )

    def supporters(self, candidate: PeerId, term: Term) -> set[PeerId]:
        """Return who gave its vote of a term to a candidate."""
        votes = self._votes.get(term, {})
        return {peer_id for peer_id, chosen in votes.items() if chosen == candidate}

    def commits(self, peer_id: PeerId, term: Term, entry: Entry) -> bool:
        """Check an entry that a replica holds committed in a term; return whether it is new."""
        known = self.committed.get(entry.index)
        if known is not None:
            if known is not entry and known != entry:
                raise Violation(
                    Property.COMMITTED_FOR_EVER,
                    f"{peer_id} holds {entry} committed, {known} was committed there before",
                )
            return False
        self.committed[entry.index] = entry
        self.highest_index = max(self.highest_index, entry.index)
        self._committed_in[term] = max(self._committed_in.get(term, 0), entry.index)
        return True

    def applied(
        self, peer_id: PeerId, index: LogIndex, chain: int, configuration: Configuration
    ) -> None:
        """Check the state of a machine, which a checksum of all it applied stands for."""
        known = self._machines.setdefault(index, (chain, configuration))
        if index > self._applied_index:
            self._applied_index = index
            self.newest_configuration = configuration
        if known[0] != chain:
            raise Violation(Property.MACHINE_SAFETY, f"{peer_id} differs from others at {index}")
        if known[1] is not configuration and known[1] != configuration:
            raise Violation(
                Property.CONFIGURATION,
                f"{peer_id} has {configuration} at {index}, others have {known[1]}",
            )

    def acknowledge(self, peer_id: PeerId, entry: Entry) -> None:
        """Note that a client hears of its write, if this replica applies what was asked of it."""
        if self.asked.get(entry.data) == peer_id:
            del self.asked[entry.data]
            self.acknowledged[entry.data] = entry.index

    def answered(self, peer_id: PeerId, context: bytes, index: LogIndex) -> None:
        """Check a read that a replica may answer at an index."""
        if index < self.read_floors[context]:
            raise Violation(
                Property.READ,
                f"{peer_id} may answer {context!r} at {index}, though "
                f"{self.read_floors[context]} was committed when it was asked",
            )
