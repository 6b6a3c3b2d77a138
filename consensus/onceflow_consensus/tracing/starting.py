"""How a traced replica is started: like any other, with a place for its lines."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from onceflow_consensus.replica import Engine
from onceflow_consensus.tracing.lines import Trace
from onceflow_consensus.tracing.paxos import TracedPaxos
from onceflow_consensus.tracing.raft import TracedRaft

if TYPE_CHECKING:
    from pathlib import Path

    from onceflow_consensus.raft.messages import LogIndex
    from onceflow_consensus.raft.options import RaftOptions
    from onceflow_consensus.raft.stable import StableLog
    from onceflow_consensus.replica import Replica

_ENGINES = {Engine.RAFT: TracedRaft, Engine.PAXOS: TracedPaxos}

_NS = 1e-9


class TraceFile(Trace):
    """A trace that goes on at the end of a file, each line at once.

    Members of a machine write to files of their own: their clock is the machine's, so that lines
    can be put together by ``ts``.
    """

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            OSError: it cannot be written.
        """
        self._file = path.open("a", encoding="utf-8", buffering=1)
        super().__init__(self._file.write, lambda: time.time_ns() * _NS)

    def close(self) -> None:
        """Write no more."""
        self._file.close()


def start_traced_replica(
    engine: Engine,
    options: RaftOptions,
    stable: StableLog,
    trace: Trace,
    *,
    applied_index: LogIndex = 0,
) -> Replica:
    """Start a replica that tells what it goes through; otherwise as ``replica.start_replica``.

    Raises:
        InvalidOptions: the engine does not know an option; correct it.
        InvariantViolation: the durable log contradicts itself.
    """
    return _ENGINES[engine](options, stable, trace, applied_index=applied_index)
