"""``onceflow txn`` on a real Kafka and a real sink: what it shows, ends, refuses and records."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import sys
import time
from contextlib import redirect_stderr, redirect_stdout

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from harness.sqlite_participant import SqliteParticipant
from onceflow.cli import main
from onceflow.cli.txn_shown import now_ms
from onceflow.coordinator.client import CoordinatorClient
from onceflow.coordinator.vocabulary import Leased, Told
from onceflow.decisions.marker import Marker
from onceflow.ids import BranchId, CommitEpoch, Incarnation
from onceflow.sinks.gid import Scope
from onceflow.supervisor.hosting import hosted_group, in_directory, present_address
from onceflow_consensus.client import ClientOptions
from onceflow_consensus.transport.addresses import parse_address

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]

OWNER = Incarnation("-dead_worker")

PROGRAM = """
import onceflow
from harness.sqlite_participant import SqliteParticipant

app = onceflow.App({app!r}, broker={broker!r}, datadir={datadir!r})
sink = SqliteParticipant({rows!r}, name="rows")

@app.agent(app.topic({topic!r}), sink=[sink])
async def copy(stream):
    async for value in stream:
        yield {{"value": value}}
"""


class Shop:
    """An application of which no worker runs, with branches that a dead one left."""

    def __init__(self, folder, kafka, unique):
        self.folder = folder
        self.app_id = unique("shop")
        self.topic = unique("in")
        self.rows = str(folder / "rows.db")
        self.bootstrap = kafka.bootstrap
        self.numbers = itertools.count()
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
        for made in admin.create_topics([NewTopic(self.topic, 2, 1)]).values():
            made.result(30)
        self.scope = Scope.of(admin.list_topics(timeout=30).cluster_id, self.app_id)
        self.sink = SqliteParticipant(self.rows, name="rows")
        self.sink.open(self.scope)

    def commit_marker(self, last_epoch):
        """Commit offsets as the dead worker's last transaction did."""
        text = Marker(OWNER, CommitEpoch(last_epoch), CommitEpoch(last_epoch)).encode()
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": self.app_id})
        try:
            at = [TopicPartition(self.topic, number, 5, text) for number in range(2)]
            consumer.commit(offsets=at, asynchronous=False)
        finally:
            consumer.close()

    def prepare(self, commit_epoch):
        branch = BranchId(OWNER, CommitEpoch(commit_epoch))
        self.sink.prepare(branch, [self.sink.encode({"value": commit_epoch})])

    def hold_lease(self, told_unix_ms):
        """Tell the record that the worker lives."""

        async def tell():
            address = parse_address(present_address(self.folder / "data" / "coordinator"))
            async with CoordinatorClient(ClientOptions("onceflow", [address])) as client:
                lease = Leased(OWNER, "w-0", "host", 4, 15_000)
                told = Told(self.scope.scope, self.app_id, told_unix_ms, [lease])
                await client.tell(told)

        asyncio.run(tell())

    def txn(self, *arguments, told=None):
        """Run a command; return its exit code, document and talk. ``APP`` is the application."""
        module = f"shop_{self.app_id.replace('-', '_')}_{next(self.numbers)}"
        broker = "onceflow://" + self.bootstrap
        (self.folder / f"{module}.py").write_text(
            PROGRAM.format(
                app=self.app_id,
                broker=broker,
                datadir=str(self.folder / "data"),
                rows=self.rows,
                topic=self.topic,
            )
        )
        words = [f"{module}:app" if word == "APP" else word for word in arguments]
        if "--timeout" not in words:
            words.append("--timeout=90")  # patience with a machine that does much else
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as left:
            main(["txn", *words])
        return left.value.code, out.getvalue(), err.getvalue()

    def document(self, *arguments):
        code, out, err = self.txn(*arguments, "-o", "json")
        assert code == 0, err
        return json.loads(out)


@pytest.fixture
def shop(tmp_path, kafka, unique, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    shop = Shop(tmp_path, kafka, unique)
    yield shop
    shop.sink.close()
    for name in [each for each in sys.modules if each.startswith("shop_")]:
        del sys.modules[name]


@pytest.fixture
def hosted(shop):
    """A group that runs all the time, as beside a worker, so that commands need not start one."""
    directory = shop.folder / "data" / "coordinator"
    with hosted_group(in_directory(directory)):
        deadline_s = time.monotonic() + 60
        while present_address(directory) is None:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        yield shop


def test_what_a_dead_worker_left_is_listed_shown_and_ended_by_the_evidence(shop):
    shop.commit_marker(7)
    shop.prepare(7)
    found = shop.document("list", "--app", "APP")
    (left,) = found["transactions"]
    assert left == {
        "id": f"7@{OWNER}",
        "app": shop.app_id,
        "scope": shop.scope.scope,
        "incarnation": OWNER,
        "commit_epoch": 7,
        "standing": "open",
        "state": "not_recorded",
        "decision": "none",
        "age_s": None,
        "participants": ["rows"],
        "heuristics": [],
        "prepared_in": ["rows"],
        "is_proven": True,
    }
    assert (found["alarms"], found["last_alarms"]) == (0, [])

    shown = shop.document("show", f"7@{OWNER}", "--app", "APP")
    assert (shown["is_known"], shown["recorded"], shown["is_forgotten"]) == (True, [], False)
    evidence = shown["evidence"]
    assert [(each["partition"], each["with_participants"]) for each in evidence["markers"]] == [
        (0, 7),
        (1, 7),
    ]
    assert (evidence["prepared_in"], evidence["verdict"]) == (["rows"], "commit")
    assert evidence["marker_rows"] == {"rows": None}

    code, _, err = shop.txn("resolve", "APP", f"7@{OWNER}", "abort")
    assert code == 1
    assert "The evidence says commit" in err
    done = shop.document("resolve", "APP", f"7@{OWNER}", "commit", "--by=me")
    assert (done["done"], done["is_forced"], done["is_recorded"]) == (
        {"rows": "committed"},
        False,
        True,
    )
    assert shop.sink.branches() == []
    assert shop.sink.marker_row(OWNER).commit_epoch == 7

    # The record is there when nobody hosts its group any more, and goes on when somebody does.
    again = shop.document("list", "--all", "--app", "APP")["transactions"]
    assert [(each["state"], each["decision"]) for each in again] == [("ended", "commit")]
    shown = shop.document("show", f"7@{OWNER}", "--app", "APP")
    assert shown["recorded"][0]["decided_by"].startswith("me@")
    # Nothing is left to do, and to say so again is fine.
    assert shop.document("resolve", "APP", f"7@{OWNER}", "commit")["done"] == {}


def test_what_is_not_committed_is_aborted_and_the_opposite_needs_force_and_stays(hosted):
    shop = hosted
    shop.commit_marker(7)
    shop.prepare(9)
    shop.hold_lease(now_ms())
    code, _, err = shop.txn("resolve", "APP", f"9@{OWNER}", "abort")
    assert code == 1
    assert "lives (process 4 on host)" in err
    # Told a minute ago, and nobody let the time of the log go on since.
    shop.hold_lease(now_ms() - 60_000)
    code, _, err = shop.txn("resolve", "APP", f"9@{OWNER}", "commit")
    assert code == 1
    assert "The evidence says abort, not commit" in err
    assert len(shop.sink.branches()) == 1
    done = shop.document("resolve", "APP", f"9@{OWNER}", "commit", "--force", "--by=me")
    assert (done["done"], done["is_forced"]) == ({"rows": "committed"}, True)
    (kept,) = shop.document("list", "--app", "APP")["transactions"]
    assert (kept["standing"], kept["decision"]) == ("heuristic", "abort")
    (note,) = kept["heuristics"]
    assert (note["finding"], note["participant"]) == ("forced_commit", "rows")
    assert note["by"].startswith("me@")

    shop.prepare(11)
    done = shop.document("resolve", "APP", f"11@{OWNER}", "abort")
    assert done["done"] == {"rows": "rolled_back"}
    assert shop.sink.branches() == []
    code, out, _ = shop.txn("list", "--all", "--app", "APP")
    assert code == 0
    assert out.index(f"9@{OWNER}") < out.index(f"11@{OWNER}")
    code, out, _ = shop.txn("show", f"11@{OWNER}", "--app", "APP")
    assert code == 0
    assert "verdict: nothing_left" in out


def test_who_knows_nothing_says_so(hosted):
    shop = hosted
    code, _, err = shop.txn("show", f"3@{OWNER}", "--app", "APP")
    assert code == 1
    assert "neither the record" in err
    code, _, err = shop.txn("show", "7-w", "--app", "APP")
    assert code == 2
    assert "EPOCH@INCARNATION" in err
    code, _, err = shop.txn("list")
    assert code == 2
    assert "which group keeps the record" in err
    code, _, err = shop.txn("list", "--endpoints", "127.0.0.1:1", "--timeout", "0.5")
    assert code == 3
