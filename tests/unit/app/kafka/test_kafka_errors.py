"""Every kind of librdkafka error is judged by the reaction it needs."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError as K

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
from onceflow.kafka.errors import ProducerFull, classify, kind_of

FATAL = {"fatal": True}
ABORTABLE = {"txn_requires_abort": True}
RETRIABLE = {"retriable": True}


@pytest.mark.parametrize(
    ("code", "flags", "kind"),
    [
        # Somebody took our transactional id over, or the transaction outlived its timeout.
        (K._FENCED, FATAL, Fenced),
        (K.INVALID_PRODUCER_EPOCH, FATAL, Fenced),
        (K.PRODUCER_FENCED, FATAL, Fenced),
        (K.INVALID_PRODUCER_ID_MAPPING, FATAL, Fenced),
        (K.PRODUCER_FENCED, ABORTABLE, Fenced),
        # Our membership is stale: an abort and a replay help.
        (K.ILLEGAL_GENERATION, ABORTABLE, TransactionAborted),
        (K.ILLEGAL_GENERATION, {}, TransactionAborted),
        (K.UNKNOWN_MEMBER_ID, ABORTABLE, TransactionAborted),
        (K.FENCED_INSTANCE_ID, ABORTABLE, TransactionAborted),
        (K.STALE_MEMBER_EPOCH, {}, TransactionAborted),
        (K.TRANSACTION_ABORTABLE, {}, TransactionAborted),
        (K._MAX_POLL_EXCEEDED, {}, TransactionAborted),
        (K._STATE, {}, TransactionAborted),
        # For a consumer a fenced instance is final: another worker has its name.
        (K.FENCED_INSTANCE_ID, FATAL, Fenced),
        (K.UNRELEASED_INSTANCE_ID, FATAL, Unreachable),
        # Whatever else is abortable.
        (K._TIMED_OUT, ABORTABLE, TransactionAborted),
        (K.UNKNOWN, ABORTABLE, TransactionAborted),
        # Fatal, and what happened to the transaction is not known.
        (K.INVALID_TXN_STATE, FATAL, OutcomeUnknown),
        (K._FATAL, {}, OutcomeUnknown),
        (K._TIMED_OUT, FATAL, OutcomeUnknown),
        # Nobody answers.
        (K._TIMED_OUT, RETRIABLE, Unreachable),
        (K._TIMED_OUT, {}, Unreachable),
        (K._TRANSPORT, {}, Unreachable),
        (K._ALL_BROKERS_DOWN, {}, Unreachable),
        (K._RESOLVE, {}, Unreachable),
        (K.COORDINATOR_NOT_AVAILABLE, {}, Unreachable),
        (K.NOT_LEADER_FOR_PARTITION, {}, Unreachable),
        (K.UNSTABLE_OFFSET_COMMIT, {}, Unreachable),
        (K.UNKNOWN_LEADER_EPOCH, {}, Unreachable),
        (K.OFFSET_NOT_AVAILABLE, {}, Unreachable),
        (K.UNKNOWN, RETRIABLE, Unreachable),
        # Offsets and topics that are not what was committed.
        (K.OFFSET_OUT_OF_RANGE, {}, DataAtRisk),
        (K._AUTO_OFFSET_RESET, {}, DataAtRisk),
        (K._NO_OFFSET, {}, DataAtRisk),
        (K.INCONSISTENT_TOPIC_ID, {}, DataAtRisk),
        # The record is to blame, even inside a transaction.
        (K.MSG_SIZE_TOO_LARGE, {}, SerializationError),
        (K.MSG_SIZE_TOO_LARGE, ABORTABLE, SerializationError),
        (K.INVALID_TIMESTAMP, ABORTABLE, SerializationError),
        # Rights and settings.
        (K.TOPIC_AUTHORIZATION_FAILED, ABORTABLE, ConfigError),
        (K.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, FATAL, ConfigError),
        (K.SASL_AUTHENTICATION_FAILED, {}, ConfigError),
        (K._AUTHENTICATION, {}, ConfigError),
        (K.INVALID_TRANSACTION_TIMEOUT, FATAL, ConfigError),
        # Topics and subscriptions.
        (K.UNKNOWN_TOPIC_OR_PART, {}, TopologyError),
        (K._UNKNOWN_PARTITION, {}, TopologyError),
        (K.INCONSISTENT_GROUP_PROTOCOL, {}, TopologyError),
        # The local queue.
        (K._QUEUE_FULL, RETRIABLE, ProducerFull),
        # Unheard of: the careful answer.
        (K.UNKNOWN, {}, OutcomeUnknown),
    ],
)
def test_an_error_becomes_the_reaction_it_needs(code, flags, kind):
    error = K(code, "because", **flags)
    assert kind_of(error) is kind
    made = classify(error, "commit")
    assert type(made) is kind
    assert isinstance(made, OnceflowError)


def test_the_message_says_what_happened_and_what_it_means():
    text = str(classify(K(K._AUTO_OFFSET_RESET, "fetch failed"), "consume t[0] at 7"))
    assert text.startswith("consume t[0] at 7: _AUTO_OFFSET_RESET: fetch failed: ")
    assert "not reset silently" in text


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (K.FENCED_INSTANCE_ID, Fenced),
        (K.UNRELEASED_INSTANCE_ID, Unreachable),
        (K.GROUP_AUTHORIZATION_FAILED, ConfigError),
        (K.UNSUPPORTED_VERSION, ConfigError),
    ],
)
def test_a_consumers_fatal_error_is_known_by_its_text(code, kind):
    text = f"Fatal error: {K(code).str()}: Fatal consumer error: {K(code).str()}"
    assert kind_of(K(K._FATAL, text)) is kind


@pytest.mark.parametrize(
    ("kind", "exit_code"), [(ConfigError, 2), (Unreachable, 3), (Fenced, 4), (DataAtRisk, 4)]
)
def test_exit_codes_follow_from_the_kind(kind, exit_code):
    assert kind.exit_code == exit_code
