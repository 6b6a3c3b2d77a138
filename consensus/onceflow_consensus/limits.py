"""Every bound of the package, each with its unit and its reason."""

from __future__ import annotations

MAX_MESSAGE_BYTES = 1024 * 1024
"""Bytes of entries in one append message: large enough to amortise a round trip, small enough
that a lost message costs little and a receiver can bound its frames."""

MAX_INFLIGHT_MESSAGES = 256
"""Append messages sent to a follower and not acknowledged. A deep pipeline hides the round trip;
a deeper one only fills the follower's queue and raises the latency of commits."""

MAX_INFLIGHT_BYTES = 16 * 1024 * 1024
"""Bytes sent to a follower and not acknowledged: at least the bandwidth times the round trip,
at most what a leader can afford to hold for each of its followers."""

MAX_UNCOMMITTED_BYTES = 64 * 1024 * 1024
"""Bytes proposed and not yet committed. Beyond it proposals are dropped, so that a leader without
a quorum does not grow without end."""

MAX_APPLYING_BYTES = 4 * 1024 * 1024
"""Bytes of committed entries handed to the state machine and not reported as applied."""

MAX_PENDING_READS = 16 * 1024
"""Reads that wait for a heartbeat round. Beyond it reads are dropped: a leader without a quorum
answers none of them anyway."""

HEARTBEAT_TICKS = 1
"""Ticks between heartbeats: the tick itself is the unit of time the caller chooses."""

ELECTION_TICKS = 10
"""Ticks without a leader before a campaign: an order of magnitude above a heartbeat, so that a
few lost heartbeats change no leader."""

SEGMENT_BYTES = 64 * 1024 * 1024
"""Size of a log segment, allocated in advance: writes into it change no file size, so that a sync
writes data only. Compaction frees whole segments, hence not larger."""

MAX_RECORD_BYTES = 32 * 1024 * 1024
"""A record that claims more is damaged. Above any entry a message may carry."""

MAX_BATCH_BYTES = 8 * 1024 * 1024
"""Bytes that one sync covers at most: beyond it the writes that wait get a sync of their own, so
that the first of them is not kept waiting."""

SNAPSHOT_CHUNK_BYTES = 1024 * 1024
"""Bytes of a snapshot read or written at a time."""

KEPT_SNAPSHOTS = 2
"""Snapshots kept on disk: the newest, and the one that a slow follower may still be reading."""

MAX_SESSIONS = 16 * 1024
"""Client sessions that are open at once; a registration beyond is refused. Each costs half a
kilobyte. Replicated: a change is one of the format, as with all bounds of sessions and keys."""

MIN_SESSION_TIMEOUT_MS = 1_000
"""Shortest time without a command after which a session expires: above a change of leaders."""

MAX_SESSION_TIMEOUT_MS = 3_600_000
"""Longest such time: a client that is gone holds its outcomes no longer than an hour."""

SESSION_SWEEP_MS = 1_000
"""Log time between searches for expired sessions. A search looks at each session."""

MAX_UNANSWERED_COMMANDS = 4 * 1024
"""Outcomes kept for one session: commands that a client has under way at once."""

MAX_KEPT_OUTCOMES = 256 * 1024
"""Outcomes kept for all sessions, exceeded by one batch at most. It bounds their memory, and the
time in which a snapshot copies them."""

MAX_RESPONSE_BYTES = 4 * 1024
"""A state machine's response to a command, which is kept. Large answers belong into queries."""

MAX_KEY_BYTES = 4 * 1024
"""A key of the key-value machine: many of them fit a page, and a failure shows it whole."""

MAX_VALUE_BYTES = 512 * 1024
"""A value of the key-value machine: with its key, it fits a message between replicas."""

MAX_SCAN_PAGE_BYTES = 256 * 1024
"""Keys and values in one page of a scan, exceeded by one entry at most. A query runs between
batches and must not hold them up."""

MAX_SCAN_PAGE_ENTRIES = 1_000
"""Entries in one page of a scan, for the same reason."""

MAX_FRAME_BYTES = 32 * 1024 * 1024
"""Body of a frame between members. Above one append message with the largest entry in it."""

MAX_CLIENT_FRAME_BYTES = 4 * 1024 * 1024
"""Body of a frame from a client: bounds what a connection can make a member hold unread."""

MAX_COMMAND_BYTES = 1024 * 1024
"""One command or query. A batch of them becomes one log entry."""

MAX_BATCH_ENTRY_BYTES = 128 * 1024
"""Commands packed into one entry, beyond the first: an entry is replicated and applied as a whole,
so that a larger one delays everything behind it and gains nothing."""

MAX_PIPELINED_ENTRIES = 4
"""Batches proposed and not yet applied before further commands wait to be batched. Commands gather
while these are under way, so that entries grow with the load by themselves."""

MAX_CLIENTS = 1024
"""Connections of clients to one member. Beyond it they are closed with a refusal."""

MAX_OUTSTANDING_COMMANDS = 16 * 1024
"""Commands and queries of one connection that are not answered. Beyond it they are refused."""

MAX_WAITING_BYTES = 32 * 1024 * 1024
"""Bytes of commands that wait at one member to be proposed. Beyond it they are refused."""

MAX_PEER_QUEUE_BYTES = 48 * 1024 * 1024
"""Bytes queued for one peer. Beyond it messages to it are dropped, as on a broken network. Above
what the in-flight window allows, so that only a peer that does not read meets it."""

MAX_CLIENT_QUEUE_BYTES = 16 * 1024 * 1024
"""Bytes of answers queued for one client. One that does not read its answers is cut off."""

TICK_MS = 24
"""Length of a tick. With ``ELECTION_TICKS`` a leader is missed after 240 to 480 ms: short for those
who wait, and long enough for a busy machine's pauses."""

DISK_STALL_MS = 1_000
"""A write that takes longer mutes the member. Above what a sync takes while a disk writes back much
else, since each change of the leader costs more than such a pause."""

STATE_SYNC_BYTES = 4 * 1024 * 1024
"""Bytes of a state file after which it is synced while it is written: one sync of all of it at the
end would hold up the log's syncs on the same disk."""

QUICK_WRITE_BYTES = 8 * 1024
"""Entries that are written where the loop runs, if no other write is under way: so little is synced
in about the time that handing it to the writer's thread and back takes."""

SLOW_WRITE_MS = 4.0
"""Average of the writes in the loop above which the disk is not waited for: the thread costs little
beside syncs that take longer, and reads at this member would wait for each of them."""

DISTRUST_MS = 150
"""How long the writer's thread gets everything after writes in the loop were slow. On a busy
machine a sync now and then takes tens of milliseconds, and the thread must not become the rule
because of them. A disk that stays slow is found out again by its first write or two in the loop."""

COMMIT_NOTICE_MS = 5
"""How long an append that only tells the commit index may wait for one with entries."""

SNAPSHOT_LOG_BYTES = 64 * 1024 * 1024
"""Bytes of entries after which a snapshot is taken, or the size of the last one if that is larger:
so snapshots write at most as much as the log does."""

KEPT_LOG_ENTRIES = 4096
"""Entries kept below a snapshot, so that a peer that is a little behind needs no snapshot."""

KEPT_LOG_BYTES = 16 * 1024 * 1024
"""Bytes of entries kept below a snapshot, at most."""

MAX_STATE_BYTES = 16 * 1024 * 1024 * 1024
"""A streamed snapshot that claims more is refused."""

UNACKED_MS = 3_000
"""How long what was sent may stay unacknowledged before a connection is given up and made again."""

KEEPALIVE_S = 30
"""Silence after which the other side of a connection is asked for a sign of life."""
