"""What an error of librdkafka means here: one table from codes to the reaction expected.

``classify`` is the only place where a ``KafkaError`` is judged; nothing above this room sees one.
Order of judgement: what a record or a setting is to blame for (it comes again at every replay),
then whether we are fenced, then librdkafka's own verdict (``txn_requires_abort``, ``fatal``), then
the code, then ``retriable``. What no rule knows is an unknown outcome, the careful answer.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from confluent_kafka import KafkaError, KafkaException

from onceflow.errors import (
    ConfigError,
    DataAtRisk,
    Fenced,
    OnceflowError,
    OutcomeUnknown,
    SerializationError,
    TopologyError,
    TransactionAborted,
    Unreachable,
)

if TYPE_CHECKING:
    from collections.abc import Generator


class ProducerFull(OnceflowError):  # noqa: N818 - it says what to do, not that something broke
    """The producer's local queue is full. Reaction: serve ``poll``, wait, produce again."""


_K = KafkaError

_BLAME: dict[int, type[OnceflowError]] = {
    # The record: it is refused again at every replay.
    _K.MSG_SIZE_TOO_LARGE: SerializationError,
    _K.RECORD_LIST_TOO_LARGE: SerializationError,
    _K.INVALID_MSG_SIZE: SerializationError,
    _K.INVALID_TIMESTAMP: SerializationError,
    _K.INVALID_RECORD: SerializationError,
    # Settings and rights: nothing helps but correcting them.
    _K.TOPIC_AUTHORIZATION_FAILED: ConfigError,
    _K.GROUP_AUTHORIZATION_FAILED: ConfigError,
    _K.CLUSTER_AUTHORIZATION_FAILED: ConfigError,
    _K.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: ConfigError,
    _K.SASL_AUTHENTICATION_FAILED: ConfigError,
    _K.UNSUPPORTED_SASL_MECHANISM: ConfigError,
    _K.SECURITY_DISABLED: ConfigError,
    _K._AUTHENTICATION: ConfigError,  # noqa: SLF001 - librdkafka's own codes begin so
    _K._SSL: ConfigError,  # noqa: SLF001
    _K._INVALID_ARG: ConfigError,  # noqa: SLF001
    _K._UNSUPPORTED_FEATURE: ConfigError,  # noqa: SLF001
    _K._NOT_IMPLEMENTED: ConfigError,  # noqa: SLF001
    _K.UNSUPPORTED_VERSION: ConfigError,
    _K.INVALID_TRANSACTION_TIMEOUT: ConfigError,
    _K.INVALID_SESSION_TIMEOUT: ConfigError,
    _K.INVALID_GROUP_ID: ConfigError,
    _K.INVALID_CONFIG: ConfigError,
    _K.POLICY_VIOLATION: ConfigError,
    _K.UNSUPPORTED_COMPRESSION_TYPE: ConfigError,
    _K.TOPIC_DELETION_DISABLED: ConfigError,
    _K.GROUP_MAX_SIZE_REACHED: ConfigError,
    # Topics and subscriptions that do not fit.
    _K.UNKNOWN_TOPIC_OR_PART: TopologyError,
    _K._UNKNOWN_TOPIC: TopologyError,  # noqa: SLF001
    _K._UNKNOWN_PARTITION: TopologyError,  # noqa: SLF001
    _K.TOPIC_EXCEPTION: TopologyError,
    _K.TOPIC_ALREADY_EXISTS: TopologyError,
    _K.INVALID_PARTITIONS: TopologyError,
    _K.INVALID_REPLICATION_FACTOR: TopologyError,
    _K.INVALID_REPLICA_ASSIGNMENT: TopologyError,
    _K.INCONSISTENT_GROUP_PROTOCOL: TopologyError,
    _K.UNSUPPORTED_ASSIGNOR: TopologyError,
    # Offsets or topics are not what was committed.
    _K.OFFSET_OUT_OF_RANGE: DataAtRisk,
    _K._AUTO_OFFSET_RESET: DataAtRisk,  # noqa: SLF001
    _K._NO_OFFSET: DataAtRisk,  # noqa: SLF001
    _K._LOG_TRUNCATION: DataAtRisk,  # noqa: SLF001
    _K.UNKNOWN_TOPIC_ID: DataAtRisk,
    _K.INCONSISTENT_TOPIC_ID: DataAtRisk,
    # Fatal for this member, but starting again later helps: the name becomes free.
    _K.UNRELEASED_INSTANCE_ID: Unreachable,
}

_FENCED: frozenset[int] = frozenset(
    {
        _K._FENCED,  # noqa: SLF001
        _K.INVALID_PRODUCER_EPOCH,
        _K.PRODUCER_FENCED,
        _K.INVALID_PRODUCER_ID_MAPPING,
        _K.TRANSACTION_COORDINATOR_FENCED,
    }
)

_REACTION: dict[int, type[OnceflowError]] = {
    # Our membership or our transaction is gone: abort and replay under the next assignment.
    _K.ILLEGAL_GENERATION: TransactionAborted,
    _K.UNKNOWN_MEMBER_ID: TransactionAborted,
    _K.FENCED_INSTANCE_ID: TransactionAborted,
    _K.FENCED_MEMBER_EPOCH: TransactionAborted,
    _K.STALE_MEMBER_EPOCH: TransactionAborted,
    _K.REBALANCE_IN_PROGRESS: TransactionAborted,
    _K.TRANSACTION_ABORTABLE: TransactionAborted,
    _K._MAX_POLL_EXCEEDED: TransactionAborted,  # noqa: SLF001
    _K._ASSIGNMENT_LOST: TransactionAborted,  # noqa: SLF001
    _K._PURGE_QUEUE: TransactionAborted,  # noqa: SLF001
    _K._PURGE_INFLIGHT: TransactionAborted,  # noqa: SLF001
    _K._STATE: TransactionAborted,  # noqa: SLF001
    _K._QUEUE_FULL: ProducerFull,  # noqa: SLF001
    # Nobody answers, or not yet.
    _K._TRANSPORT: Unreachable,  # noqa: SLF001
    _K._RESOLVE: Unreachable,  # noqa: SLF001
    _K._ALL_BROKERS_DOWN: Unreachable,  # noqa: SLF001
    _K._TIMED_OUT: Unreachable,  # noqa: SLF001
    _K._MSG_TIMED_OUT: Unreachable,  # noqa: SLF001
    _K._TIMED_OUT_QUEUE: Unreachable,  # noqa: SLF001
    _K._WAIT_COORD: Unreachable,  # noqa: SLF001
    _K.REQUEST_TIMED_OUT: Unreachable,
    _K.NETWORK_EXCEPTION: Unreachable,
    _K.BROKER_NOT_AVAILABLE: Unreachable,
    _K.LEADER_NOT_AVAILABLE: Unreachable,
    _K.NOT_LEADER_FOR_PARTITION: Unreachable,
    _K.COORDINATOR_NOT_AVAILABLE: Unreachable,
    _K.COORDINATOR_LOAD_IN_PROGRESS: Unreachable,
    _K.NOT_COORDINATOR: Unreachable,
    _K.NOT_ENOUGH_REPLICAS: Unreachable,
    _K.NOT_ENOUGH_REPLICAS_AFTER_APPEND: Unreachable,
    _K.CONCURRENT_TRANSACTIONS: Unreachable,
    _K.UNSTABLE_OFFSET_COMMIT: Unreachable,
    _K.KAFKA_STORAGE_ERROR: Unreachable,
    _K.NOT_CONTROLLER: Unreachable,
    _K.UNKNOWN_LEADER_EPOCH: Unreachable,
    _K.FENCED_LEADER_EPOCH: Unreachable,
    _K.OFFSET_NOT_AVAILABLE: Unreachable,
    _K.REPLICA_NOT_AVAILABLE: Unreachable,
    _K.LISTENER_NOT_FOUND: Unreachable,
    _K.STALE_BROKER_EPOCH: Unreachable,
    _K.THROTTLING_QUOTA_EXCEEDED: Unreachable,
}

_MEANING: dict[type[OnceflowError], str] = {
    SerializationError: (
        "Kafka refuses the record itself, and would again at every replay; its transaction cannot"
        " commit. Make it smaller, or give it a timestamp the topic accepts"
    ),
    ConfigError: (
        "nothing was committed. Correct the setting, the credentials or the rights it names"
    ),
    TopologyError: (
        "nothing was committed. Create the topic, or correct its name or partition count"
    ),
    DataAtRisk: (
        "records between the committed offset and what Kafka has kept may be lost; the position is"
        " not reset silently. Look at the topic's retention, then decide where to start"
    ),
    Fenced: (
        "another producer took over our transactional id, or the transaction outlived its timeout;"
        " nothing of it is committed by us. Read the marker before doing anything"
    ),
    TransactionAborted: "the transaction must be aborted; its input is replayed, nothing is lost",
    Unreachable: (
        "nothing is lost, work waits. Check that the brokers run and that the bootstrap and"
        " advertised addresses can be reached from here"
    ),
    OutcomeUnknown: (
        "whether it took effect is not known. The producer is not used again; the marker decides"
    ),
    ProducerFull: "nothing is lost; produce again when records have been delivered",
}


_HINT: dict[int, str] = {
    _K.UNRELEASED_INSTANCE_ID: (
        "; the worker id is still held by a former member: wait until its session ends on the"
        " broker, or give this worker another ONCEFLOW_WORKER_ID"
    ),
    _K.FENCED_INSTANCE_ID: (
        "; another worker joined with the same ONCEFLOW_WORKER_ID: give each worker its own"
    ),
    _K._AUTHENTICATION: "; check sasl.username, sasl.password and sasl.mechanism",  # noqa: SLF001
}


_CONSUMER_FATAL: dict[str, int] = {
    KafkaError(code).str(): code
    for code in (
        _K.FENCED_INSTANCE_ID,
        _K.UNRELEASED_INSTANCE_ID,
        _K.GROUP_AUTHORIZATION_FAILED,
        _K.GROUP_MAX_SIZE_REACHED,
        _K.UNSUPPORTED_ASSIGNOR,
        _K.UNSUPPORTED_VERSION,
        _K.INVALID_GROUP_ID,
    )
}
"""What can end a consumer for good, by librdkafka's text of it."""


def _cause(error: KafkaError) -> KafkaError:
    """The error behind a consumer's bare ``_FATAL``.

    The binding hands it out among the records without its code; only librdkafka's text of the code
    tells which it is. Producers keep theirs.
    """
    if error.code() == _K._FATAL:  # noqa: SLF001
        for text, code in _CONSUMER_FATAL.items():
            if text in error.str():
                return KafkaError(code, error.str(), True)
    return error


def kind_of(error: KafkaError) -> type[OnceflowError]:
    """Return the class of ``classify(error)``, without building the message."""
    error = _cause(error)
    code = error.code()
    if code in _BLAME:
        return _BLAME[code]
    if code in _FENCED or (code == _K.FENCED_INSTANCE_ID and error.fatal()):
        return Fenced
    if error.txn_requires_abort():
        return TransactionAborted
    if error.fatal() or code == _K._FATAL:  # noqa: SLF001
        return OutcomeUnknown
    if code in _REACTION:
        return _REACTION[code]
    return Unreachable if error.retriable() else OutcomeUnknown


def classify(error: KafkaError, doing: str = "") -> OnceflowError:
    """Turn an error of librdkafka into ours, by the reaction that is expected.

    Args:
        error: as raised (``exception.args[0]``) or as delivered in a message or a callback.
        doing: what was being done, to begin the message with; for example ``"commit"``.
    """
    error = _cause(error)
    kind = kind_of(error)
    hint = _HINT.get(error.code(), "")
    return kind(f"{doing or 'Kafka'}: {error.name()}: {error.str()}: {_MEANING[kind]}{hint}")


@contextmanager
def unmasked() -> Generator[None]:
    """Let the fatal error of a client come out of any call that serves its callbacks.

    The binding sets a fatal error as Python's exception in the middle of serving, and goes on: a
    log line that is served next fails with ``SystemError``, of which the error is the cause (seen
    with confluent-kafka 2.16, when Kafka had aborted a transaction under a stalled process).
    """
    try:
        yield
    except SystemError as masked:
        if isinstance(masked.__cause__, KafkaException):
            raise masked.__cause__ from None
        raise
