"""Resolving a transaction by hand: what can be known of one, and ending it by the same rules.

For people, where no worker does it: the application is stopped for good, or a sink was away. The
rules are those of a takeover (`decisions.branches`). A marker that names the epoch proves that it
was committed, and so does a marker row. That none does is proof only after the incarnation is
fenced, for branches that were listed before the fence, by markers that are read after it.

Nothing here runs in a worker.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import TYPE_CHECKING

from onceflow.decisions.branch_steps import epochs_named
from onceflow.engine.resolving import fence_incarnations
from onceflow.errors import OnceflowError, Unreachable
from onceflow.kafka.offsets import Pending, Stability
from onceflow.sinks.gid import Scope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onceflow.decisions.marker import CommittedOffset, Marker
    from onceflow.engine.runtime import Runtime
    from onceflow.ids import BranchId, CommitEpoch, Incarnation, Partition
    from onceflow.sinks.participant import MarkerRow

_PENDING_READS = 10
"""Stable readings of the markers before it is given up: each waits some seconds for transactions
that are open, and after a fence only those of living workers are, for milliseconds."""


class Fencing(Enum):
    """Whether the incarnation is fenced before the markers are read."""

    LOOK_ONLY = "look_only"
    FENCE = "fence"


class Verdict(StrEnum):
    """What the evidence says about an epoch."""

    COMMIT = "commit"
    ABORT = "abort"
    UNDECIDED = "undecided"
    """It is not proven to be committed, and may still be: its worker is not fenced."""
    NOTHING_LEFT = "nothing_left"
    """No branch is prepared and nothing proves a decision: there is nothing to resolve."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What Kafka and the participants show of one epoch.

    markers: of the partitions whose marker names the incarnation. prepared_in: participants that
    list the branch. rows: the marker row of the incarnation in every participant. earlier: other
    branches of the incarnation that are listed, up to this epoch. fencing: whether the incarnation
    was fenced between the list and the reading of the markers.
    """

    branch: BranchId
    markers: Mapping[Partition, Marker]
    prepared_in: frozenset[str]
    rows: Mapping[str, MarkerRow | None]
    earlier: frozenset[BranchId]
    fencing: Fencing

    @property
    def proofs(self) -> list[str]:
        """What proves that Kafka committed the epoch, in words; nothing if it is empty."""
        commit_epoch = self.branch.commit_epoch
        found = [
            f"the marker of {partition.topic}[{partition.number}] names it"
            for partition, marker in sorted(self.markers.items(), key=lambda item: item[0])
            if marker.with_participants == commit_epoch
        ]
        found += [
            f"the marker row of {name} shows it as committed"
            for name, row in sorted(self.rows.items())
            if row is not None and row.commit_epoch == commit_epoch
        ]
        return found

    @property
    def verdict(self) -> Verdict:
        """What follows."""
        if self.proofs:
            return Verdict.COMMIT
        if not self.prepared_in:
            return Verdict.NOTHING_LEFT
        return Verdict.ABORT if self.fencing is Fencing.FENCE else Verdict.UNDECIDED


async def open_sinks(runtime: Runtime) -> None:
    """Open the app's sinks in a process that is no worker, and tells the record by itself.

    Raises:
        ConfigError, Unreachable: as `Participant.open` does.
    """
    runtime.check_recorded = lambda _runtime: None
    await runtime.participants.start()


async def scope_of(runtime: Runtime) -> Scope:
    """Return the scope of an app on its cluster."""
    return Scope.of(await runtime.clients.admin.cluster_id(), runtime.app.conf.id)


async def gather_evidence(runtime: Runtime, branch: BranchId, fencing: Fencing) -> Evidence:
    """Look at participants and Kafka; the runtime's participants must be started.

    Raises:
        Unreachable: Kafka does not answer, or open transactions hold the markers back.
    """
    incarnation = branch.incarnation
    listed = await runtime.participants.branches(frozenset({incarnation}))
    if fencing is Fencing.FENCE:
        await fence_incarnations(runtime, [incarnation])
    markers = await _read_markers(runtime)
    rows = await runtime.participants.marker_rows([incarnation])
    return Evidence(
        branch,
        {
            partition: at.marker
            for partition, at in markers.items()
            if at.marker is not None and at.marker.incarnation == incarnation
        },
        frozenset(name for name, each in listed if each == branch),
        {name: row for (name, _), row in rows.items()},
        frozenset(each for _, each in listed if each < branch),
        fencing,
    )


async def list_prepared(runtime: Runtime) -> dict[BranchId, list[str]]:
    """Return every prepared branch of the app and the participants that list it."""
    found: dict[BranchId, list[str]] = {}
    for name, branch in sorted(await runtime.participants.branches(None)):
        found.setdefault(branch, []).append(name)
    return found


async def committed_epochs(runtime: Runtime) -> dict[Incarnation, frozenset[CommitEpoch]]:
    """By incarnation, the epochs with participants that markers prove to be committed."""
    return epochs_named(await _read_markers(runtime))


async def end_branch(runtime: Runtime, evidence: Evidence, wanted: Verdict) -> dict[str, str]:
    """Commit the branch, or roll it back, in every participant that lists it.

    Returns:
        By participant: ``committed``, ``rolled_back`` or ``missing``; the latter was listed and
        was gone when it was to be committed.
    """
    at = [(name, evidence.branch) for name in sorted(evidence.prepared_in)]
    if wanted is Verdict.COMMIT:
        missing = {name for name, _ in await runtime.participants.commit_branches(at)}
        return {name: "missing" if name in missing else "committed" for name, _ in at}
    await runtime.participants.roll_back_branches(at)
    return {name: "rolled_back" for name, _ in at}


async def _read_markers(runtime: Runtime) -> Mapping[Partition, CommittedOffset]:
    """Read the markers of all partitions, stable: also of topics that the app made by itself."""
    partitions = await runtime.clients.admin.partitions()
    for _ in range(_PENDING_READS):
        try:
            return await runtime.clients.read_offsets(partitions, Stability.STABLE)
        except Pending:
            continue
    raise Unreachable(
        "Open transactions hold the offsets of the group back, so that it is not known what is "
        "committed. Nothing was done. Transactions of dead workers end at their timeout, 30 s by "
        "default: try again."
    )


def refuse_contradiction(evidence: Evidence, wanted: Verdict) -> None:
    """Let only what the evidence says be done.

    Raises:
        OnceflowError: it says something else; nothing was done.
    """
    if wanted is evidence.verdict:
        return
    because = "; ".join(evidence.proofs) or (
        "no marker of any partition and no marker row names it, and its worker was fenced before "
        "they were read"
    )
    raise OnceflowError(
        f"The evidence says {evidence.verdict.value}, not {wanted.value}: {because}. Nothing was "
        "done. Doing it all the same would lose or double rows; with --force it is done and "
        "recorded for ever."
    )
