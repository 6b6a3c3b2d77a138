"""Which of Faust's settings somebody set, and what they become here.

A setting counts as set if it stands in the app's arguments, in its configuration source or in the
environment, or if its value was changed afterwards: a default that merely differs between Faust
and this engine is no wish. What each becomes is also a table in the guide ``faust-settings.md``.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import ssl
import time
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from faust.auth import GSSAPICredentials, OAuthCredentials, SASLCredentials, SSLCredentials

from onceflow.decisions.takeover import ResetPolicy
from onceflow.errors import ConfigError
from onceflow.limits import OAUTH_TOKEN_S, RECORD_BOUND_S_MAX
from onceflow.observe.events import LogEvent
from onceflow.observe.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from faust.types import AppT

log = get_logger(__name__)


class Becomes(NamedTuple):
    """A setting of ours, or ``kafka.<option>`` of librdkafka, and how the value is converted."""

    name: str
    convert: Callable[[Any], object]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _lower(flag: object) -> str:
    return str(flag).lower()


HONOURED: Mapping[str, Becomes] = {
    "broker_commit_interval": Becomes("commit_interval_ms", _ms),
    "broker_commit_every": Becomes("commit_records", int),
    "broker_session_timeout": Becomes("session_timeout_ms", _ms),
    "broker_max_poll_records": Becomes("run_records", int),
    "stream_processing_timeout": Becomes(
        "record_bound_s", lambda seconds: min(seconds, RECORD_BOUND_S_MAX)
    ),
    "consumer_group_instance_id": Becomes("worker_id", str),
    "broker_heartbeat_interval": Becomes("kafka.heartbeat.interval.ms", _ms),
    "broker_max_poll_interval": Becomes("kafka.max.poll.interval.ms", _ms),
    "broker_check_crcs": Becomes("kafka.check.crcs", _lower),
    "consumer_max_fetch_size": Becomes("kafka.max.partition.fetch.bytes", int),
    "consumer_metadata_max_age_ms": Becomes("kafka.metadata.max.age.ms", int),
    "consumer_connections_max_idle_ms": Becomes("kafka.connections.max.idle.ms", int),
    "producer_metadata_max_age_ms": Becomes("kafka.metadata.max.age.ms", int),
    "producer_connections_max_idle_ms": Becomes("kafka.connections.max.idle.ms", int),
    "producer_compression_type": Becomes("kafka.compression.type", str),
    "producer_linger": Becomes("kafka.linger.ms", _ms),
    "producer_max_batch_size": Becomes("kafka.batch.size", int),
    "producer_max_request_size": Becomes("kafka.message.max.bytes", int),
}
"""Settings that become one of ours or librdkafka's."""

USED_BY_FAUST = frozenset(
    {
        "broker_client_id",
        "consumer_auto_offset_reset",
        "datadir",
        "reply_create_topic",
        "reply_expires",
        "reply_to",
        "reply_to_prefix",
        "topic_allow_declare",
        "topic_disable_leader",
        "topic_partitions",
        "topic_replication_factor",
    }
)
"""Settings that mean the same as in Faust, read where they are needed."""

WITHOUT_EFFECT: Mapping[str, str] = {
    "broker_api_version": "librdkafka finds the brokers' version itself",
    "consumer_api_version": "librdkafka finds the brokers' version itself",
    "producer_api_version": "librdkafka finds the brokers' version itself",
    "broker_commit_livelock_soft_timeout": "an epoch that does not end is aborted by its bounds",
    "broker_rebalance_timeout": "a rebalance is bounded by revoke_bound_s and max.poll.interval.ms",
    "broker_request_timeout": "each request has a bound of its own",
    "producer_acks": "an acknowledged record must survive the loss of a broker, so it is all",
    "producer_request_timeout": "no record outlives its transaction",
    "producer_threaded": "the client library sends on threads of its own",
    "recovery_consistency_check": "a store is trusted or rebuilt by rules that cannot be left out",
    "store": "state is always in RocksDB, never ahead of Kafka",
    "stream_ack_cancelled_tasks": "a record is finished when the agent asks for the next one",
    "stream_ack_exceptions": "a record on which an agent raises goes to on_error",
    "stream_buffer_maxsize": "in_flight_records and in_flight_bytes bound what is read ahead",
    "stream_publish_on_commit": "all sends of an epoch commit with its offsets",
    "stream_recovery_delay": "processing begins when the state is restored",
    "stream_wait_empty": "a worker always finishes and commits what was begun, within a bound",
    "table_cleanup_interval": "windows expire by event time, a bounded number in each epoch",
    "table_key_index_size": "keys are read from the store",
    "table_standby_replicas": "there are no standby copies; a moved table is restored",
    "tabledir": "the stores lie in datadir, beside Faust's own, which are left untouched",
}
"""Settings that an app may keep, and why they change nothing."""

_REFUSED_CLASSES = (
    "Agent",
    "Stream",
    "Table",
    "SetTable",
    "GlobalTable",
    "SetGlobalTable",
    "TableManager",
    "Topic",
)
_OLD_NAMES = {
    "broker_client_id": "client_id",
    "producer_linger": "producer_linger_ms",
    "broker_commit_interval": "commit_interval",
    "reply_create_topic": "create_reply_topic",
    "table_standby_replicas": "num_standby_replicas",
    "topic_partitions": "default_partitions",
    "topic_replication_factor": "replication_factor",
}
"""Names that Faust still takes for the settings."""


def is_explicit(app: AppT, name: str, conf: Any = None) -> bool:
    """Return whether somebody set Faust's setting ``name``.

    Args:
        app: the application.
        name: of the setting.
        conf: its settings object, while the app is being configured.
    """
    faust_app = cast("Any", app)
    settings = faust_app.conf if conf is None else conf
    param = settings.SETTINGS[name]
    for given in (_arguments(faust_app), _source(faust_app)):
        if given.get(name) is not None or given.get(_OLD_NAMES.get(name, name)) is not None:
            return True
    if param.env_name is not None and settings.getenv(param.env_name) is not None:
        return True
    return param.default is not None and settings.__dict__.get(param.storage_name) not in (
        param.default,
        param.to_python(settings, param.default),
    )


def _arguments(app: Any) -> Mapping[str, Any]:
    return app._default_options[1]  # noqa: SLF001 - Faust's own record of the arguments


def _source(app: Any) -> Mapping[str, Any]:
    source = app._config_source  # noqa: SLF001
    return app._load_settings_from_source(source, silent=True) if source else {}  # noqa: SLF001


def translated(app: AppT) -> dict[str, object]:
    """Return what the app's explicit Faust settings become, as arguments of `Settings.load`.

    Raises:
        ConfigError: a setting asks for what would not be exactly-once.
    """
    conf = cast("Any", app).conf
    arguments: dict[str, object] = dict(credentials(conf))
    for name, becomes in HONOURED.items():
        if is_explicit(app, name):
            arguments[becomes.name] = becomes.convert(getattr(conf, name))
    policies = [policy.value for policy in ResetPolicy]
    if conf.consumer_auto_offset_reset not in policies:
        raise ConfigError(
            f"consumer_auto_offset_reset={conf.consumer_auto_offset_reset!r} is not known. Nothing "
            f"was consumed. Use one of {', '.join(policies)}: where a partition starts that has no "
            "committed offset. A committed offset that Kafka lost always stops the worker."
        )
    if is_explicit(app, "producer_partitioner"):
        raise ConfigError(
            "producer_partitioner is set. A key would land on another partition than its state, so "
            "tables would count it twice over. Nothing was consumed. Leave it out, or give the "
            "partition with each send: topic.send(..., partition=n)."
        )
    return arguments


def without_effect(app: AppT) -> dict[str, str]:
    """Return the explicit settings that change nothing, each with its reason."""
    return {name: why for name, why in WITHOUT_EFFECT.items() if is_explicit(app, name)}


def tell_without_effect(app: AppT) -> None:
    """Log explicit settings that change nothing, so that none is lost silently."""
    for name, why in without_effect(app).items():
        log.info(LogEvent.SETTING_WITHOUT_EFFECT, setting=name, reason=why)


def check_classes(app: AppT) -> None:
    """Refuse an app that brings its own classes for what the engine replaces.

    Raises:
        ConfigError: names them; nothing was consumed.
    """
    given = {**_arguments(app), **_source(app)}
    named = [name for name in _REFUSED_CLASSES if given.get(name) is not None]
    if named:
        raise ConfigError(
            f"The app sets {', '.join(named)}: the engine has its own, on which exactly-once "
            "depends. Nothing was consumed. Leave the setting out; subclasses of "
            "onceflow.engine's classes can be named after they are configured."
        )


def has_worker_class(app: AppT) -> bool:
    """Return whether the app names a class of its own for its worker."""
    return {**_arguments(app), **_source(app)}.get("Worker") is not None


# -- credentials --


def credentials(conf: Any) -> dict[str, object]:
    """Return librdkafka's options for the app's ``broker_credentials`` or ``ssl_context``."""
    given, context = conf.broker_credentials, conf.ssl_context
    if given is None:
        return {} if context is None else {"kafka.security.protocol": "SSL", **_trust(context)}
    options: dict[str, object] = {"kafka.security.protocol": given.protocol.value}
    if isinstance(given, SSLCredentials):
        return {**options, **_trust(given.context)}
    options["kafka.sasl.mechanism"] = given.mechanism.value
    if isinstance(given, OAuthCredentials):
        options["kafka.oauth_cb"] = _token_callback(given.oauth_cb)
    elif isinstance(given, GSSAPICredentials):
        options["kafka.sasl.kerberos.service.name"] = given.kerberos_service_name
    elif isinstance(given, SASLCredentials):
        options["kafka.sasl.username"] = given.username
        options["kafka.sasl.password"] = given.password
    return {**options, **_trust(given.ssl_context)}


def _trust(context: ssl.SSLContext | None) -> dict[str, object]:
    """Return what an SSL context tells about trust: its certificates and what it checks.

    A context does not give its client certificate away; that is set by
    ``kafka.ssl.certificate.location`` and ``kafka.ssl.key.location``.
    """
    if context is None:
        return {}
    options: dict[str, object] = {}
    authorities = context.get_ca_certs(binary_form=True)
    if authorities:
        options["kafka.ssl.ca.pem"] = "".join(map(ssl.DER_cert_to_PEM_cert, authorities))
    if context.verify_mode is ssl.CERT_NONE:
        options["kafka.enable.ssl.certificate.verification"] = "false"
    if not context.check_hostname:
        options["kafka.ssl.endpoint.identification.algorithm"] = "none"
    return options


def _token_callback(provider: Any) -> Callable[[str], tuple[str, float]]:
    """Return a callback for librdkafka around a token provider of aiokafka's kind.

    librdkafka calls it on a thread that may be running an event loop, so the provider's coroutine
    gets a thread and a loop of its own.
    """
    pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="onceflow-token")

    def token(_: str) -> tuple[str, float]:
        fetched = pool.submit(asyncio.run, provider.token()).result()
        return fetched, time.time() + OAUTH_TOKEN_S  # noqa: TID251 - librdkafka wants wall time

    return token
