"""Engine values as text, in the notation of etcd-raft's cases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onceflow_consensus.raft.confchange import decode_conf_change
from onceflow_consensus.raft.messages import (
    APPEND_THREAD,
    APPLY_THREAD,
    NO_PEER,
    EntryKind,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from collections.abc import Set as AbstractSet

    from onceflow_consensus.quorum.joint import JointVoters
    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.raft.configuration import Configuration
    from onceflow_consensus.raft.messages import Entry, HardState, Message, RaftSnapshot
    from onceflow_consensus.raft.progress import Progress
    from onceflow_consensus.raft.ready import Ready


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


def members_text(progress: Mapping[PeerId, Progress], learners: AbstractSet[PeerId]) -> str:
    """Return a line per member."""
    return "".join(
        f"{peer_id}: {progress_text(item, is_learner=peer_id in learners)}\n"
        for peer_id, item in sorted(progress.items())
    )


def data_text(data: bytes) -> str:
    """Return data in double quotes, with escapes for what cannot be printed."""
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    characters = (
        escapes.get(char) or (char if char.isprintable() else f"\\x{ord(char):02x}")
        for char in data.decode("utf-8", "replace")
    )
    return '"' + "".join(characters) + '"'


def entry_text(entry: Entry) -> str:
    """Return ``term/index kind data``; a configuration change as its operations."""
    if entry.kind is EntryKind.NORMAL:
        content = data_text(entry.data)
    else:
        changes = decode_conf_change(entry.data).changes
        content = " ".join(f"{change.op.value}{change.peer_id}" for change in changes)
    return f"{entry.term}/{entry.index} {entry.kind.value} {content}".rstrip()


def entries_text(entries: Iterable[Entry]) -> str:
    """Return a line per entry."""
    return "".join(entry_text(entry) + "\n" for entry in entries)


def snapshot_text(raft_snapshot: RaftSnapshot) -> str:
    """Return position and configuration of a snapshot."""
    configuration = raft_snapshot.configuration
    sets = {
        "Voters": configuration.voters.incoming,
        "VotersOutgoing": configuration.voters.outgoing,
        "Learners": configuration.learners,
        "LearnersNext": configuration.learners_next,
    }
    listed = " ".join(
        f"{name}:[{' '.join(map(str, sorted(peer_ids)))}]" for name, peer_ids in sets.items()
    )
    auto_leave = str(configuration.auto_leave).lower()
    return (
        f"Index:{raft_snapshot.index} Term:{raft_snapshot.term} "
        f"ConfState:{listed} AutoLeave:{auto_leave}"
    )


_ADDRESSES = {NO_PEER: "None", APPEND_THREAD: "AppendThread", APPLY_THREAD: "ApplyThread"}


def _address_text(peer_id: PeerId) -> str:
    return _ADDRESSES.get(peer_id) or f"{peer_id:x}"


def message_text(message: Message, indent: str = "") -> str:
    """Return a message, in several lines if it holds entries, a snapshot or responses."""
    parts = [
        f"{indent}{_address_text(message.sender)}->{_address_text(message.to)}",
        f"{message.kind.value} Term:{message.term} Log:{message.log_term}/{message.index}",
    ]
    if message.rejected:
        parts.append(f"Rejected (Hint: {message.reject_hint})")
    if message.commit_index:
        parts.append(f"Commit:{message.commit_index}")
    if message.vote:
        parts.append(f"Vote:{message.vote}")
    if len(message.entries) == 1:
        parts.append(f"Entries:[{entry_text(message.entries[0])}]")
    elif message.entries:
        lines = "".join(f"\n{indent}  {entry_text(entry)}" for entry in message.entries)
        parts.append(f"Entries:[{lines}\n{indent}]")
    text = " ".join(parts)
    if message.raft_snapshot is not None and message.raft_snapshot.index:
        text += f"\n{indent}  Snapshot: {snapshot_text(message.raft_snapshot)}"
    if message.responses:
        responses = "".join("\n" + message_text(item, indent + "  ") for item in message.responses)
        text += f" Responses:[{responses}\n{indent}]"
    return text


def hard_state_text(hard_state: HardState) -> str:
    """Return term, vote if one was given, and commit index."""
    vote = f" Vote:{hard_state.vote}" if hard_state.vote else ""
    return f"Term:{hard_state.term}{vote} Commit:{hard_state.commit_index}"


def ready_text(ready: Ready) -> str:
    """Return what a ``Ready`` asks for, leaving out what is empty."""
    storage_work = (ready.storage_append, ready.storage_apply)
    messages = (
        *ready.messages,
        # With messages to the local threads, the promises are among the writer's responses.
        *(ready.messages_after_persist if ready.storage_append is None else ()),
        *(message for message in storage_work if message is not None),
    )
    lines: list[str] = []
    if ready.soft_state is not None:
        soft_state = ready.soft_state
        lines.append(f"Lead:{soft_state.raft_leader} State:{soft_state.role.value}")
    if ready.hard_state is not None:
        lines.append(f"HardState {hard_state_text(ready.hard_state)}")
    if ready.read_states:
        reads = (f"{read.index}:{data_text(read.request_context)}" for read in ready.read_states)
        lines.append(f"ReadStates [{' '.join(reads)}]")
    if ready.entries:
        lines.extend(["Entries:", *map(entry_text, ready.entries)])
    if ready.raft_snapshot is not None:
        lines.append(f"Snapshot {snapshot_text(ready.raft_snapshot)}")
    if ready.committed_entries:
        lines.extend(["CommittedEntries:", *map(entry_text, ready.committed_entries)])
    if messages:
        lines.extend(["Messages:", *map(message_text, messages)])
    if not lines:
        return "<empty Ready>"
    return "\n".join([f"Ready MustSync={str(ready.must_sync).lower()}:", *lines]) + "\n"
