"""What a worker says of itself: log events and measures, each at its place."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

import onceflow
from harness.table_driver import make_app
from onceflow.decisions import epoch_effects as fx
from onceflow.decisions import epoch_events as ev
from onceflow.engine.epochs import Epochs
from onceflow.engine.runtime import runtime_of
from onceflow.errors import Fenced, InvariantViolation, OutcomeUnknown
from onceflow.ids import CommitEpoch, Incarnation
from onceflow.kafka.producer import EndOutcome, EndResult
from onceflow.observe.events import LogEvent
from onceflow.observe.health import TaskState, WorkerState
from onceflow.testing import TopologyDriver


def new_app(**options):
    app = onceflow.App("told", topic_partitions=1, **options)
    words = app.topic("words", key_type=str, value_type=str)
    counts = app.Table("counts", default=int, partitions=1)

    @app.agent(words)
    async def count(stream):
        async for word in stream:
            counts[word] += 1
            if word == "bad":
                raise ValueError(word)

    return app


def lines(caplog, event):
    return [r.msg for r in caplog.records if isinstance(r.msg, dict) and r.msg["event"] == event]


def sample(app, name, **labels):
    text = runtime_of(app).metrics.exposition().decode()
    for family in text_string_to_metric_families(text):
        for found in family.samples:
            if found.name == name and found.labels == labels:
                return found.value
    raise AssertionError(f"{name}{labels} is not exposed")


@pytest.fixture(autouse=True)
def every_level(caplog):
    caplog.set_level("INFO")


async def test_a_worker_tells_its_start_its_tasks_and_its_end(tmp_path, caplog):
    app = new_app()
    async with TopologyDriver(app, tmp_path) as driver:
        [started] = lines(caplog, LogEvent.WORKER_STARTED)
        assert started["app"] == "told"
        assert {"version", "librdkafka", "brokers", "directory"} <= started.keys()
        taken = lines(caplog, LogEvent.TASK_TAKEN_OVER)[0]
        assert taken["task"] == "1_0"
        assert "words-0" in taken["partitions"]
        assert taken["fenced"] == []
        assert lines(caplog, LogEvent.TASK_RUNNING)[0]["task"] == "1_0"
        await driver.feed("words", "a", key="k")
        await driver.settle()
        runtime_of(app).measure()
        assert sample(app, "onceflow_worker_state", state="running") == 1
        assert sample(app, "onceflow_tasks", role="active", state="running") == 1
        assert sample(app, "onceflow_rebalances_total", kind="assigned") >= 1
        assert lines(caplog, LogEvent.TASK_CLOSED) == []
        assert lines(caplog, LogEvent.WORKER_STOPPING) == []
    assert len(lines(caplog, LogEvent.WORKER_STOPPING)) == 1
    assert lines(caplog, LogEvent.TASK_CLOSED)[0]["task"] == "1_0"
    assert len(lines(caplog, LogEvent.WORKER_STOPPED)) == 1
    assert sample(app, "onceflow_worker_state", state="stopping") == 1


async def test_a_task_is_counted_in_its_state_until_it_runs(tmp_path):
    app = new_app()
    runtime = runtime_of(app)
    states = []
    tasks = runtime.tasks
    restore = tasks.restore

    async def watched(partitions):
        states.append(dict(runtime.health.tasks_by_state()))
        await restore(partitions)
        states.append(dict(runtime.health.tasks_by_state()))

    tasks.restore = watched
    async with TopologyDriver(app, tmp_path):
        assert states[:2] == [{TaskState.TAKING_OVER: 1}, {TaskState.RESTORING: 1}]
        assert runtime.health.tasks_by_state() == {TaskState.RUNNING: 1}


async def test_a_worker_that_is_given_no_partition_is_ready():
    app = make_app()
    runtime = runtime_of(app)
    runtime._epochs = Epochs(runtime, Incarnation("own"))
    app.consumer = SimpleNamespace(assigned_by_group=lambda _: None)
    assert not runtime.health.ready().ok
    nothing = frozenset()
    runtime.inflow.on_assigned(
        SimpleNamespace(number=1, partitions=nothing, added=nothing, group_metadata="m")
    )
    assert runtime.health.ready().ok


async def test_a_retry_and_a_dead_letter_tell_record_and_error(tmp_path, caplog):
    app = new_app(retries_max=1, retry_backoff_ms=1)
    async with TopologyDriver(app, tmp_path) as driver:
        await driver.feed_many("words", [("k", "good"), ("k", "bad")])
        await driver.settle()
    [retried] = lines(caplog, LogEvent.RECORD_RETRIED)
    where = {"topic": "words", "partition": 0, "offset": 1}
    assert where.items() <= retried.items()
    assert (retried["records"], retried["failed_alone"]) == (1, 1)
    [dead] = lines(caplog, LogEvent.RECORD_DEAD_LETTERED)
    assert where.items() <= dead.items()
    assert dead["error"] == "ValueError: bad"


async def test_a_skipped_record_tells_its_error(tmp_path, caplog):
    app = new_app(on_error="skip")
    async with TopologyDriver(app, tmp_path) as driver:
        await driver.feed("words", "bad", key="k")
        await driver.settle()
    assert lines(caplog, LogEvent.RECORD_SKIPPED)[0]["error"] == "ValueError: bad"


def test_a_broken_invariant_is_told_and_counted(caplog):
    app = make_app()
    runtime = runtime_of(app)
    runtime.leave = lambda error, code: None
    runtime.fail(InvariantViolation("INV-EPOCH-2: text (number=3)"))
    [line] = lines(caplog, LogEvent.INVARIANT_VIOLATED)
    assert line["error"] == "INV-EPOCH-2: text (number=3)"
    assert sample(app, "onceflow_invariant_violations_total") == 1
    assert sample(app, "onceflow_worker_state", state=WorkerState.FAILED.value) == 1


# -- ends of transactions --


class Ending:
    """A transactional producer whose commit or flush ends in one way."""

    def __init__(self, outcome, error=None, flush_error=None):
        self.result = EndResult(outcome, outcome is not EndOutcome.COMMITTED, 1.5, error)
        self.flush_error = flush_error

    def begin(self):
        pass

    def flush(self, _timeout_s):
        if self.flush_error is not None:
            raise self.flush_error

    def commit_transaction(self, _timeout_s):
        return self.result


def worker(ending):
    app = make_app()
    runtime = runtime_of(app)
    runtime._epochs = Epochs(runtime, Incarnation("own"))
    runtime.clients.transaction = ending
    runtime.clients.take_turns = lambda: None
    return app, runtime.epochs


def outcome(app, name):
    return sample(app, "onceflow_transactions_total", outcome=name)


def test_a_lost_answer_to_a_commit_is_told(caplog):
    _, epochs = worker(Ending(EndOutcome.UNKNOWN, OutcomeUnknown("timed out")))
    ended = epochs.transactions.decide(fx.CommitTransaction(CommitEpoch(7)))
    assert ended.outcome is ev.Outcome.UNKNOWN
    [line] = lines(caplog, LogEvent.OUTCOME_UNKNOWN)
    assert (line["commit_epoch"], line["elapsed_s"], line["error"]) == (7, 1.5, "timed out")


async def test_a_fenced_commit_is_told_and_counted_once_it_is_dropped(caplog):
    app, epochs = worker(Ending(EndOutcome.FENCED, Fenced("another one")))
    epochs.transactions.decide(fx.CommitTransaction(CommitEpoch(7)))
    assert lines(caplog, LogEvent.FENCED)[0]["error"] == "another one"
    assert outcome(app, "fenced") == 0, "the markers may still prove that it was committed"
    await epochs._drop_attempt(fx.DropAttempt(epochs.machine.stamp))
    assert (outcome(app, "fenced"), outcome(app, "aborted")) == (1, 0)
    epochs.transactions.begin(fx.BeginTransaction(CommitEpoch(8)))
    assert outcome(app, "fenced") == 1


async def test_a_fenced_claim_is_counted_although_it_drops_no_attempt():
    app, epochs = worker(Ending(EndOutcome.COMMITTED, flush_error=Fenced("another one")))
    failed = epochs.transactions.decide(fx.CommitTransaction(CommitEpoch(7)))
    assert failed.kind is ev.SendFailure.FATAL
    epochs.transactions.begin(fx.BeginTransaction(CommitEpoch(8)))
    assert outcome(app, "fenced") == 1


async def test_an_aborted_attempt_is_counted_once():
    app, epochs = worker(SimpleNamespace())
    result = EndResult(EndOutcome.ABORTED, spent=False, elapsed_s=0.1)

    async def run(*_args, **_options):
        await asyncio.sleep(0)
        return result

    epochs.runtime.clients.transaction_thread = SimpleNamespace(run=run)
    epochs.runtime.clients.transaction = SimpleNamespace(abort_transaction=None)
    await epochs._drop_attempt(fx.DropAttempt(epochs.machine.stamp))
    await epochs.transactions.abort(fx.AbortTransaction(CommitEpoch(1)))
    assert outcome(app, "aborted") == 1


# -- sends in a worker without partitions --


async def test_sends_without_partitions_wait_after_a_failure_and_then_go(caplog):
    endings = [OutcomeUnknown("no answer"), None]
    produced = []

    class Producer:
        def begin(self):
            produced.append("begin")

        def produce(self, topic, *_args):
            produced.append(topic)

        def flush(self, _timeout_s):
            error = endings.pop(0)
            if error is not None:
                raise error

        def commit_transaction(self, _timeout_s):
            return EndResult(EndOutcome.COMMITTED, spent=False, elapsed_s=0.0)

        def abort_transaction(self, _timeout_s):
            return EndResult(EndOutcome.ABORTED, spent=True, elapsed_s=0.0)

    _, epochs = worker(Producer())
    runtime = epochs.runtime

    async def run(call, *args, timeout_s):
        assert timeout_s > 0
        return call(*args)

    async def replaced():
        produced.append("replaced")

    runtime.clients.transaction_thread = SimpleNamespace(run=run)
    runtime.clients.replace_producer = replaced
    runtime.sender.in_worker = True
    runtime.sender.existing.add("out")
    runtime.sender.arrived = epochs.wake
    epochs.start()
    sent = runtime.sender.send("out", None, b"tick")
    await asyncio.sleep(0.2)
    assert produced == ["begin", "out", "replaced"], "once, and not again at once"
    assert lines(caplog, LogEvent.EPOCH_ABORTED)
    await asyncio.wait_for(sent, 5)
    assert produced[3:] == ["begin", "out"]
    epochs._loop_task.cancel()
