"""The window of append messages that are sent and not acknowledged, per follower.

Bounded in messages and in bytes, so that a slow follower costs a bounded amount of memory and a
lost batch a bounded amount of repetition.
Must never import anything that does I/O.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from onceflow_consensus.errors import invariant

if TYPE_CHECKING:
    from onceflow_consensus.raft.messages import LogIndex


class Inflights:
    """Messages under way, oldest first, each by its last index and its size in bytes.

    A message may exceed the byte bound as the last one of the window, since an entry larger than
    the whole window could otherwise never be sent.
    """

    __slots__ = ("_inflight_bytes", "_max_bytes", "_max_messages", "_window")

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._window: deque[tuple[LogIndex, int]] = deque()
        self._inflight_bytes = 0

    def __len__(self) -> int:
        return len(self._window)

    @property
    def is_full(self) -> bool:
        """Whether nothing more may be sent until an acknowledgement frees the window."""
        return len(self._window) >= self._max_messages or self._inflight_bytes >= self._max_bytes

    @property
    def inflight_bytes(self) -> int:
        """Bytes sent and not acknowledged."""
        return self._inflight_bytes

    def add(self, last_index: LogIndex, message_bytes: int) -> None:
        """Enter a message that was sent; its last index is above those already under way.

        Raises:
            InvariantViolation: the window is full; the sender must ask first.
        """
        invariant(
            not self.is_full,
            "INV-RAFT-6: nothing is sent into a full window",
            messages=len(self._window),
            inflight_bytes=self._inflight_bytes,
        )
        self._window.append((last_index, message_bytes))
        self._inflight_bytes += message_bytes

    def free_up_to(self, index: LogIndex) -> None:
        """Drop the messages that an acknowledgement of ``index`` covers. Idempotent."""
        while self._window and self._window[0][0] <= index:
            self._inflight_bytes -= self._window.popleft()[1]

    def clear(self) -> None:
        """Forget what is under way; it is sent again as the follower's state demands."""
        self._window.clear()
        self._inflight_bytes = 0
