"""Names of the points of an epoch at which fault tests kill or stop a worker.

The engine announces each of them as it passes; a fault plan decides what happens there. Only the
names live here, so that the plan, the engine and the reports of fault runs agree on them. Must
never import anything that acts.
"""

from __future__ import annotations

from enum import StrEnum


class CrashPoint(StrEnum):
    """A place in the life of an epoch where a crash must be harmless.

    In the order in which an epoch passes them; those of taking over partitions stand last.
    """

    BEFORE_PRODUCE = "before_produce"
    """The epoch's changelog and outputs are serialised, none of this seal is handed over."""
    AFTER_PRODUCE = "after_produce"
    """The producer's queue has them; the broker may have some."""
    BEFORE_PREPARE = "before_prepare"
    DURING_PREPARE = "during_prepare"
    """One participant has prepared, others may have."""
    AFTER_PREPARE = "after_prepare"
    """Every participant has prepared; Kafka has not decided."""
    BEFORE_SEND_OFFSETS = "before_send_offsets"
    AFTER_SEND_OFFSETS = "after_send_offsets"
    """Offsets and markers are pending in the transaction; records are still on their way."""
    BEFORE_FLUSH = "before_flush"
    AFTER_FLUSH = "after_flush"
    """The broker has every record and every offset of the transaction."""
    BEFORE_COMMIT = "before_commit"
    AFTER_COMMIT = "after_commit"
    """Kafka has decided; the local stores know nothing of it."""
    BEFORE_APPLY = "before_apply"
    AFTER_APPLY = "after_apply"
    BEFORE_FINISH = "before_finish"
    """Kafka has decided; no participant knows."""
    DURING_FINISH = "during_finish"
    """One participant has committed, others may have."""
    AFTER_FINISH = "after_finish"
    """Every participant has committed, and the worker does not know it yet."""
    BEFORE_OUTBOX_APPLY = "before_outbox_apply"
    """Messages of an outbox sink are read; nothing of them is in the target."""
    DURING_OUTBOX_APPLY = "during_outbox_apply"
    """They are written, and the target's own transaction is not committed."""
    AFTER_OUTBOX_APPLY = "after_outbox_apply"
    """The target has them, and the worker does not know it yet."""
    BEFORE_CLAIM = "before_claim"
    """Partitions are taken over and restored; their markers still name the last owner."""
    AFTER_CLAIM = "after_claim"
    BEFORE_RELEASE = "before_release"
    """Drained for a revoke or a stop; the markers do not say released yet."""
    AFTER_RELEASE = "after_release"
    DURING_RESTORE = "during_restore"
    """A store has replayed a part of its changelog."""
    AFTER_FENCE = "after_fence"
    """The last owner is fenced; its offsets are not read again yet."""
    AFTER_LIST = "after_list"
    """What the last owner left in participants is listed; nothing of it is finished."""
    AFTER_RAISE = "after_raise"
    """The last owner can prepare nothing more; what it prepared late is not looked for yet."""
