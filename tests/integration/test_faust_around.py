"""What stands around a program: Faust's commands, clients, web views, aborts and rebalances."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request

import pytest

from harness.app_workers import Program
from onceflow.localkafka.ports import free_ports

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

SOURCE = """
    import os
    import faust

    app = faust.App(
        os.environ["APP"], broker=os.environ["BROKER"], topic_partitions=4,
        consumer_auto_offset_reset="earliest",
        web_bind="127.0.0.1",
        topic_allow_declare=os.environ.get("DECLARE", "yes") == "yes",
    )

    def topic(name, **options):
        return app.topic(f"{app.conf.id}-{name}", **options)

    class Order(faust.Record):
        amount: int

    orders = topic("orders", key_type=str, value_type=Order)
    seen = topic("seen", partitions=1, value_serializer="json")
    isolated_out = topic("isolated-out", partitions=1, value_serializer="json")
    totals = app.Table("totals", default=int)
    failing = set(map(int, filter(None, os.environ.get("FAIL", "").split(","))))

    @app.agent(orders)
    async def add(stream):
        async for key, order in stream.items():
            totals[key] += order.amount
            await seen.send(value=[key, order.amount, totals[key]])

    @app.agent(orders, isolated_partitions=True)
    async def isolated(stream):
        async for event in stream.events():
            if event.value.amount in failing:
                failing.remove(event.value.amount)
                raise ValueError("once")
            await isolated_out.send(value=event.value.amount)

    @app.page("/order/{amount}")
    async def place(web, request, amount):
        sent = await orders.send(key="web", value=Order(amount=int(amount)))
        metadata = await sent
        return web.json({"offset": metadata.offset})

    @app.page("/total/{key}")
    async def total(web, request, key):
        return web.json({"total": totals[key]})

    @app.command()
    async def place_order(command):
        "Place an order from the command line."
        await orders.send(key="command", value=Order(amount=5))
"""


@pytest.fixture
def program(kafka, unique, tmp_path):
    made = Program(tmp_path, SOURCE, bootstrap=kafka.bootstrap, app_id=unique("around"))
    yield made
    made.stop_all()


def faust_command(program, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "faust", "-A", "program", *arguments],
        cwd=program.directory,
        env={
            **os.environ,
            "APP": program.app_id,
            "BROKER": f"onceflow://{program.bootstrap}",
            "COLUMNS": "200",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def orders(program, amounts):
    rows = [(b"k%d" % n, b'{"amount": %d}' % n, n % 4, None) for n in amounts]
    program.send(f"{program.app_id}-orders", rows)


def values(program, name, wanted, timeout_s=60):
    rows = program.wait_values(f"{program.app_id}-{name}", wanted, timeout_s=timeout_s)
    return [json.loads(value) for _, _, value in rows]


def test_commands_of_faust(program):
    assert "@add" in faust_command(program, "agents")
    faust_command(program, "send", "@add", '{"amount": 4}', "--key", "sent")
    faust_command(program, "place-order")
    program.start("one").wait_log("Ready")
    assert sorted(values(program, "seen", 2)) == [["command", 5, 5], ["sent", 4, 4]]
    program.workers[0].stop()
    stores = program.directory / "one" / "v1" / "onceflow"
    assert list(stores.glob("*-*"))
    faust_command(program, "--datadir", str(program.directory / "one"), "reset")
    assert not list(stores.glob("*-*"))


def test_a_web_view_answers_when_its_send_is_committed(program):
    port = free_ports(1)[0]
    worker = program.start("one", WEB_PORT=str(port))
    worker.wait_log("Ready")
    offsets = []
    for n in range(3):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/order/{n + 1}", timeout=20) as got:
            offsets.append(json.load(got)["offset"])
    # Each commit leaves a marker behind, which has an offset of its own.
    assert offsets == [0, 2, 4]
    assert sorted(values(program, "seen", 3)) == [["web", 1, 1], ["web", 2, 3], ["web", 3, 6]]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/total/web", timeout=20) as got:
        assert json.load(got) == {"total": 6}


def test_isolated_partitions_survive_an_abort(program):
    worker = program.start("one", FAIL="5,14")
    worker.wait_log("Ready")
    orders(program, range(20))
    assert sorted(values(program, "isolated-out", 20)) == list(range(20))
    orders(program, range(20, 40))
    assert sorted(values(program, "isolated-out", 40)) == list(range(40))
    assert len(values(program, "seen", 40)) == 40
    assert worker.stop() == 0, program.tails()


def test_isolated_partitions_survive_workers_that_come_and_go(program):
    first = program.start("one")
    first.wait_log("Ready")
    orders(program, range(20))
    values(program, "isolated-out", 20)
    second = program.start("two")
    second.wait_log("Ready")
    orders(program, range(20, 40))
    values(program, "isolated-out", 40)
    assert first.stop() == 0, program.tails()
    orders(program, range(40, 60))
    assert sorted(values(program, "isolated-out", 60)) == list(range(60))
    seen = values(program, "seen", 60)
    assert sorted(amount for _, amount, _ in seen) == list(range(60))
    assert second.stop() == 0, program.tails()


def test_a_missing_topic_is_named_where_none_may_be_made(program):
    worker = program.start("one", DECLARE="no")
    assert worker.wait(60) == 2, program.tails()
    assert f"Topic {program.app_id}-" in worker.log()
    assert "topic_allow_declare is off" in worker.log()


def test_the_program_of_the_readme_runs_on_an_empty_broker(kafka, unique, tmp_path):
    name = unique("shop")
    source = readme_program().replace('"shop"', f'"{name}"')
    source = source.replace("onceflow://localhost:9092", f"onceflow://{kafka.bootstrap}")
    for topic in ("orders", "totals"):
        source = source.replace(f'topic("{topic}"', f'topic("{name}-{topic}"')
    program = Program(tmp_path, source, bootstrap=kafka.bootstrap, app_id=name)
    try:
        program.start("one").wait_log("Ready")
        order = b'{"customer": "ada", "cents": 5}'
        program.send(f"{name}-orders", [(b"ada", order, None, None)] * 3)
        rows = program.wait_values(f"{name}-totals", 3, partitions=8)
        assert [row[1:] for row in rows] == [(b"ada", b"5"), (b"ada", b"10"), (b"ada", b"15")]
    finally:
        program.stop_all()


def readme_program():
    from pathlib import Path  # noqa: PLC0415 - beside its only use

    text = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    return text.split("```python\n")[1].split("```")[0]
