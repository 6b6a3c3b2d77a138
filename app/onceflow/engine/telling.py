"""Tells the coordinator's group what becomes of two-phase epochs, without waiting for it.

The record is for people and for tools; what Kafka decided holds, and recovery reads Kafka and the
sinks. So an epoch never waits for the group, and where there is none nothing is told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onceflow.coordinator.vocabulary import Finding
from onceflow.decisions.branch_steps import Contradiction
from onceflow.decisions.marker import Marker
from onceflow.errors import ConfigError
from onceflow.ids import BranchId
from onceflow.limits import COORDINATOR_STOP_S
from onceflow.sinks.gid import Scope, gid_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from onceflow.decisions.branch_steps import HeuristicFound
    from onceflow.engine.runtime import Runtime
    from onceflow.ids import CommitEpoch, Incarnation, Partition


_FINDINGS = {
    Contradiction.BEHIND: Finding.ROW_BEHIND,
    Contradiction.AHEAD: Finding.ROW_AHEAD,
}


def check_recorded(runtime: Runtime) -> None:
    """Refuse a worker with two-phase sinks that has no group to tell.

    Raises:
        ConfigError: exit 2; nothing was consumed.
    """
    if runtime.records is None:
        raise ConfigError(
            "The app has two-phase sinks, but no coordinator is set: nobody could tell what is in "
            "doubt in them while this worker is gone. Nothing was consumed. Start it with "
            "`onceflow worker` or `onceflow dev`, which host a group, or set coordinator to the "
            "addresses of one (`onceflow meta serve`)."
        )


class Telling:
    """What the group is told of two-phase epochs.

    Fields:
        scope: of the app's branches; None without two-phase sinks.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.scope: Scope | None = None
        self._runtime = runtime

    def begun(self, branch: BranchId, partitions: Iterable[Partition]) -> None:
        """An epoch is about to be prepared."""
        if self._runtime.records is not None:
            self._runtime.records.begun(branch, partitions, self._runtime.participants.names)

    def prepared(self, branch: BranchId, partitions: Iterable[Partition]) -> None:
        """Every participant has prepared."""
        if self._runtime.records is None or self.scope is None:
            return
        names = self._runtime.participants.names
        marker = Marker(*branch, branch.commit_epoch, participants=names).encode()
        gids = [(name, gid_of(self.scope, branch, name)) for name in names]
        self._runtime.records.prepared(branch, partitions, gids, marker)

    def decided(self, commits: Iterable[BranchId], aborts: Iterable[BranchId]) -> None:
        """Kafka committed these epochs; those it did not, and never will."""
        if self._runtime.records is not None:
            for branch in commits:
                self._runtime.records.committed(branch)
            for branch in aborts:
                self._runtime.records.aborted(branch)

    def ended(self, branches: Iterable[BranchId]) -> None:
        """No branch of these epochs is left."""
        if self._runtime.records is not None:
            for branch in branches:
                self._runtime.records.ended(branch)

    def settled(self, owners: Mapping[Incarnation, CommitEpoch]) -> None:
        """These can prepare nothing more and have no branch left; each with its last commit.

        An epoch of which nothing was prepared, or nothing is prepared any more, is on no list; its
        owner began it and died before it told the end.
        """
        if self._runtime.records is not None:
            for incarnation, commit_epoch in owners.items():
                self._runtime.records.settled(BranchId(incarnation, commit_epoch))

    async def missing(self, branches: Iterable[tuple[str, BranchId]], message: str) -> None:
        """Branches of committed epochs are lost in these participants; the worker ends next."""
        records = self._runtime.records
        if records is not None:
            for name, branch in branches:
                records.heuristic(branch, name, Finding.BRANCH_MISSING, message)
            await records.flush(COORDINATOR_STOP_S)

    async def contradicted(self, found: HeuristicFound) -> None:
        """A participant shows something else than Kafka; the worker ends next."""
        records = self._runtime.records
        if records is not None:
            finding = _FINDINGS[found.contradiction]
            records.heuristic(found.branch, found.participant, finding, found.message)
            await records.flush(COORDINATOR_STOP_S)

    def offsets(self) -> None:
        """An epoch was committed: tell what."""
        if self._runtime.records is not None:
            machine = self._runtime.epochs.machine
            self._runtime.records.offsets(machine.commit_epoch, "", machine.committed_offsets)
