"""Engine values as text, in the notation of etcd-raft's cases."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onceflow_consensus.quorum.joint import JointVoters
    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.raft.configuration import Configuration
    from onceflow_consensus.raft.progress import Progress
    from onceflow_consensus.raft.tracker import Tracker


def majority_text(peer_ids: Iterable[PeerId]) -> str:
    """Return ``(1 2 3)``."""
    return "(" + " ".join(f"{peer_id:x}" for peer_id in sorted(peer_ids)) + ")"


def voters_text(voters: JointVoters) -> str:
    """Return ``(1 2)``, or ``(1 2)&&(3)`` for a joint quorum."""
    text = majority_text(voters.incoming)
    return f"{text}&&{majority_text(voters.outgoing)}" if voters.is_joint else text


def configuration_text(configuration: Configuration) -> str:
    """Return the configuration in one line, leaving out what is empty."""
    parts = [f"voters={voters_text(configuration.voters)}"]
    if configuration.learners:
        parts.append(f"learners={majority_text(configuration.learners)}")
    if configuration.learners_next:
        parts.append(f"learners_next={majority_text(configuration.learners_next)}")
    if configuration.auto_leave:
        parts.append("autoleave")
    return " ".join(parts)


def progress_text(progress: Progress, *, is_learner: bool) -> str:
    """Return what the leader knows of one member, leaving out what is ordinary."""
    inflight_count = len(progress.inflights)
    parts = [
        progress.state.value,
        f"match={progress.match_index}",
        f"next={progress.next_index}",
        "learner" if is_learner else "",
        "paused" if progress.is_paused else "",
        f"pendingSnap={progress.pending_snapshot_index}" if progress.pending_snapshot_index else "",
        "" if progress.is_recently_active else "inactive",
        f"inflight={inflight_count}" + ("[full]" if progress.inflights.is_full else "")
        if inflight_count
        else "",
    ]
    return " ".join(part for part in parts if part)


def tracker_text(tracker: Tracker) -> str:
    """Return a line per member."""
    return "".join(
        f"{peer_id}: "
        + progress_text(progress, is_learner=peer_id in tracker.configuration.learners)
        + "\n"
        for peer_id, progress in sorted(tracker.progress.items())
    )
