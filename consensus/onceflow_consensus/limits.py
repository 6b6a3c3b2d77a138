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
