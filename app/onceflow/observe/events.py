"""Names of the events that onceflow logs; renaming one breaks whoever searches for it.

Each is a constant in snake_case and never a formatted sentence: what varies goes into keys.
Only changes of state are logged at INFO, so that a worker in steady state is silent.
"""

from __future__ import annotations

from enum import StrEnum


class LogEvent(StrEnum):
    """Every event's name."""

    LIBRARY_LOG = "library_log"
    """A line of Faust, librdkafka or another library; its sentence is in ``message``."""

    HTTP_LISTENING = "http_listening"
    HTTP_PORT_TAKEN = "http_port_taken"
    HTTP_STOPPED = "http_stopped"

    WORKER_STARTED = "worker_started"
    WORKER_STOPPING = "worker_stopping"
    WORKER_STOPPED = "worker_stopped"
    WORKER_FAILED = "worker_failed"
    INVARIANT_VIOLATED = "invariant_violated"

    PARTITIONS_ASSIGNED = "partitions_assigned"
    PARTITIONS_REVOKED = "partitions_revoked"
    PARTITIONS_LOST = "partitions_lost"
    TASK_TAKEN_OVER = "task_taken_over"
    TASK_RESTORING = "task_restoring"
    TASK_RESTORED = "task_restored"
    TASK_RUNNING = "task_running"
    TASK_CLOSED = "task_closed"
    STORE_REBUILT = "store_rebuilt"
    REPLICA_FOLLOWING = "replica_following"
    GLOBAL_TABLE_CONFLICT = "global_table_conflict"
    CHANGELOG_CONFIG = "changelog_config"
    WINDOW_CLOSE_FAILED = "window_close_failed"

    EPOCH_ABORTED = "epoch_aborted"
    NOTHING_SUBSCRIBED = "nothing_subscribed"
    SETTING_WITHOUT_EFFECT = "setting_without_effect"
    TOPIC_CREATED = "topic_created"
    TOPIC_MISSING = "topic_missing"
    REPLIES_INTERRUPTED = "replies_interrupted"
    OFFSETS_PENDING = "offsets_pending"
    KAFKA_UNREACHABLE = "kafka_unreachable"
    OUTCOME_UNKNOWN = "outcome_unknown"
    PRODUCER_SPENT = "producer_spent"
    INCARNATION_FENCED = "incarnation_fenced"
    FENCED = "fenced"

    PARTICIPANTS_OPENED = "participants_opened"
    PARTICIPANT_UNAVAILABLE = "participant_unavailable"
    PREPARE_FAILED = "prepare_failed"
    PARTITIONS_HELD_BACK = "partitions_held_back"
    BRANCH_IN_DOUBT = "branch_in_doubt"
    BRANCHES_RESOLVED = "branches_resolved"
    HEURISTIC_OUTCOME = "heuristic_outcome"

    OUTBOX_OPENED = "outbox_opened"
    OUTBOX_MOVED = "outbox_moved"
    OUTBOX_REFUSED = "outbox_refused"

    COORDINATOR_CONNECTED = "coordinator_connected"
    COORDINATOR_UNREACHABLE = "coordinator_unreachable"
    COORDINATOR_REFUSED = "coordinator_refused"

    RECORD_FAILED = "record_failed"
    RECORD_RETRIED = "record_retried"
    RECORD_DEAD_LETTERED = "record_dead_lettered"
    RECORD_SKIPPED = "record_skipped"
