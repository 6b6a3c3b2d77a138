"""Bugs of the log on disk, and of whoever drives an engine, that the simulator must find.

Each is one small change of one function, and shows with every engine.
"""

from __future__ import annotations

from onceflow_consensus.testing.simulator.mutations import Mutation

_STORAGE = "storage"

STORAGE_BUGS: tuple[Mutation, ...] = (
    Mutation(
        "no-sync",
        _STORAGE,
        "storage.log_files:LogFiles._write_batch",
        "        self._disk.sync(self._name)\n",
        "",
    ),
    Mutation(
        "failed-sync-retried",
        _STORAGE,
        "storage.log_files:LogFiles._write_batch",
        "        self._disk.sync(self._name)\n",
        "        try:\n"
        "            self._disk.sync(self._name)\n"
        "        except StorageFailed:\n"
        "            pass\n",
    ),
    Mutation(
        "torn-tail-taken-for-damage",
        _STORAGE,
        "storage.segments:_torn_bytes",
        '    written = len(data[offset:].rstrip(b"\\0"))\n',
        '    written = len(data[offset:].rstrip(b"\\0"))\n'
        "    if written:\n"
        "        raise _corrupt(name, offset, str(damage))\n",
    ),
    Mutation(
        "damage-taken-for-a-torn-tail",
        _STORAGE,
        "storage.segments:_torn_bytes",
        '        raise _corrupt(name, offset, f"{damage}, and batch {later} behind it is whole")',
        "        return written",
    ),
    Mutation(
        "hard-state-not-repeated-in-a-new-segment",
        _STORAGE,
        "storage.log_files:LogFiles._write_head",
        "            self._hard_state,\n",
        "",
    ),
    Mutation(
        "segment-dropped-with-entries-still-needed",
        _STORAGE,
        "storage.log_files:LogFiles._drop_segments",
        "if self._last_indices[name] <= base.index]",
        "if self._last_indices[name] <= base.index + 3]",
    ),
    Mutation(
        "snapshot-name-not-synced",
        _STORAGE,
        "storage.snapshots:SnapshotStore.save",
        "        disk.sync_directory()\n",
        "",
    ),
    Mutation(
        "log-reset-before-the-snapshot-is-durable",
        _STORAGE,
        "storage.durable_log:DurableLog._install",
        "        self._snapshots.save(received)\n"
        "        base = Base(received.index, received.term, BaseKind.RESET)\n"
        "        state = () if hard_state is None else (hard_state,)\n"
        "        self._files.write((base, *request.entries, *state))\n",
        "        base = Base(received.index, received.term, BaseKind.RESET)\n"
        "        state = () if hard_state is None else (hard_state,)\n"
        "        self._files.write((base, *request.entries, *state))\n"
        "        self._snapshots.save(received)\n",
    ),
    Mutation(
        "log-compacted-above-the-snapshot",
        _STORAGE,
        "storage.durable_log:DurableLog.compaction_to",
        "index = min(index, self.newest_snapshot.index, self.last_index)",
        "index = self.last_index",
    ),
    Mutation(
        "replaced-entries-come-back",
        _STORAGE,
        "raft.stable:HeldEntries.put",
        "        del self._entries[kept[0].index - self.first_index :]\n"
        "        self._entries.extend(kept)",
        "        position = kept[0].index - self.first_index\n"
        "        self._entries[position : position + len(kept)] = kept",
    ),
)
"""Bugs of the log on disk, whichever engine writes it."""

DRIVER_BUGS: tuple[Mutation, ...] = (
    Mutation(
        "promises-sent-before-the-write",
        _STORAGE,
        "testing.simulator.replica:Replica._begin",
        "            self._crash_if_armed(CrashPoint.BEFORE_WRITE)\n",
        "            self._send(ready.messages_after_persist)\n"
        "            self._crash_if_armed(CrashPoint.BEFORE_WRITE)\n",
    ),
    Mutation(
        "machine-behind-its-snapshot",
        _STORAGE,
        "testing.simulator.replica:Replica.persist",
        "                self.machine.restore(request.raft_snapshot)\n",
        "",
    ),
)
"""Bugs of whoever drives an engine: what a server must not do."""
