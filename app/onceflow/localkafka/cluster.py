"""``LocalKafka``: a cluster of one or three brokers whose life is that of a ``with`` block.

Theory of operation: a directory holds a plan (ports, cluster id) and one folder per broker. Start
makes the plan, writes the configurations, prepares empty data directories, starts the processes
through ``guard.py``, and waits until transactions can be served. Ports are chosen free, but another
process may take one before Kafka does: then another plan is made, unless the port was explicit.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from onceflow.errors import ConfigError, Unreachable
from onceflow.limits import KAFKA_READY_S, KAFKA_STOP_S
from onceflow.localkafka.broker import Broker, Launch
from onceflow.localkafka.guard import Tie
from onceflow.localkafka.jars import classpath
from onceflow.localkafka.java import find_java
from onceflow.localkafka.plan import Plan, load_plan, make_plan, save_plan
from onceflow.localkafka.properties import server_properties
from onceflow.localkafka.readiness import answers, lists_itself, wait_ready
from onceflow.localkafka.wire import Address

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_START_ATTEMPTS = 4
"""Starts with other ports when another process took one in between; twice has not been seen."""

_KILL_S = 10.0
"""Seconds until a process must be gone after SIGKILL; the kernel needs milliseconds."""


class LocalKafka:
    """A real Apache Kafka on 127.0.0.1, with ports and data of its own.

    Ends with this process, also when that is killed. With ``ONCEFLOW_BROKER`` set it starts
    nothing and stands for the Kafka that runs there. Not for use by several threads.

    Args:
        directory: where data, configurations and logs stay; None for a temporary one, which is
            removed at the end.
        brokers: 1 or 3.
        port: the first broker's; the others follow. 0: free ones, the same again on a restart.
        heap_mb: the bound of each broker's Java heap.
        settings: broker settings that differ from this module's, by Kafka's names.
        progress: is told, in words, before each step that takes long.
        tie: whether the brokers end with this process.

    Raises:
        ConfigError: neither 1 nor 3 brokers.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        brokers: int = 1,
        port: int = 0,
        heap_mb: int = 512,
        settings: Mapping[str, str] | None = None,
        progress: Callable[[str], None] | None = None,
        tie: Tie = Tie.TIED,
    ) -> None:
        if brokers not in (1, 3):
            raise ConfigError(f"a local Kafka has 1 or 3 brokers, not {brokers}")
        self._given_directory = None if directory is None else directory.absolute()
        self._count = brokers
        self._port = port
        self._heap_mb = heap_mb
        self._settings = dict(settings or {})
        self._progress: Callable[[str], None] = progress or _say_nothing
        self._tie = tie
        self._external = external_bootstrap()
        self._directory: Path | None = None
        self._lock: IO[str] | None = None
        self._plan: Plan | None = None
        self._launch: Launch | None = None
        self._brokers: dict[int, Broker] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def bootstrap(self) -> str:
        """Addresses for clients: ``host:port``, comma separated.

        Raises:
            ConfigError: not started.
        """
        if self._external is not None:
            return self._external
        if self._plan is None:
            raise ConfigError("this LocalKafka is not started; call start() or use it in 'with'")
        return self._plan.bootstrap

    @property
    def directory(self) -> Path:
        """Where the cluster keeps its files.

        Raises:
            ConfigError: not started, or not ours (``ONCEFLOW_BROKER``).
        """
        if self._directory is None:
            raise ConfigError("this LocalKafka has no directory: it is not started, or not ours")
        return self._directory

    @property
    def owned(self) -> bool:
        """Whether the brokers are ours to stop and kill; False with ``ONCEFLOW_BROKER``."""
        return self._external is None

    @property
    def brokers(self) -> tuple[int, ...]:
        """The numbers of the brokers, from 1; empty when they are not ours or not started."""
        return tuple(self._brokers)

    def start(self) -> None:
        """Start the cluster and wait until it serves transactions.

        Raises:
            ConfigError: Java, Maven, the directory or an explicit port is not as it must be.
            Unreachable: the brokers did not become ready; the message has their last words.
        """
        if self._external is not None:
            require_external(self._external)
            return
        java = find_java()
        jars = classpath(java, self._progress)
        self._take_directory()
        purge = self._directory if self._given_directory is None else None
        self._launch = Launch(java, jars, self._heap_mb, self._tie, purge)
        self._progress(f"starting Apache Kafka ({self._count} broker{'s' * (self._count > 1)})")
        with ExitStack() as undo:
            undo.callback(self._leave_directory)
            undo.callback(self._end_brokers, 0.0)
            self._start_with_free_ports(self._launch)
            undo.pop_all()

    def stop(self) -> None:
        """End the brokers; a temporary directory is removed. Does nothing when not running.

        Brokers with a temporary directory are killed at once; others stop in order, within
        ``KAFKA_STOP_S``.
        """
        if self._directory is None:
            return
        self._end_brokers(0.0 if self._given_directory is None else KAFKA_STOP_S)
        self._leave_directory()

    def release(self) -> None:
        """Let go of a detached cluster: it runs on, and this object is of no use any more."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def wait_ready(self, timeout_s: float = KAFKA_READY_S) -> None:
        """Wait until all brokers are up and transactions are served.

        Raises:
            Unreachable: not within ``timeout_s``, or a broker has ended.
        """
        self._wait_ready(list(self._brokers.values()), timeout_s)

    def pid(self, broker: int = 1) -> int | None:
        """The process id of a broker, None while it does not run."""
        return self._broker(broker).pid()

    def log_path(self, broker: int = 1) -> Path:
        """The file with everything that a broker printed, over all its starts."""
        return self._broker(broker).log_path

    def kill(self, broker: int = 1) -> None:
        """End a broker by SIGKILL, as a crash would; returns when it is gone."""
        self._broker(broker).signal(signal.SIGKILL)
        self._broker(broker).wait_ended(_KILL_S)

    def stop_broker(self, broker: int = 1) -> None:
        """Stop a broker in order; one that does not end within ``KAFKA_STOP_S`` is killed."""
        stop_brokers([self._broker(broker)])

    def start_broker(self, broker: int = 1) -> None:
        """Start a broker again, on its ports and data; returns when it is in the cluster.

        Raises:
            Unreachable: it did not come up.
        """
        started = self._broker(broker)
        if self._launch is None or started.pid() is not None:
            return
        started.start(self._launch)
        if self._count == 1:
            self._wait_ready([started], KAFKA_READY_S)
            return
        deadline = time.monotonic() + KAFKA_READY_S
        while not lists_itself(started.address):
            self._check_alive([started])
            if time.monotonic() > deadline:
                raise Unreachable(f"broker {broker} is not back after {KAFKA_READY_S} s")
            time.sleep(0.1)

    def pause(self, broker: int = 1) -> None:
        """Freeze a broker by SIGSTOP: its connections stay open and nothing answers.

        Raises:
            Unreachable: it does not run, or did not freeze.
        """
        self._broker(broker).pause()

    def resume(self, broker: int = 1) -> None:
        """Let a paused broker go on."""
        self._broker(broker).signal(signal.SIGCONT)

    def _broker(self, number: int) -> Broker:
        if number not in self._brokers:
            known = ", ".join(map(str, self._brokers)) or "none: not started, or not ours"
            raise ConfigError(f"there is no broker {number} to act on ({known})")
        return self._brokers[number]

    def _take_directory(self) -> None:
        if self._given_directory is None:
            directory = Path(tempfile.mkdtemp(prefix="onceflow-kafka-"))
        else:
            directory = self._given_directory
            directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / "lock").open("a")
        if not _locked(lock) or _any_runs(directory):
            lock.close()
            raise ConfigError(
                f"a Kafka runs in {directory} already; nothing was started. Stop it with "
                f"'onceflow kafka stop --dir {directory}', or choose another directory"
            )
        self._directory, self._lock = directory, lock

    def _leave_directory(self) -> None:
        self.release()
        if self._given_directory is None and self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
        self._directory, self._plan, self._launch, self._brokers = None, None, None, {}

    def _start_with_free_ports(self, launch: Launch) -> None:
        for attempt in range(1, _START_ATTEMPTS + 1):
            try:
                self._start_once(launch)
            except Unreachable as error:
                if "Address already in use" not in str(error) or attempt == _START_ATTEMPTS:
                    raise
                self._end_brokers(0.0)
            else:
                return

    def _start_once(self, launch: Launch) -> None:
        directory = self.directory
        plan = make_plan(load_plan(directory), self._count, self._port)
        save_plan(directory, plan)
        self._plan = plan
        self._brokers = {node.node: Broker(node, directory) for node in plan.nodes}
        members = list(self._brokers.values())
        for member in members:
            member.configure(
                server_properties(member.node, plan.nodes, member.data, self._settings)
            )
        preparations = [(each, each.format_storage(launch, plan.cluster_id)) for each in members]
        for member, preparation in preparations:
            if preparation is not None and preparation.wait() != 0:
                raise Unreachable(f"Kafka's storage could not be prepared: {member.log_tail()}")
        for member in members:
            member.start(launch)
        self._wait_ready(members, KAFKA_READY_S)

    def _wait_ready(self, members: Sequence[Broker], timeout_s: float) -> None:
        try:
            wait_ready(
                [each.address for each in members], timeout_s, lambda: self._check_alive(members)
            )
        except TimeoutError as error:
            raise Unreachable(
                f"Kafka in {self._directory} is not ready after {timeout_s} s ({error}); its logs "
                f"are {', '.join(str(each.log_path) for each in members)}"
            ) from error

    def _check_alive(self, members: Sequence[Broker]) -> None:
        for member in members:
            if member.pid() is None:
                raise Unreachable(
                    f"broker {member.node.node} ended before it was ready. Its last words "
                    f"({member.log_path}):\n{member.log_tail()}"
                )

    def _end_brokers(self, patience_s: float) -> None:
        stop_brokers(list(self._brokers.values()), patience_s)


def _locked(file: IO[str]) -> bool:
    """Take the lock for as long as ``file`` is open; False if another process has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _any_runs(directory: Path) -> bool:
    plan = load_plan(directory)
    return plan is not None and any(Broker(node, directory).pid() for node in plan.nodes)


def stop_brokers(brokers: Sequence[Broker], patience_s: float = KAFKA_STOP_S) -> None:
    """End brokers together, whoever started them: in order within ``patience_s``, then killed."""
    if patience_s:
        for broker in brokers:
            broker.terminate()
    deadline = time.monotonic() + patience_s
    for broker in brokers:
        if not broker.wait_ended(max(0.0, deadline - time.monotonic())):
            broker.signal(signal.SIGKILL)
            broker.wait_ended(_KILL_S)


def external_bootstrap() -> str | None:
    """The Kafka that ``ONCEFLOW_BROKER`` says to use in place of one of ours."""
    return os.environ.get("ONCEFLOW_BROKER") or None


def require_external(bootstrap: str) -> None:
    """Check that the Kafka of ``ONCEFLOW_BROKER`` answers.

    Raises:
        ConfigError: the variable is not a list of ``host:port``.
        Unreachable: nothing answers there.
    """
    if not any(answers(address) for address in external_addresses(bootstrap)):
        raise Unreachable(
            f"no Kafka answers at {bootstrap} (ONCEFLOW_BROKER). Start it, or unset the variable "
            "to have a local one started"
        )


def external_addresses(bootstrap: str) -> list[Address]:
    """Read ``host:port,host:port``.

    Raises:
        ConfigError: it is not such a list.
    """
    addresses: list[Address] = []
    for item in bootstrap.split(","):
        host, colon, port = item.strip().rpartition(":")
        if not colon or not host or not port.isdigit():
            raise ConfigError(f"ONCEFLOW_BROKER is {bootstrap!r}, not host:port[,host:port...]")
        addresses.append(Address(host, int(port)))
    return addresses


def _say_nothing(_: str) -> None:
    """The progress of those who do not want to be told."""
