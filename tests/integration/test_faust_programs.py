"""Programs as Faust's users write them, unchanged but for the URL: exactly once, also under kill.

Each program gets half of its input, its worker is killed with SIGKILL while it works on the rest,
and the next worker finishes. Outputs carry the state that they saw, so that a lost, doubled or
stale update shows in them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter, defaultdict

import pytest

from harness.app_workers import Program

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

START = """
    import os
    import faust

    app = faust.App(
        os.environ["APP"], broker=os.environ["BROKER"], topic_partitions=4,
        consumer_auto_offset_reset="earliest",
    )

    def topic(name, **options):
        return app.topic(f"{app.conf.id}-{name}", **options)
"""

WORDS = """
    posts = topic("posts", value_type=str, value_serializer="raw")
    counted = topic("counted", key_type=str, value_serializer="json")
    word_counts = app.Table("word_counts", default=int)

    @app.agent(posts)
    async def split(stream):
        async for post in stream:
            for word in post.split():
                await count.send(key=word, value=word)

    @app.agent()
    async def count(stream):
        async for word in stream:
            word_counts[word] += 1
            await counted.send(key=word, value=word_counts[word])
"""

WINDOWS = """
    class Trade(faust.Record):
        symbol: str
        amount: int

    trades = topic("trades", key_type=str, value_type=Trade)
    sums = topic("sums", key_type=str, value_serializer="json")
    tumbling = app.Table("tumbling", default=int).tumbling(10.0, expires=3600.0)
    hopping = app.Table("hopping", default=int).hopping(10.0, 5.0, expires=3600.0)

    @app.agent(trades)
    async def add(stream):
        async for event in stream.events():
            trade = event.value
            tumbling[trade.symbol] += trade.amount
            hopping[trade.symbol] += 1
            await sums.send(
                key=trade.symbol,
                value=[
                    int(event.message.timestamp) // 10,
                    tumbling[trade.symbol].current(),
                    hopping[trade.symbol].current(),
                ],
            )
"""

VIEWS = """
    class PageView(faust.Record):
        id: str
        user: str

    views = topic("views", key_type=str, value_type=PageView)
    pages = topic("pages", key_type=str, value_serializer="json")
    view_counts = app.Table("view_counts", default=int)
    users = app.Table("users", default=list)

    @app.agent(views)
    async def by_page(stream):
        async for view in stream.group_by(PageView.id):
            view_counts[view.id] += 1
            seen = users[view.id]
            if view.user not in seen:
                users[view.id] = seen + [view.user]
            await pages.send(key=view.id, value=[view_counts[view.id], len(users[view.id])])
"""

CACHE = """
    readings = topic("readings", key_type=str, value_serializer="json")
    changes = topic("changes", key_type=str, value_serializer="json")
    latest = app.Table("latest")

    @app.agent(readings)
    async def deduplicate(stream):
        async for sensor, value in stream.items():
            if value < 0:
                before = latest.pop(sensor, None)
                await changes.send(key=sensor, value=["gone", before])
            elif latest.get(sensor) != value:
                before = latest.get(sensor)
                latest[sensor] = value
                await changes.send(key=sensor, value=[before, value])
"""

RPC = """
    class Pair(faust.Record):
        a: int
        b: int

    answers = topic("answers", partitions=1, value_serializer="json")

    @app.agent()
    async def multiply(stream):
        async for pair in stream:
            yield pair.a * pair.b

    class Asking:
        number = 0

    @app.timer(0.05)
    async def ask():
        Asking.number += 1
        n = Asking.number
        product = await multiply.ask(Pair(a=n, b=10))
        await (await answers.send(value=[os.getpid(), n, product]))
        print(f"TOLD {n}", flush=True)
"""

TIMERS = """
    ticks = topic("ticks", partitions=1, value_serializer="json")

    async def tell(kind, counter=__import__("collections").Counter()):
        counter[kind] += 1
        number = counter[kind]
        await (await ticks.send(value=[os.getpid(), kind, number]))
        print(f"TOLD {kind} {number}.", flush=True)

    @app.timer(0.05)
    async def often():
        await tell("timer")

    @app.timer(0.2, on_leader=True)
    async def leading():
        await tell("leader")

    @app.crontab("* * * * * *")
    async def secondly():
        await tell("crontab")

    @app.task
    async def once():
        await tell("task")

    @app.task
    async def not_awaited():
        for n in range(20):
            await ticks.send(value=[os.getpid(), "loose", n + 1])
            ticks.send_soon(value=[os.getpid(), "soon", n + 1])
"""


@pytest.fixture
def run(kafka, unique, tmp_path):
    """Makes a `Program` of a source."""
    made = []

    def make(name, source):
        program = Program(tmp_path, START + source, bootstrap=kafka.bootstrap, app_id=unique(name))
        made.append(program)
        return program

    yield make
    for program in made:
        program.stop_all()


def start(program, **environ):
    """Start a worker; a static member, so that its successor need not wait for its session."""
    if program.workers:
        before = program.workers[-1]
        kept = before.log_path.with_suffix(f".{len(program.workers)}.log")
        before.log_path = before.log_path.rename(kept)
    return program.start("one", ONCEFLOW_WORKER_ID="one", **environ)


def rows_of(program, topic, partitions=4):
    return [
        (key.decode() if key else None, json.loads(value))
        for _, key, value in program.read(f"{program.app_id}-{topic}", partitions)
    ]


def under_kill(program, source, output, rows, wanted, crash_point):
    """Run a program over ``rows``, killed in one of its epochs; its outputs as (key, value)."""
    topic = f"{program.app_id}-{output}"
    # Small epochs, so that the one in which it dies is neither the first nor the last.
    small = {"ONCEFLOW_COMMIT_RECORDS": "200", "ONCEFLOW_RUN_RECORDS": "100"}
    worker = start(program, **small, ONCEFLOW_CRASH_POINT=crash_point)
    worker.wait_log("Ready", 60)
    program.send(f"{program.app_id}-{source}", rows)
    assert worker.wait(60) == signal.SIGKILL, program.tails()
    assert 0 < len(rows_of(program, output)) < wanted
    start(program)
    program.wait_values(topic, wanted, 4, timeout_s=60)
    assert program.workers[-1].stop() == 0, program.tails()
    outputs = rows_of(program, output)
    assert len(outputs) == wanted, "there is more than once"
    return outputs


def by_key(outputs):
    found = defaultdict(list)
    for key, value in outputs:
        found[key].append(value)
    return found


def test_word_count(run):
    words = ["alpha", "beta", "gamma", "delta", "epsilon"]
    posts = [f"{words[n % 5]} {words[n % 3]} {words[n % 2]}" for n in range(3_000)]
    rows = [(None, post.encode(), n % 4, None) for n, post in enumerate(posts)]
    expected = Counter(word for post in posts for word in post.split())
    outputs = under_kill(run("words", WORDS), "posts", "counted", rows, 9_000, "before_commit:10")
    for word, counts in by_key(outputs).items():
        assert counts == list(range(1, expected[word] + 1))


def test_windowed_aggregation(run):
    base = 1_700_000_000
    trades = [(f"s{n % 7}", n % 11, base + n // 100) for n in range(6_000)]
    rows = [
        (
            symbol.encode(),
            json.dumps({"symbol": symbol, "amount": amount}).encode(),
            None,
            at * 1000,
        )
        for symbol, amount, at in trades
    ]
    outputs = under_kill(
        run("windows", WINDOWS), "trades", "sums", rows, len(trades), "after_commit:4"
    )
    totals, hops, expected = Counter(), Counter(), defaultdict(list)
    for symbol, amount, at in trades:
        totals[symbol, at // 10] += amount
        for hop in (at // 5 - 1, at // 5):
            hops[symbol, hop] += 1
        expected[symbol].append([at // 10, totals[symbol, at // 10], hops[symbol, at // 5]])
    assert by_key(outputs) == expected


def test_page_views_with_group_by(run):
    views = [(f"p{n % 13}", f"u{n % 29}") for n in range(4_000)]
    rows = [
        (user.encode(), json.dumps({"id": page, "user": user}).encode(), None, None)
        for page, user in views
    ]
    outputs = under_kill(run("views", VIEWS), "views", "pages", rows, len(views), "after_produce:4")
    expected = Counter(page for page, _ in views)
    for page, counts in by_key(outputs).items():
        assert [count for count, _ in counts] == list(range(1, expected[page] + 1))
        users = [users for _, users in counts]
        assert users == sorted(users)
        assert users[-1] == len({user for at, user in views if at == page})


def test_a_table_as_cache(run):
    readings = [(f"k{n % 17}", -1 if n % 101 == 0 else n // 40) for n in range(8_000)]
    expected, latest = defaultdict(list), {}
    for sensor, value in readings:
        before = latest.get(sensor)
        if value < 0:
            expected[sensor].append(["gone", latest.pop(sensor, None)])
        elif before != value:
            latest[sensor] = value
            expected[sensor].append([before, value])
    rows = [(sensor.encode(), b"%d" % value, None, None) for sensor, value in readings]
    wanted = sum(map(len, expected.values()))
    outputs = under_kill(
        run("cache", CACHE), "readings", "changes", rows, wanted, "after_send_offsets:4"
    )
    assert by_key(outputs) == expected


def told(program):
    """What the workers said that was committed, and how often they were started."""
    return [line for w in program.workers for line in w.log().splitlines() if "TOLD" in line]


def test_rpc_from_a_timer_and_from_a_client(run, tmp_path):
    program = run("rpc", RPC)
    start(program).wait_log("TOLD 10")
    program.workers[-1].kill()
    start(program).wait_log("TOLD 10", 60)
    client = """
import asyncio
from program import app, multiply, Pair

async def main():
    await app.maybe_start_client()
    asked = [multiply.ask(Pair(a=n, b=7)) for n in range(10)]
    print(await asyncio.gather(*asked), await multiply.join([Pair(a=1, b=2), Pair(a=3, b=4)]))
    await app.stop()

asyncio.run(main())
"""
    asked = subprocess.run(
        [sys.executable, "-c", client],
        cwd=tmp_path,
        env={
            **os.environ,
            "APP": program.app_id,
            "BROKER": f"onceflow://{program.bootstrap}",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert f"{[n * 7 for n in range(10)]} [2, 12]" in asked.stdout, asked.stderr[-3000:]
    assert program.workers[-1].stop() == 0, program.tails()
    rows = [value for _, value in rows_of(program, "answers", 1)]
    assert all(product == n * 10 for _, n, product in rows)
    by_process = defaultdict(list)
    for pid, n, _ in rows:
        by_process[pid].append(n)
    assert len(by_process) >= 2
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in by_process.values())
    assert len(rows) >= len(told(program))


def test_timers_crontab_and_tasks(run):
    program = run("timers", TIMERS)
    for _ in range(2):
        worker = start(program)
        worker.wait_log("TOLD crontab 2.", 60)
        worker.wait_log("TOLD leader 3.", 60)
        worker.kill()
        logged = worker.log()
        assert "TOLD task 1." in logged
    start(program).wait_log("TOLD crontab", 60)
    assert program.workers[-1].stop() == 0, program.tails()
    counted = defaultdict(list)
    for _, (pid, kind, number) in rows_of(program, "ticks", 1):
        counted[pid, kind].append(number)
    assert {kind for _, kind in counted} == {
        "timer",
        "leader",
        "crontab",
        "task",
        "loose",
        "soon",
    }
    for (_, kind), numbers in counted.items():
        assert numbers == list(range(1, len(numbers) + 1)), kind
    committed = sum(map(len, counted.values()))
    assert committed >= len(told(program))
