"""Features of Faust in one ordinary program, on a real Kafka: what goes in, what comes out."""

from __future__ import annotations

import json
import uuid
from collections import Counter

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from harness.app_workers import Program

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

SOURCE = """
    import os
    from datetime import datetime, timezone
    from typing import List, Optional

    import faust

    app = faust.App(
        os.environ["APP"], broker=os.environ["BROKER"], topic_partitions=4,
        consumer_auto_offset_reset="earliest",
    )

    def topic(name, **options):
        return app.topic(f"{app.conf.id}-{name}", **options)

    class Point(faust.Record):
        x: int
        y: int

    class Shape(faust.Record):
        name: str
        points: List[Point]
        made: datetime
        label: Optional[str] = None

    class Shout(faust.Codec):
        def _loads(self, s: bytes):
            return s.decode().lower()

        def _dumps(self, s) -> bytes:
            return s.upper().encode()

    faust.serializers.codecs.register("shout", Shout())

    numbers = topic("numbers", key_type=str, value_type=int)
    out = {
        name: topic(f"out-{name}", partitions=1, value_serializer="json")
        for name in (
            "take", "through", "filter", "items", "events", "parallel", "isolated", "sink",
            "types", "shapes", "codec", "tombstones", "headers", "refused", "meta", "group",
            "echo", "enumerate", "noack", "noack-take", "streamed", "signals", "memory",
            "cast",
        )
    }

    @app.agent(numbers)
    async def taking(stream):
        async for values in stream.take(10, within=0.5):
            await out["take"].send(value=values)

    doubled = topic("doubled", key_type=str, value_type=int)

    @app.agent(numbers)
    async def through(stream):
        async for value in stream.through(doubled):
            await out["through"].send(value=value)

    @app.agent(numbers)
    async def filtering(stream):
        async for value in stream.filter(lambda v: v % 2 == 0):
            await out["filter"].send(value=value)

    @app.agent(numbers)
    async def items(stream):
        async for key, value in stream.items():
            await out["items"].send(key=key, value=[key, value])

    @app.agent(numbers)
    async def events(stream):
        async for event in stream.events():
            message = event.message
            assert faust.current_event() is event
            await out["events"].send(
                value=[message.topic, message.partition, message.offset, event.key, event.value]
            )

    @app.agent(numbers, concurrency=3)
    async def parallel(stream):
        async for value in stream:
            await app.sleep(0.001)
            await out["parallel"].send(value=[stream.concurrency_index, value])

    @app.agent(numbers, isolated_partitions=True)
    async def isolated(stream):
        async for event in stream.events():
            own = sorted(tp.partition for tp in stream.active_partitions)
            await out["isolated"].send(value=[own, event.message.partition, event.value])

    @app.agent(numbers)
    async def counting(stream):
        async for index, value in stream.enumerate():
            await out["enumerate"].send(value=value)

    @app.agent(numbers)
    async def echoing(stream):
        async for value in stream.echo(topic("echo1", partitions=1), topic("echo2", partitions=1)):
            await out["echo"].send(value=value)

    seen_by_function = []

    @app.agent()
    async def collect(stream):
        async for value in stream:
            await out["sink"].send(value=["agent", value])

    def remember(value):
        seen_by_function.append(value)

    async def forward(value):
        await out["sink"].send(value=["function", value])

    @app.agent(numbers, sink=[collect, out["sink"], remember, forward])
    async def sinking(stream):
        async for value in stream:
            yield value + 1000

    @app.agent(numbers)
    async def grouped(stream):
        async for event in stream.group_by(lambda v: str(v % 3), name="third").events():
            await out["group"].send(value=[event.key, event.value])

    @app.agent(numbers)
    async def acknowledging(stream):
        async for event in stream.noack().events():
            await out["noack"].send(value=event.value)
            assert event.ack()

    @app.agent(numbers)
    async def acknowledging_lists(stream):
        async for events in stream.noack_take(7, within=0.2):
            for event in events:
                await out["noack-take"].send(value=event.value)
                event.ack()

    @app.task
    async def streaming():
        async for value in numbers.stream():
            await out["streamed"].send(value=value)

    @app.task
    async def leaving():
        async for _ in numbers.stream():
            break

    @app.on_produce_message.connect
    def add_header(sender, key, value, partition, timestamp, headers, **options):
        if headers is not None and value == b"plain signal":
            headers.append(("signalled", b"yes"))

    @app.on_partitions_assigned.connect
    async def assigned(sender, partitions, **options):
        app.told = sorted({tp.topic for tp in partitions})

    @app.task(on_leader=True)
    async def leading():
        assert app.is_leader()
        await topic("plain-signal", partitions=1, value_serializer="raw").send(
            value=b"plain signal"
        )
        await out["signals"].send(value=app.told)

    in_memory = app.channel(value_type=int)
    raised = []

    @app.agent(in_memory)
    async def remembering(stream):
        async for value in stream:
            if value == 3 and not raised:
                raised.append(value)
                raise ValueError("once")
            await (await out["memory"].send(value=value))

    @app.task
    async def fill_memory():
        for value in range(6):
            await in_memory.send(value=value)

    texts = topic("texts", key_type=bytes, value_type=str, value_serializer="raw")

    @app.agent(texts)
    async def texting(stream):
        async for key, value in stream.items():
            await out["types"].send(value=[repr(key), repr(value)])

    raws = topic("raws", value_type=bytes, value_serializer="raw")

    @app.agent(raws)
    async def rawing(stream):
        async for key, value in stream.items():
            await out["types"].send(value=[repr(key), repr(value)])

    anything = topic("anything")

    @app.agent(anything)
    async def guessing(stream):
        async for key, value in stream.items():
            await out["types"].send(value=[repr(key), repr(value)])

    shapes = topic("shapes", value_type=Shape)

    @app.agent(shapes)
    async def drawing(stream):
        async for shape in stream:
            assert isinstance(shape.points[0], Point)
            moved = shape.derive(name=shape.name + "!")
            await out["shapes"].send(value=moved)

    codes = topic("codes", key_type=str, key_serializer="raw", value_serializer="shout")

    @app.agent(codes)
    async def whispering(stream):
        async for value in stream:
            await out["codec"].send(value=value)
            await topic("loud", value_serializer="shout", partitions=1).send(value=value)

    deletions = topic("deletions", key_type=str, value_type=Point, allow_empty=True)

    @app.agent(deletions)
    async def deleting(stream):
        async for key, value in stream.items():
            await out["tombstones"].send(key=key, value=None if value is None else value.x)

    headed = topic("headed", value_serializer="json")
    plain = topic("plain", partitions=1, value_serializer="raw")

    @app.agent(headed)
    async def heading(stream):
        async for event in stream.events():
            got = {name: value.decode() for name, value in event.headers.items()}
            await out["headers"].send(value=got)
            await plain.send(value=b"dict", headers={"a": b"1", "b": "two"})
            await plain.send(value=b"list", headers=[("a", b"1"), ("a", b"2")])
            await plain.send(value=b"tuple", headers=(("a", b"1"),))
            await event.forward(topic("forwarded", partitions=1))
            await event.send(topic("sent", partitions=1, value_serializer="json"), value={"n": 1})
            await plain.send(value=b"timed", timestamp=1234567890.5)
            await plain.send(value=None, key=b"tombstone")

    asked = topic("asked", value_type=int)

    @app.agent()
    async def square(stream):
        async for value in stream:
            yield value * value

    @app.agent(asked)
    async def asking(stream):
        async for value in stream:
            refused = []
            for name, call in (
                ("ask", lambda: square.ask(value)),
                ("join", lambda: square.join([value])),
                ("map", lambda: square.map([value])),
                ("kvmap", lambda: square.kvmap([("k", value)])),
            ):
                try:
                    waiting = call()
                    if name in ("ask", "join"):
                        await waiting
                except Exception as error:
                    refused.append([name, type(error).__name__])
            answer = await square.ask(value, delivery="at_least_once")
            await out["refused"].send(value=[value, refused, answer])

    @app.agent()
    async def cube(stream):
        async for value in stream:
            await out["cast"].send(value=value ** 3)
            yield value ** 3

    @app.agent(asked)
    async def casting(stream):
        async for value in stream:
            await cube.cast(value)
            await cube.send(value=value + 10, reply_to=topic("cubes", partitions=1))

    @app.task
    async def from_a_task():
        metadata = await (await out["meta"].send(value="from a task"))
        await out["meta"].send(value=[metadata.partition, metadata.offset])
        found = [await square.ask(7), await square.join([1, 2, 3])]
        found.append(sorted([v async for v in square.map([4, 5])]))
        await out["meta"].send(value=found)
"""

NUMBERS = 60
EVERY = list(range(NUMBERS))


@pytest.fixture(scope="module")
def program(kafka, tmp_path_factory):
    """One worker of the program; all input is sent before the first test looks."""
    made = Program(
        tmp_path_factory.mktemp("features"),
        SOURCE,
        bootstrap=kafka.bootstrap,
        app_id=f"features-{uuid.uuid4().hex[:8]}",
    )
    made.start("one").wait_log("Ready")
    feed(made)
    yield made
    code = made.workers[0].stop()
    made.stop_all()
    assert code == 0, made.tails()


def feed(program):
    name = program.app_id

    def send(topic, *rows):
        program.send(f"{name}-{topic}", [(key, value, n, None) for key, value, n in rows])

    send("numbers", *((b"k%d" % n, b"%d" % n, n % 4) for n in EVERY))
    send("texts", (b"kb", "grüß".encode(), 0), (None, b"", 0))
    send("raws", (b"kb", b"\xff\x00", 0))
    send("anything", (b"kb", b'{"a": [1, 2.5, null]}', 0))
    shape = {
        "name": "tri",
        "points": [{"x": 1, "y": 2}],
        "made": "2024-02-03T04:05:06Z",
        "label": None,
    }
    send("shapes", (None, json.dumps(shape).encode(), 0))
    send("codes", (b"k", b"HELLO", 0))
    send("deletions", (b"k", b'{"x": 5, "y": 6}', 0), (b"k", None, 0))
    send("asked", *((None, b"%d" % n, n % 4) for n in range(3)))
    producer = Producer({"bootstrap.servers": program.bootstrap})
    producer.produce(f"{name}-headed", b'{"n": 0}', headers=[("trace", b"t1"), ("lang", b"de")])
    assert producer.flush(20) == 0


def decoded(program, name, wanted):
    rows = program.wait_values(f"{program.app_id}-out-{name}", wanted)
    assert len(rows) == wanted, (name, rows)
    return [None if value is None else json.loads(value) for _, _, value in rows]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("through", EVERY),
        ("filter", EVERY[::2]),
        ("items", sorted([f"k{n}", n] for n in EVERY)),
        ("enumerate", EVERY),
        ("group", sorted([str(n % 3), n] for n in EVERY)),
        ("echo", EVERY),
        ("noack", EVERY),
        ("noack-take", EVERY),
        ("streamed", EVERY),
    ],
)
def test_streams_hand_on_every_value_once(program, name, expected):
    assert sorted(decoded(program, name, len(expected))) == expected


@pytest.mark.parametrize("topic", ["echo1", "echo2"])
def test_echo_forwards_to_each_of_its_channels(program, topic):
    rows = program.wait_values(f"{program.app_id}-{topic}", NUMBERS)
    assert sorted(int(value) for _, _, value in rows) == EVERY


def test_events_show_their_place(program):
    events = decoded(program, "events", NUMBERS)
    assert sorted(tuple(row[:3]) for row in events) == sorted(
        (f"{program.app_id}-numbers", n % 4, n // 4) for n in EVERY
    )
    assert sorted(row[3:] for row in events) == sorted([f"k{n}", n] for n in EVERY)


def test_concurrent_actors_share_the_records(program):
    parallel = decoded(program, "parallel", NUMBERS)
    assert sorted(value for _, value in parallel) == EVERY
    assert {index for index, _ in parallel} == {0, 1, 2}


def test_isolated_partitions_have_an_actor_each(program):
    isolated = decoded(program, "isolated", NUMBERS)
    assert sorted(value for _, _, value in isolated) == EVERY
    assert all(own == [partition] for own, partition, _ in isolated)


def test_sinks_get_what_an_agent_yields(program):
    sunk = decoded(program, "sink", NUMBERS * 3)
    expected = Counter(n + 1000 for n in EVERY)
    assert Counter(value for value in sunk if isinstance(value, int)) == expected
    told = [row for row in sunk if isinstance(row, list)]
    for kind in ("agent", "function"):
        assert Counter(value for of, value in told if of == kind) == expected


def test_take_gives_lists_of_one_partition(program):
    taken = []
    while sum(map(len, taken)) < NUMBERS:
        rows = program.wait_values(f"{program.app_id}-out-take", len(taken) + 1)
        taken = [json.loads(value) for _, _, value in rows]
    assert sorted(value for values in taken for value in values) == EVERY
    assert max(map(len, taken)) <= 10
    assert all(len({value % 4 for value in values}) == 1 for values in taken)


def test_value_types_decide_what_an_agent_sees(program):
    assert sorted(map(tuple, decoded(program, "types", 4))) == sorted(
        [
            ("b'kb'", "'grüß'"),
            ("None", "''"),
            ("b'kb'", "b'\\xff\\x00'"),
            ("b'kb'", "{'a': [1, 2.5, None]}"),
        ]
    )


def test_nested_records_come_and_go(program):
    drawn = decoded(program, "shapes", 1)[0]
    assert drawn["name"] == "tri!"
    assert drawn["points"][0]["x"] == 1
    assert drawn["made"] == "2024-02-03T04:05:06Z"
    assert drawn["label"] is None


def test_a_codec_of_the_application_decodes_and_encodes(program):
    assert decoded(program, "codec", 1) == ["hello"]
    assert [row[2] for row in program.wait_values(f"{program.app_id}-loud", 1)] == [b"HELLO"]


def test_tombstones_arrive_where_they_are_allowed(program):
    assert decoded(program, "tombstones", 2) == [5, None]


def test_headers_arrive_and_leave_in_all_forms(program):
    assert decoded(program, "headers", 1) == [{"trace": "t1", "lang": "de"}]
    plain = messages(program, "plain", 5)
    assert plain[b"dict"].headers() == [("a", b"1"), ("b", b"two")]
    assert plain[b"list"].headers() == [("a", b"1"), ("a", b"2")]
    assert plain[b"tuple"].headers() == [("a", b"1")]
    assert plain[b"timed"].timestamp()[1] == 1234567890500
    assert plain[None].key() == b"tombstone"


def test_an_agent_of_a_channel_in_memory_goes_on_after_an_error(program):
    assert decoded(program, "memory", 5) == [0, 1, 2, 4, 5]


def test_signals_are_sent(program):
    (told,) = decoded(program, "signals", 1)
    assert f"{program.app_id}-numbers" in told
    (message,) = messages(program, "plain-signal", 1).values()
    assert message.headers() == [("signalled", b"yes")]


def test_forwarded_events_keep_their_headers(program):
    for topic in ("forwarded", "sent"):
        (message,) = messages(program, topic, 1).values()
        assert message.headers() == [("trace", b"t1"), ("lang", b"de")]
    assert messages(program, "sent", 1).keys() == {b'{"n":1}'}


def test_waiting_for_an_answer_inside_an_agent_is_refused_unless_asked_outside(program):
    every_wait = [[kind, "OutsideRecord"] for kind in ("ask", "join", "map", "kvmap")]
    refused = sorted(decoded(program, "refused", 3))
    assert refused == [[n, every_wait, n * n] for n in range(3)]


def test_casting_and_sending_to_an_agent_are_part_of_the_epoch(program):
    assert sorted(decoded(program, "cast", 6)) == [0, 1, 8, 1000, 1331, 1728]
    rows = program.wait_values(f"{program.app_id}-cubes", 3)
    replies = [json.loads(value)["value"] for _, _, value in rows]
    assert sorted(replies) == [1000, 1331, 1728]


def test_a_task_asks_and_its_sends_tell_where_they_were_committed(program):
    assert decoded(program, "meta", 3) == [
        "from a task",
        [0, 0],
        [49, [1, 4, 9], [16, 25]],
    ]


def messages(program, name, wanted):
    """The messages of a topic of one partition, by value."""
    topic = f"{program.app_id}-{name}"
    program.wait_values(topic, wanted)
    consumer = Consumer({"bootstrap.servers": program.bootstrap, "group.id": "messages"})
    consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    found = {}
    while len(found) < wanted:
        found |= {message.value(): message for message in consumer.consume(100, 0.5)}
    consumer.close()
    return found
