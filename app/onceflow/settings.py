"""Every setting: its unit, default, meaning and limits, and where an effective value came from.

Precedence is arguments, then the environment (``ONCEFLOW_*``), then the file (``onceflow.toml``),
then the default. ``Settings.load`` takes all of them as inputs and reads nothing else, so that the
same inputs give the same settings. The query string of a broker URL counts as arguments.

This is the only module that imports pydantic. It must never import a room above it: the rooms are
handed plain values or a ``Settings``.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, ClassVar, NamedTuple, Self, cast
from urllib.parse import parse_qsl, urlsplit

from pydantic import (
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from onceflow.decisions.crash_points import CrashPoint
from onceflow.errors import ConfigError
from onceflow.limits import WORKER_PROCESSES_MAX

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic.fields import FieldInfo

ENVIRONMENT_PREFIX = "ONCEFLOW_"
FILE_VARIABLE = "ONCEFLOW_FILE"
FILE_NAME = "onceflow.toml"
KAFKA_PREFIX = "kafka."

_PORT_MAX = 65_535
_MIB = 1024 * 1024
_SIMILAR = 0.8
"""How alike an unknown variable must be to a setting to count as a misspelling of it. Others are
left alone: Kubernetes injects ``ONCEFLOW_PORT`` and its like beside a service of that name."""
_OTHER_VARIABLES = frozenset({"BROKER", "FILE"})
"""Variables with our prefix that are not settings: read by the local Kafka and by the loader."""

_SECRET = re.compile(r"password|secret|\.pem$|^sasl\.oauthbearer\.config$|jaas|token(?!_file$)")
MASK = "********"


class OnError(StrEnum):
    """What happens to a record on which decoding or an agent fails."""

    RETRY = "retry"
    DEAD_LETTER = "dead_letter"
    STOP = "stop"
    SKIP = "skip"


class OnRetriesExhausted(StrEnum):
    """What happens to a record that failed ``retries_max`` times more."""

    DEAD_LETTER = "dead_letter"
    STOP = "stop"
    SKIP = "skip"


class GroupProtocol(StrEnum):
    """Kafka's group protocol: the classic one, or that of KIP-848."""

    CLASSIC = "classic"
    CONSUMER = "consumer"


class LogFormat(StrEnum):
    """How log lines are rendered; ``auto`` is console on a terminal and JSON elsewhere."""

    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"


class Source(StrEnum):
    """Where an effective value came from, strongest first."""

    ARGUMENT = "argument"
    ENVIRONMENT = "environment"
    FILE = "file"
    DEFAULT = "default"
    DERIVED = "derived"


class HttpAddress(NamedTuple):
    """Where a worker's HTTP server listens."""

    host: str
    port: int


class CrashAt(NamedTuple):
    """Where the process kills itself: at the ``passing``-th passing (from 1) of a crash point."""

    name: CrashPoint
    passing: int


class Explained(NamedTuple):
    """One effective setting for people: secrets are masked in ``value``."""

    name: str
    value: str
    source: Source
    doc: str


class Settings(BaseModel):
    """The effective settings of one process. Immutable; built by ``load``."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True
    )

    commit_interval_ms: Annotated[int, Field(ge=1, le=60_000)] = 100
    """Milliseconds from the start of an epoch to its commit, unless records or bytes end it
    sooner. Shorter is lower latency; longer is fewer transactions."""

    commit_records: Annotated[int, Field(ge=1)] = 100_000
    """Input records after which an epoch commits before its interval is over."""

    commit_bytes: Annotated[ByteSize, Field(ge=_MIB)] = ByteSize(64 * _MIB)
    """Bytes of outputs, sink rows and changed state after which an epoch commits before its
    interval is over; bounds the memory that one epoch takes."""

    on_error: OnError = OnError.RETRY
    """What happens to a record that cannot be decoded, on which an agent raises, or that takes
    longer than the record bound: retry (then on_retries_exhausted), dead_letter, stop or skip."""

    on_retries_exhausted: OnRetriesExhausted = OnRetriesExhausted.DEAD_LETTER
    """What happens to a record that failed again on every retry: dead_letter, stop or skip."""

    retries_max: Annotated[int, Field(ge=0, le=1_000)] = 3
    """Retries of a failing record before on_retries_exhausted decides; counted across crashes."""

    retry_backoff_ms: Annotated[int, Field(ge=0, le=60_000)] = 100
    """Milliseconds before the first retry of a failing record, in which its partition waits;
    doubles with each further one."""

    record_bound_s: Annotated[float, Field(gt=0, le=450)] = 15
    """Seconds that an agent may take for one record before the record counts as failing. The
    transaction timeout is twice this, and Kafka refuses more than 900 s by default."""

    revoke_bound_s: Annotated[float, Field(gt=0, le=60)] = 5
    """Seconds that a revoked partition may be kept to commit what is open; then it is aborted."""

    session_timeout_ms: Annotated[int, Field(ge=6_000, le=1_800_000)] = 10_000
    """Milliseconds without a heartbeat after which Kafka takes a worker for dead. The limits are
    the defaults of Kafka's group.min.session.timeout.ms and group.max.session.timeout.ms."""

    worker_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,200}$")] | None = None
    """Name of this worker for static membership, so that a restart moves no partitions; without
    it the membership is dynamic."""

    group_protocol: GroupProtocol = GroupProtocol.CLASSIC
    """Kafka's group protocol: classic, or consumer (KIP-848, Kafka 4.0 and later)."""

    http: str = "127.0.0.1:9464"
    """host:port of /metrics and the probes, or off. A taken default takes the next free port; a
    taken port that was set explicitly is an error."""

    state_memory_bytes: Annotated[ByteSize, Field(ge=16 * _MIB)] = ByteSize(256 * _MIB)
    """Memory for all stores of the process together: block cache and write buffers."""

    in_flight_records: Annotated[int, Field(ge=1)] = 200_000
    """Records fetched and not yet processed at which partitions are paused."""

    in_flight_bytes: Annotated[ByteSize, Field(ge=_MIB)] = ByteSize(128 * _MIB)
    """Bytes fetched and not yet processed at which partitions are paused."""

    run_records: Annotated[int, Field(ge=1)] = 2_000
    """Records of one partition that are handed on as one run, the unit of work of an agent."""

    coordinator: str | None = None
    """Client addresses of the replicated group that keeps the record of transactions, host:port
    with commas between; one is enough if it answers. A worker of a supervisor is told by it."""

    coordinator_cluster: Annotated[str, Field(min_length=1)] = "onceflow"
    """Name of that group, which keeps clients of others out."""

    coordinator_tls: str | None = None
    """Folder with tls.crt, tls.key and ca.crt to speak TLS with that group."""

    coordinator_token_file: str | None = None
    """File with the token that is shown to that group."""

    log_format: LogFormat = LogFormat.AUTO
    """auto, json or console; auto is console on a terminal and JSON elsewhere."""

    processes: Annotated[int, Field(ge=1, le=WORKER_PROCESSES_MAX)] = 1
    """Worker processes that the command worker runs under one supervisor."""

    crash_point: str | None = None
    """A testing aid: name or name:n of a crash point of the epoch, at whose n-th passing the
    process kills itself with SIGKILL. Never set it outside tests."""

    kafka: Annotated[dict[str, object], Field(repr=False)] = {}
    """Options of librdkafka by their own names, handed to every client: kafka.security.protocol,
    or ONCEFLOW_KAFKA__SECURITY_PROTOCOL in the environment. Those that correctness hangs on are
    refused by the Kafka room, which knows librdkafka's names."""

    _sources: dict[str, Source] = PrivateAttr(default_factory=dict)

    @classmethod
    def load(
        cls,
        arguments: Mapping[str, object],
        environ: Mapping[str, str],
        file: Path | None = None,
    ) -> Self:
        """Merge the sources, strongest first, and validate the result.

        Args:
            arguments: values by setting name; ``kafka`` is a mapping by librdkafka's names, of
                which each may also stand by itself, as ``kafka.security.protocol``.
            environ: the process environment; only ``ONCEFLOW_*`` is looked at.
            file: a TOML file that must be readable, or None for none.

        Raises:
            ConfigError: names every wrong setting at once, with its source. The user corrects
                them; nothing was started.
        """
        values: dict[str, object] = {}
        options: dict[str, object] = {}
        sources: dict[str, Source] = {}
        layers = (
            (Source.FILE, _read_file(file)),
            (Source.ENVIRONMENT, _read_environment(environ, cls.model_fields)),
            (Source.ARGUMENT, arguments),
        )
        for source, layer in layers:
            for name, value in layer.items():
                if name.startswith(KAFKA_PREFIX):
                    options[name.removeprefix(KAFKA_PREFIX)] = value
                    sources[name] = source
                elif name not in cls.model_fields:
                    raise ConfigError(_unknown(name, source, cls.model_fields))
                elif name == "kafka":
                    for option, setting in _flat(value, source).items():
                        options[option] = setting
                        sources[KAFKA_PREFIX + option] = source
                else:
                    values[name] = value
                    sources[name] = source
        try:
            return cls.model_validate(values | {"kafka": options}, context=sources)
        except ValidationError as error:
            raise ConfigError(_explain_errors(error, sources)) from None

    def model_post_init(self, context: object, /) -> None:
        """Remember where each value came from; pydantic calls it."""
        self._sources = dict(cast("Mapping[str, Source] | None", context) or {})

    @field_validator("http")
    @classmethod
    def _check_http(cls, value: str) -> str:
        if value != "off":
            _parse_address(value)
        return value

    @field_validator("coordinator")
    @classmethod
    def _check_coordinator(cls, value: str | None) -> str | None:
        for address in [] if value is None else value.split(","):
            _parse_address(address.strip())
        return value

    @field_validator("crash_point")
    @classmethod
    def _check_crash_point(cls, value: str | None) -> str | None:
        if value is not None:
            _parse_crash_point(value)
        return value

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.commit_interval_ms > self.record_bound_s * 1000:
            raise ValueError(
                "commit_interval_ms must not exceed record_bound_s: a transaction stays open for "
                "one interval and one slow record, and its timeout is twice the record bound"
            )
        if self.run_records > self.in_flight_records:
            raise ValueError("run_records must not exceed in_flight_records: no run would fit")
        return self

    @property
    def transaction_timeout_ms(self) -> int:
        """Kafka's transaction timeout: always twice the record bound."""
        return round(self.record_bound_s * 2000)

    @property
    def http_address(self) -> HttpAddress | None:
        """Where to listen, or None if the HTTP server is off."""
        return None if self.http == "off" else _parse_address(self.http)

    @property
    def crash_at(self) -> CrashAt | None:
        """The crash point to die at, or None."""
        return None if self.crash_point is None else _parse_crash_point(self.crash_point)

    def source(self, name: str) -> Source:
        """Where the value of setting ``name`` (or ``kafka.<option>``) came from."""
        return self._sources.get(name, Source.DEFAULT)

    def is_explicit(self, name: str) -> bool:
        """Whether somebody set ``name``; false if it is the default."""
        return self.source(name) is not Source.DEFAULT

    def explain(self) -> list[Explained]:
        """Every effective setting with its source and meaning, secrets masked, in stable order."""
        rows = [
            Explained(name, _shown(name, self.__dict__[name]), self.source(name), _doc(field))
            for name, field in type(self).model_fields.items()
            if name != "kafka"
        ]
        rows.append(
            Explained(
                "transaction_timeout_ms",
                str(self.transaction_timeout_ms),
                Source.DERIVED,
                "Milliseconds after which Kafka aborts an open transaction: twice record_bound_s.",
            )
        )
        rows.extend(
            Explained(
                KAFKA_PREFIX + option,
                _shown(option, value),
                self.source(KAFKA_PREFIX + option),
                "An option of librdkafka, handed to every client.",
            )
            for option, value in sorted(self.kafka.items())
        )
        return rows


def settings_file(environ: Mapping[str, str], directory: Path) -> Path | None:
    """Find the file to load: ``ONCEFLOW_FILE``, else ``onceflow.toml`` in ``directory``, if any.

    Raises:
        ConfigError: ``ONCEFLOW_FILE`` names no file. The user corrects it.
    """
    named = environ.get(FILE_VARIABLE)
    if named:
        path = directory / named
        if not path.is_file():
            raise ConfigError(
                f"{FILE_VARIABLE} names {named}, which is no file. Nothing was started. "
                "Correct the path, or unset the variable."
            )
        return path
    path = directory / FILE_NAME
    return path if path.is_file() else None


def url_arguments(url: str) -> dict[str, object]:
    """Return the settings in a broker URL's query, as arguments for ``Settings.load``.

    ``onceflow://host:9092?commit_interval_ms=50&kafka.security.protocol=SSL`` gives both.

    Raises:
        ConfigError: a setting stands twice in the query. The user removes one.
    """
    found: dict[str, object] = {}
    for name, value in parse_qsl(urlsplit(url).query, keep_blank_values=True):
        if name in found:
            raise ConfigError(
                f"The broker URL sets {name} twice, so it is unclear which is meant. Remove one."
            )
        found[name] = value
    return found


def _read_environment(environ: Mapping[str, str], names: Mapping[str, object]) -> dict[str, object]:
    found: dict[str, object] = {}
    options: dict[str, object] = {}
    for variable, value in environ.items():
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        rest = variable.removeprefix(ENVIRONMENT_PREFIX)
        name = rest.lower()
        if name.startswith("kafka__"):
            options[name.removeprefix("kafka__").replace("_", ".")] = value
        elif name in names and name != "kafka":
            found[name] = value
        elif rest not in _OTHER_VARIABLES and difflib.get_close_matches(
            name, names, n=1, cutoff=_SIMILAR
        ):
            raise ConfigError(_unknown(name, Source.ENVIRONMENT, names))
    return found | {"kafka": options} if options else found


def _read_file(file: Path | None) -> dict[str, object]:
    if file is None:
        return {}
    try:
        with file.open("rb") as stream:
            return tomllib.load(stream)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"The settings file {file} cannot be read: {error}. Nothing was started. Correct it, "
            f"or point {FILE_VARIABLE} at another."
        ) from error


def _flat(value: object, source: Source) -> dict[str, object]:
    """Flatten ``{"security": {"protocol": x}}``, as TOML nests it, into dotted names."""
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"Setting kafka ({source}) must map librdkafka options to values, not be a "
            f"{type(value).__name__}."
        )
    flat: dict[str, object] = {}
    for key, item in cast("Mapping[object, object]", value).items():
        if isinstance(item, Mapping):
            inner = _flat(cast("object", item), source)
            flat.update({f"{key}.{name}": leaf for name, leaf in inner.items()})
        else:
            flat[str(key)] = item
    return flat


def _parse_address(value: str) -> HttpAddress:
    host, colon, port = value.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > _PORT_MAX:
        raise ValueError("must be host:port with a port of at most 65535 (http also takes off)")
    return HttpAddress(host.strip("[]"), int(port))


def _parse_crash_point(value: str) -> CrashAt:
    name, _, passing = value.partition(":")
    if name not in set(CrashPoint):
        raise ValueError(f"must be one of {', '.join(CrashPoint)}, or one of them and :n")
    if passing and not (passing.isascii() and passing.isdigit() and int(passing) > 0):
        raise ValueError("must count passings from 1, as in before_commit:3")
    return CrashAt(CrashPoint(name), int(passing or 1))


def _unknown(name: str, source: Source, names: Mapping[str, object]) -> str:
    similar = difflib.get_close_matches(name, names, n=1)
    hint = f"Did you mean {similar[0]}?" if similar else "onceflow config --explain lists them all."
    return f"There is no setting {name} ({source}); nothing was started. {hint}"


def _explain_errors(error: ValidationError, sources: Mapping[str, Source]) -> str:
    lines: list[str] = []
    for problem in error.errors(include_url=False, include_context=False):
        name = ".".join(str(part) for part in problem["loc"][:1]) or "settings"
        reason = problem["msg"].removeprefix("Value error, ")
        given = "" if name in {"kafka", "settings"} else f" = {problem['input']!r}"
        where = f" ({sources[name]})" if name in sources else ""
        lines.append(f"{name}{given}{where}: {reason}")
    return "Wrong settings; nothing was started. Correct them:\n  " + "\n  ".join(lines)


def _shown(name: str, value: object) -> str:
    if _SECRET.search(name):
        return MASK
    if isinstance(value, ByteSize):
        return f"{int(value)} ({value.human_readable()})"
    if callable(value):
        return f"<{type(value).__name__}>"
    return "" if value is None else str(value)


def _doc(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())
