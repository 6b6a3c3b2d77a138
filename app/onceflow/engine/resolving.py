"""Performs what takeovers and the scan ask about branches that are left in two-phase sinks.

`decisions.branches` and `decisions.scan` decide; each of their effects is performed here and
answered by one event. Servers that do not answer are asked again for as long as it takes, because
nothing may be claimed, and nothing given up, before the answer is known.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, assert_never

from onceflow.decisions import branch_steps as bs
from onceflow.decisions.crash_points import CrashPoint
from onceflow.decisions.marker import NO_COMMIT_EPOCH
from onceflow.engine.clients import PRODUCER_NUMBERS
from onceflow.errors import ParticipantUnavailable, Unreachable
from onceflow.ids import Partition
from onceflow.kafka.offsets import Pending, Stability
from onceflow.kafka.producer import fence
from onceflow.limits import FENCE_S_MAX, TAKEOVER_RETRY_S
from onceflow.observe.events import LogEvent
from onceflow.observe.logs import get_logger
from onceflow.observe.metrics import BranchEnd

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onceflow.decisions.marker import CommittedOffset
    from onceflow.engine.runtime import Runtime
    from onceflow.ids import Incarnation

log = get_logger(__name__)


async def perform_step(runtime: Runtime, effect: bs.BranchEffect) -> bs.BranchEvent:
    """Perform one effect and return its answer."""
    participants = runtime.participants
    match effect:
        case bs.FenceIncarnations(incarnations):
            await fence_incarnations(runtime, incarnations)
            return bs.IncarnationsFenced()
        case bs.ListBranches(incarnations, after_s):
            await asyncio.sleep(after_s)
            branches = await participants.branches(incarnations)
            own = runtime.epochs.machine.branch
            return bs.BranchesListed(branches, own.dropped, own.last_committed)
        case bs.ReadAllMarkers():
            return bs.AllMarkersRead(await _read_all(runtime))
        case bs.FinishBranches():
            return await _finish(runtime, effect)
        case bs.RaiseMarkers(incarnations):
            return await _raise(runtime, incarnations)
        case bs.ReadMarkerRows(incarnations):
            rows = await participants.marker_rows(incarnations)
            return bs.MarkerRowsRead(
                {
                    at: NO_COMMIT_EPOCH if row is None else row.commit_epoch
                    for at, row in rows.items()
                }
            )
        case _:
            assert_never(effect)


async def fence_incarnations(runtime: Runtime, incarnations: Iterable[Incarnation]) -> None:
    """End the rights of incarnations: both transactional ids of each."""
    for incarnation in sorted(incarnations):
        log.info(LogEvent.INCARNATION_FENCED, incarnation=incarnation)
        for number in PRODUCER_NUMBERS:
            await _fence(runtime, f"{runtime.app.conf.id}.{incarnation}.{number}")


async def _fence(runtime: Runtime, transactional_id: str) -> None:
    while True:
        try:
            await asyncio.to_thread(fence, runtime.clients.config, transactional_id, FENCE_S_MAX)
        except Unreachable as error:
            log.warning(LogEvent.KAFKA_UNREACHABLE, error=str(error))
            await asyncio.sleep(TAKEOVER_RETRY_S)
        else:
            return


async def _read_all(runtime: Runtime) -> dict[Partition, CommittedOffset]:
    """Read the markers of all partitions that the group committed, stable.

    Of every topic, not of the subscribed ones alone: a version of the app that reads a topic no
    more would not see the marker there that proves an epoch, and roll it back.
    """
    # The broker that is asked may not have heard yet of topics that were just made.
    ours = frozenset(
        Partition(topic, number)
        for topic, count in runtime.partition_counts.items()
        for number in range(count)
    )
    while True:
        try:
            found = await runtime.clients.admin.partitions()
            return await runtime.clients.read_offsets(found | ours, Stability.STABLE)
        except Pending as pending:
            log.warning(
                LogEvent.OFFSETS_PENDING,
                partitions=sorted(str(each) for each in pending.partitions),
                meaning="what is left in sinks is judged by all offsets of the group, and an open "
                "transaction holds these back; it is waited out",
            )
        except Unreachable as error:
            log.warning(LogEvent.KAFKA_UNREACHABLE, error=str(error))
            await asyncio.sleep(TAKEOVER_RETRY_S)


async def _finish(runtime: Runtime, effect: bs.FinishBranches) -> bs.BranchesFinished:
    commits = {branch for _, branch in effect.commits}
    aborts = {branch for _, branch in effect.roll_backs}
    runtime.telling.decided(sorted(commits), sorted(aborts))
    missing = await runtime.participants.commit_branches(effect.commits)
    await runtime.participants.roll_back_branches(effect.roll_backs)
    runtime.telling.ended(sorted((commits | aborts) - {branch for _, branch in missing}))
    ends = {BranchEnd.COMMITTED: effect.commits - missing, BranchEnd.ROLLED_BACK: effect.roll_backs}
    for end, branches in ends.items():
        runtime.metrics.branches_resolved(end, len(branches))
    log.info(
        LogEvent.BRANCHES_RESOLVED,
        **{
            end.value: [f"{name} {branch.incarnation} {branch.commit_epoch}" for name, branch in at]
            for end, found in ends.items()
            if (at := sorted(found))
        },
    )
    return bs.BranchesFinished(frozenset(missing))


async def _raise(
    runtime: Runtime, incarnations: frozenset[Incarnation]
) -> bs.MarkersRaised | bs.RaiseRefused:
    try:
        await runtime.participants.raise_markers(incarnations)
    except ParticipantUnavailable as error:
        log.warning(
            LogEvent.PARTICIPANT_UNAVAILABLE,
            operation="raise_marker",
            error=str(error),
            meaning="what is prepared there is looked for first, then it is tried again",
        )
        return bs.RaiseRefused()
    runtime.crash(CrashPoint.AFTER_RAISE)
    return bs.MarkersRaised()
