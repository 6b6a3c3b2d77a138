"""The poll thread: the one owner of the consumer, on a thread of its own.

Decides when records are fetched, when partitions are paused, and in which order assignment,
positions and records reach the event loop. Everything that touches the consumer happens on this
thread; the event loop talks to it by commands, and it talks to the loop by ``call_soon_threadsafe``
alone, so that the loop sees assignments, revocations and runs in the order they happened here.

Theory of operation:

- A partition is assigned *paused* at a harmless position. It delivers nothing until ``start_at``
  names its offset. ``start_at`` gives the partition a new fetch generation at once on the loop's
  side; the thread then seeks, and every run read afterwards bears that generation. Older runs that
  are still under way are recognised by ``is_current`` and dropped by the engine.
- Back-pressure counts records and bytes handed over and not yet ``account``ed. Above the high mark
  the thread first only waits (``Flow.HELD``), because pausing throws prefetched data away; if that
  lasts, it pauses all partitions and goes on polling (``Flow.PAUSED``), until half is done.
- The position of a started partition is known here (last delivered offset + 1, or where it was
  told to start). Every resume seeks to it, so that exactness does not depend on what librdkafka
  remembers across pauses and rebalances.

Must not decide anything about transactions, and must not import anything above this room.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
import time
from collections import Counter, deque
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from onceflow import limits
from onceflow.errors import OnceflowError, TransactionAborted, Unreachable, invariant
from onceflow.ids import Partition
from onceflow.kafka.columns import runs_of, split
from onceflow.kafka.configuration import GroupProtocol
from onceflow.kafka.connection import Connection
from onceflow.kafka.errors import classify, unmasked
from onceflow.kafka.flight import DEFAULT_BOUNDS, Bounds, Flight, Flow
from onceflow.kafka.threads import deliver

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping

    from confluent_kafka import Message

    from onceflow.kafka.configuration import Settings
    from onceflow.kafka.records import Run


class Assignment(NamedTuple):
    """What this member owns, with the group metadata that belongs to exactly this assignment.

    Attributes:
        number: grows with every assignment of this thread.
        partitions: all that are assigned.
        added: those of them that were not assigned before; they deliver after ``start_at``.
        group_metadata: for ``send_offsets``; taken once, because *fresh* metadata would let a
            commit of partitions that were revoked meanwhile through.
        member_id: as the group knows us.
    """

    number: int
    partitions: frozenset[Partition]
    added: frozenset[Partition]
    group_metadata: object
    member_id: str


_NO_RECORDS_TIME = 2**62
"""Milliseconds after which no record is stamped; a broker answers from its index's last entries."""


class _Command(NamedTuple):
    act: Callable[[Consumer], None]
    doing: str
    answer: concurrent.futures.Future[None]


class PollThread:
    """Owns the consumer. Created and used on the event loop; see the module's theory.

    Everything given here is called on the event loop, in the order it happened.

    Args:
        config: what ``consumer_config`` made.
        loop: the event loop.
        on_runs: the runs of one poll.
        on_assigned: an assignment; its added partitions wait for ``start_at``.
        on_revoked: coroutine function; the partitions are given up when it ends, or after
            ``Bounds.revoke_s``.
        on_lost: the same for partitions that are gone already; waited for ``Bounds.lost_s``.
        on_failure: a classified error, or whatever ended the thread.
        bounds: sizes and times.

    Attributes:
        on_overdue: set before ``start``; partitions are given up although ``on_revoked`` or
            ``on_lost`` did not end in time, or could not even begin because the loop was busy.
            Called before the next ``on_assigned``.
    """

    def __init__(
        self,
        config: Settings,
        *,
        loop: asyncio.AbstractEventLoop,
        on_runs: Callable[[list[Run]], object],
        on_assigned: Callable[[Assignment], object],
        on_revoked: Callable[[frozenset[Partition]], Coroutine[object, object, None]],
        on_lost: Callable[[frozenset[Partition]], Coroutine[object, object, None]],
        on_failure: Callable[[BaseException], object],
        bounds: Bounds = DEFAULT_BOUNDS,
    ) -> None:
        self._loop = loop
        self._on_runs = on_runs
        self._on_assigned = on_assigned
        self._on_revoked = on_revoked
        self._on_lost = on_lost
        self._on_failure = on_failure
        self.on_overdue: Callable[[frozenset[Partition]], object] | None = None
        self._bounds = bounds
        self._incremental = config["group.protocol"] == GroupProtocol.CONSUMER.value
        self._connection = Connection(config.get("error_cb"))
        self._settings = {**config, "error_cb": self._connection}
        self._refused = False
        self._commands: deque[_Command] = deque()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._main, name="onceflow-poll", daemon=True)
        self._stopping = False
        self._ended = False
        self._turned = time.monotonic()
        self._flight = Flight(bounds.flight_records_max, bounds.flight_bytes_max)
        # Present fetch generation of each started partition; set on the loop's side.
        self._generation: dict[Partition, int] = {}
        self._generations = count(1)
        # Of the thread alone, from here on.
        self._flow = Flow.OPEN
        self._held_since = 0.0
        self._owned: frozenset[Partition] = frozenset()
        # Started partitions: next offset to deliver, and the generation it is delivered under.
        self._position: dict[Partition, tuple[int, int]] = {}
        # How often each was found below its position since it was started.
        self._moved: Counter[Partition] = Counter()
        # Not fetched any more, because the log had lost what was asked for; a seek is refused.
        self._halted: set[Partition] = set()
        self._assignment: Assignment | None = None
        self._numbers = count(1)

    @property
    def assignment(self) -> Assignment | None:
        """The present assignment; None before the first, and between giving up and the next."""
        return self._assignment

    @property
    def heartbeat_age_s(self) -> float:
        """Seconds since the thread last turned its loop. Large means stuck: fail the worker."""
        return time.monotonic() - self._turned

    @property
    def flight(self) -> Flight:
        """What is handed over and not accounted; for metrics."""
        return self._flight

    @property
    def connection(self) -> Connection:
        """What the client says about its connections; for health."""
        return self._connection

    @property
    def flow(self) -> Flow:
        """State of the back-pressure; for metrics."""
        return self._flow

    def start(self) -> None:
        """Start the thread. Nothing is fetched before ``subscribe`` and ``start_at``."""
        self._thread.start()

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Join the group with these topics, replacing an earlier subscription.

        Raises:
            ConfigError, TopologyError: the subscription is refused; correct it.
        """
        names = sorted(topics)

        def act(consumer: Consumer) -> None:
            consumer.subscribe(
                names, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
            )

        await self._answered(self._command(act, "subscribe"))

    def start_at(self, offsets: Mapping[Partition, int]) -> Coroutine[object, object, int]:
        """Let these assigned partitions deliver from these offsets on, and only from there.

        What they deliver is current from this call on, in the order of calls. Awaiting the result
        waits until the thread took the positions, which may be as long as a revocation lasts: who
        has to answer that one must not wait here. Partitions that were given up meanwhile are left
        out; their revocation is on its way.

        Returns:
            The fetch generation of everything these partitions deliver from then on.

        Raises:
            Unreachable: the consumer did not take the positions within the bound; fail the worker.
        """
        generation = next(self._generations)
        for partition, offset in offsets.items():
            invariant(
                offset >= 0,
                "INV-EPOCH-2: a partition starts at an explicit offset",
                partition=partition,
                offset=offset,
            )
            self._generation[partition] = generation
        wanted = dict(offsets)

        def act(consumer: Consumer) -> None:
            mine = {p: offset for p, offset in wanted.items() if p in self._owned}
            self._position.update({p: (offset, generation) for p, offset in mine.items()})
            for partition in mine:
                self._moved[partition] = 0
            if self._halted & mine.keys():
                self._fetch_again(consumer)
            self._seek(consumer, mine)
            if self._flow is not Flow.PAUSED:
                self._let_deliver(consumer, mine)

        return self._started(self._command(act, "start_at"), generation)

    async def _started(self, command: _Command, generation: int) -> int:
        await self._answered(command)
        return generation

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Stop these partitions; what they delivered is no longer current. ``start_at`` restarts.

        Returns at once; the thread follows.
        """
        stopped = frozenset(partitions)
        for partition in stopped:
            self._generation.pop(partition, None)

        def act(consumer: Consumer) -> None:
            running = [p for p in stopped if self._position.pop(p, None) is not None]
            consumer.pause(_bare(running))

        self._command(act, "pause")

    def is_current(self, run: Run) -> bool:
        """Whether ``run`` was read after the last ``start_at`` of its partition."""
        return self._generation.get(run.partition) == run.fetch

    def account(self, records: int, size_bytes: int) -> None:
        """Tell that runs handed over are finished or dropped: every run, exactly once."""
        self._flight.finish(records, size_bytes)
        if self._flow is not Flow.OPEN and self._flight.is_half_done():
            self._wake.set()

    async def stop(self) -> None:
        """Leave the group cleanly (``on_revoked`` is called first) and end the thread.

        Raises:
            Unreachable: the thread did not end within the bound; end the process.
        """
        self._stopping = True
        self._wake.set()
        deadline = time.monotonic() + limits.CLOSE_S_MAX
        # The loop must go on turning meanwhile: the revocation runs on it.
        while self._thread.is_alive():
            if time.monotonic() > deadline:
                raise Unreachable(
                    f"the consumer did not close within {limits.CLOSE_S_MAX} s; its partitions are"
                    " free after the session timeout, nothing is lost. End the process"
                )
            await asyncio.sleep(0.005)

    def _command(self, act: Callable[[Consumer], None], doing: str) -> _Command:
        command = _Command(act, doing, concurrent.futures.Future())
        self._commands.append(command)
        self._wake.set()
        if self._ended:
            self._refuse_commands()
        return command

    async def _answered(self, command: _Command) -> None:
        # Shielded: a command is carried out even if nobody waits for it any more, because its
        # generation counts already.
        await asyncio.shield(asyncio.wrap_future(command.answer))

    def _refuse_commands(self) -> None:
        """Answer commands that nobody will carry out; their waiters would wait for ever."""
        while True:
            try:
                command = self._commands.popleft()
            except IndexError:
                # Loop and thread may both be here, so that emptiness shows only now.
                return
            command.answer.set_exception(
                Unreachable(f"{command.doing}: the poll thread has ended; stop the worker")
            )

    # On the thread, from here on.

    def _main(self) -> None:
        """Loop root of the thread: whatever ends it is told to the engine."""
        try:
            consumer = Consumer(self._settings)
        except KafkaException as error:
            self._post(self._on_failure, classify(error.args[0], "consumer"))
            self._end()
            return
        try:
            with unmasked():
                while not self._stopping:
                    self._turn(consumer)
        except KafkaException as error:
            self._post(self._on_failure, classify(error.args[0], "consume"))
        except Exception as error:  # noqa: BLE001 - a loop root: it must never end unseen
            self._post(self._on_failure, error)
        finally:
            consumer.close()
            self._position.clear()
            self._end()

    def _end(self) -> None:
        # In this order: a command that is added meanwhile is refused by one side or the other.
        self._ended = True
        self._refuse_commands()

    def _turn(self, consumer: Consumer) -> None:
        self._turned = time.monotonic()
        self._tell_refusal()
        while self._commands:
            self._carry_out(consumer, self._commands.popleft())
        match self._flow:
            case Flow.OPEN if self._flight.is_full():
                self._flow, self._held_since = Flow.HELD, self._turned
            case Flow.OPEN:
                self._deliver(consumer, self._gather(consumer))
            case Flow.HELD:
                self._hold(consumer)
            case Flow.PAUSED:
                # Polling goes on: rebalances are served, and the group sees us alive.
                self._deliver(consumer, self._gather(consumer))
                if self._flight.is_half_done():
                    self._flow = Flow.OPEN
                    self._resume(consumer)

    def _tell_refusal(self) -> None:
        """Wrong credentials are told once; every other trouble of connections passes."""
        refusal = None if self._refused else self._connection.refusal("consumer")
        if refusal is not None:
            self._refused = True
            self._post(self._on_failure, refusal)

    def _carry_out(self, consumer: Consumer, command: _Command) -> None:
        try:
            command.act(consumer)
        except KafkaException as error:
            command.answer.set_exception(classify(error.args[0], command.doing))
        except OnceflowError as error:
            command.answer.set_exception(error)
        else:
            command.answer.set_result(None)

    def _hold(self, consumer: Consumer) -> None:
        woken = self._wake.wait(min(limits.HOLD_LOOK_S, self._bounds.hold_s / 4))
        self._wake.clear()
        if self._flight.is_half_done():
            self._flow = Flow.OPEN
        elif time.monotonic() - self._held_since > self._bounds.hold_s:
            self._flow = Flow.PAUSED
            consumer.pause(_bare(self._position))
        elif not woken:
            # Rebalances are served where records are taken. One record more does no harm.
            self._deliver(consumer, consumer.consume(1, 0.0))

    def _gather(self, consumer: Consumer) -> list[Message]:
        """Take what is there; if nothing is, wait for a first record and what follows it."""
        size = self._bounds.poll_records_max
        messages = consumer.consume(size, 0.0)
        if not messages:
            # A command waits for this to end, and nothing else comes while nothing is started.
            idle_s = self._bounds.poll_idle_s if self._position else self._bounds.poll_idle_s / 5
            messages = consumer.consume(1, idle_s)
            if messages:
                messages += consumer.consume(size - 1, self._bounds.poll_linger_s)
        return messages

    def _deliver(self, consumer: Consumer, messages: list[Message]) -> None:
        if not messages:
            return
        batch = split(messages)
        for message in batch.errors:
            self._message_error(consumer, message)
        runs: list[Run] = []
        for partition, group in batch.groups.items():
            # A partition that is not started is paused, so that librdkafka delivers nothing of it.
            # Were it to, the records are read again after its start.
            started = self._position.get(partition)
            if started is None:
                continue
            position, generation = started
            new = runs_of(partition, group, generation, self._bounds.run_records_max)
            if new[0].offsets[0] < position:
                self._seek_again(consumer, partition, new[0].offsets[0])
                continue
            self._position[partition] = (new[-1].offsets[-1] + 1, generation)
            runs += new
        if runs:
            self._flight.post(sum(map(len, runs)), sum(run.size_bytes for run in runs))
            self._post(self._on_runs, runs)

    def _seek_again(self, consumer: Consumer, partition: Partition, offset: int) -> None:
        """Go back to where delivery ended; librdkafka has moved to the beginning of the log.

        A seek does not end the query for the beginning that the assignment started. Its answer is
        found outdated, the query is repeated half a second later, and that answer counts
        (librdkafka issues 2256 and 5345). Then none is under way any more.
        """
        position, _ = self._position[partition]
        self._moved[partition] += 1
        invariant(
            self._moved[partition] <= limits.SEEKS_AGAIN_MAX,
            "INV-EPOCH-3: a record below the position was delivered after a seek",
            partition=partition,
            position=position,
            offset=offset,
        )
        self._seek(consumer, {partition: position})

    def _message_error(self, consumer: Consumer, message: Message) -> None:
        error = message.error()
        if error is None:
            return
        where = f"{message.topic()}[{message.partition()}] at {message.offset()}"
        if error.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001
            partition = Partition(str(message.topic()), message.partition() or 0)
            self._halted.add(partition)
            position = self._position.get(partition)
            if position is None:
                # The beginning that nobody asked for was deleted before it was fetched.
                return
            if position[0] != message.offset():
                self._fetch_again(consumer)
                return
        self._post(self._on_failure, classify(error, f"consume {where}"))

    def _fetch_again(self, consumer: Consumer) -> None:
        """Assign anew, at the positions of what is started, so that halted fetchers run again."""
        again = sorted(self._halted if self._incremental else self._owned)
        self._halted.clear()
        starts = [
            TopicPartition(*p, self._position[p][0] if p in self._position else OFFSET_BEGINNING)
            for p in again
        ]
        if self._incremental:
            consumer.incremental_unassign(_bare(again))
            consumer.incremental_assign(starts)
        else:
            consumer.assign(starts)
        idle = [p for p in again if self._flow is Flow.PAUSED or p not in self._position]
        consumer.pause(_bare(idle))

    def _resume(self, consumer: Consumer) -> None:
        """Go on exactly where delivery ended, whatever librdkafka remembers."""
        self._seek(consumer, {p: position for p, (position, _) in self._position.items()})
        self._let_deliver(consumer, self._position)

    def _let_deliver(self, consumer: Consumer, partitions: Iterable[Partition]) -> None:
        """Resume partitions, and have them fetched now.

        A fetching thread of librdkafka that had nothing to fetch sleeps for a second; neither a
        resume nor a seek wakes it (measured; confluent-kafka-go issue 630 shows the same). A
        request to the partitions' brokers does: it asks for offsets of a time that no record has.
        """
        resumed = _bare(partitions)
        if not resumed:
            return
        consumer.resume(resumed)
        asked = [TopicPartition(each.topic, each.partition, _NO_RECORDS_TIME) for each in resumed]
        # The answer is of no use, and without one the partitions deliver a second later.
        with contextlib.suppress(KafkaException):
            consumer.offsets_for_times(asked, limits.FETCH_WAKE_S)

    def _seek(self, consumer: Consumer, offsets: Mapping[Partition, int]) -> None:
        deadline = time.monotonic() + limits.SEEK_S_MAX
        for (topic, number), offset in offsets.items():
            while True:
                try:
                    consumer.seek(TopicPartition(topic, number, offset))
                    break
                except KafkaException as error:
                    # Its fetcher does not run yet; librdkafka calls that an erroneous state.
                    if time.monotonic() > deadline:
                        raise Unreachable(
                            f"{topic}[{number}] cannot be positioned at {offset}:"
                            f" {error.args[0].str()}. Nothing was read from it; start again"
                        ) from error
                    time.sleep(0.002)

    # Rebalance callbacks, called by librdkafka inside ``consume`` and ``close``.

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        added = _partitions(partitions)
        # Any position will do, since the partitions are paused at once and seeked later. The
        # committed one must not be asked for: a pending transaction would hold the answer back.
        starts = [TopicPartition(t, n, OFFSET_BEGINNING) for t, n in sorted(added)]
        if self._incremental:
            consumer.incremental_assign(starts)
            self._owned |= added
        else:
            consumer.assign(starts)
            self._owned = added
        consumer.pause(starts)
        self._announce(consumer, added)

    def _announce(self, consumer: Consumer, added: frozenset[Partition]) -> None:
        self._assignment = Assignment(
            number=next(self._numbers),
            partitions=self._owned,
            added=added,
            group_metadata=consumer.consumer_group_metadata(),
            member_id=consumer.memberid() or "",
        )
        self._post(self._on_assigned, self._assignment)

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._give_up(consumer, partitions, self._on_revoked, self._bounds.revoke_s)

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._give_up(consumer, partitions, self._on_lost, self._bounds.lost_s)

    def _give_up(
        self,
        consumer: Consumer,
        partitions: list[TopicPartition],
        tell: Callable[[frozenset[Partition]], Coroutine[object, object, None]],
        bound_s: float,
    ) -> None:
        given_up = _partitions(partitions)
        if given_up and not self._loop.is_closed():
            self._wait_for(tell(given_up), bound_s, given_up)
        for partition in given_up:
            self._position.pop(partition, None)
            self._generation.pop(partition, None)
        self._owned -= given_up
        self._halted -= given_up
        self._assignment = None
        if self._incremental:
            consumer.incremental_unassign(_bare(given_up))
        else:
            consumer.unassign()

    def _wait_for(
        self,
        told: Coroutine[object, object, None],
        bound_s: float,
        given_up: frozenset[Partition],
    ) -> None:
        future = asyncio.run_coroutine_threadsafe(told, self._loop)
        done, _ = concurrent.futures.wait([future], timeout=bound_s)
        if not done:
            future.cancel()
            if self.on_overdue is not None:
                self._post(self.on_overdue, given_up)
            self._post(
                self._on_failure,
                TransactionAborted(
                    f"partitions were given up unreleased, because that took over {bound_s} s: the"
                    " broker refuses a later commit of them, and their next owner fences us first."
                    " Nothing is lost; look for what keeps the event loop busy"
                ),
            )
            return
        error = None if future.cancelled() else future.exception()
        if error is not None:
            self._post(self._on_failure, error)

    def _post(self, call: Callable[..., object], argument: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(deliver, call, argument, self._on_failure)


def _partitions(partitions: Iterable[TopicPartition]) -> frozenset[Partition]:
    return frozenset(Partition(p.topic, p.partition) for p in partitions)


def _bare(partitions: Iterable[Partition]) -> list[TopicPartition]:
    return [TopicPartition(topic, number) for topic, number in partitions]
