"""Checks what the fault application left behind against a model computed from its input alone.

Nothing here knows about the faults of a run: exactly-once has one answer. Everything is checked per
partition and in order, and every difference is collected, so that one run tells all it found.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, defaultdict

from harness.fault_input import open_transactions, read_back
from onceflow.decisions.marker import Handover, parse
from onceflow.ids import Partition
from onceflow.kafka.admin import Admin
from onceflow.kafka.configuration import ClientConfig
from onceflow.kafka.offsets import CommittedOffsets
from onceflow.state.keys import from_changelog
from onceflow.state.memory import MemoryBudget
from onceflow.state.task_store import StoreIdentity, TaskStore

TABLES = ("totals", "windows", "seen", "groups")
WINDOW_S = 2.0
SHOWN = 5
"""Differences shown per check."""


class Model:
    """What the application must have done for this input."""

    def __init__(self, inputs):
        self.echo = {number: [] for number in inputs}
        self.audit = {number: [] for number in inputs}
        self.totals, self.seen, self.windows = {}, Counter(), Counter()
        self.running = defaultdict(set)
        self.group_of, self.amount, self.source = {}, {}, {}
        for number, records in inputs.items():
            for record in records:
                self._take(number, record)

    def _take(self, number, record):
        value = record.json
        if value.get("poison"):
            return
        key = value["k"]
        count, total = self.totals.get(key, (0, 0))
        count, total = self.totals[key] = (count + 1, total + value["v"])
        self.running[key].add((count, total))
        self.seen[key] += 1
        start = record.timestamp_ms / 1000 // WINDOW_S * WINDOW_S
        self.windows[key, start] += 1
        at = {"p": number, "o": record.offset}
        self.echo[number].append({**at, "k": key, "c": count, "t": total})
        self.audit[number].append({**at, "c": count})
        self.group_of[value["n"]] = value["g"]
        self.amount[value["n"]] = value["v"]
        self.source[value["n"]] = number


class Verification:
    """All checks of one finished run; ``problems`` is empty if it was exactly-once."""

    def __init__(self, bootstrap, app_id, partitions, data_directories):
        self.bootstrap = bootstrap
        self.app_id = app_id
        self.partitions = partitions
        self.data_directories = data_directories
        self.problems = []

    def run(self):
        """Check everything; returns the problems, in words."""
        asyncio.run(self._describe())
        self._read = read_back(self.bootstrap, self.topics)
        self.inputs = self._of("in")
        self.model = Model(self.inputs)
        self._outputs("echo", self.model.echo)
        self._outputs("audit", self.model.audit)
        self._grouped(self._of("grouped"))
        self.changelogs = {table: self._of(f"{table}-changelog") for table in TABLES}
        self._tables()
        held = open_transactions(self.bootstrap, self.topics)
        if held:
            self._problem("open transactions hold readers back", held.items())
        asyncio.run(self._offsets())
        self._stores()
        return self.problems

    def _of(self, name):
        return self._read[f"{self.app_id}-{name}"]

    def _problem(self, what, details=()):
        shown = [str(detail) for _, detail in zip(range(SHOWN), details, strict=False)]
        self.problems.append(": ".join([what, "; ".join(shown)]) if shown else what)

    # Outputs.

    def _outputs(self, name, expected):
        for number, wanted in expected.items():
            found = [record.json for record in self._of(name)[number]]
            if found == wanted:
                continue
            places = Counter(each["o"] for each in found)
            due = {each["o"] for each in wanted}
            what = f"{name}[{number}]"
            if lost := due - places.keys():
                self._problem(f"{what} lost {len(lost)} inputs", sorted(lost))
            if doubled := [place for place, times in places.items() if times > 1]:
                self._problem(f"{what} doubled {len(doubled)} inputs", doubled)
            if foreign := places.keys() - due:
                self._problem(f"{what} has outputs of no input", sorted(foreign))
            if not (lost or doubled or foreign):
                different = [pair for pair in zip(wanted, found, strict=True) if pair[0] != pair[1]]
                self._problem(f"{what} is out of order or saw another state", different)

    def _grouped(self, found):
        """Each input once; per group a running fold; per source partition in input order."""
        model = self.model
        places = Counter()
        last = defaultdict(lambda: -1)
        state = defaultdict(lambda: (0, 0))
        for number, records in found.items():
            for record in records:
                value = record.json
                sequence, group = value["n"], value["g"]
                places[sequence] += 1
                if model.group_of.get(sequence) != group:
                    self._problem(f"grouped[{number}]@{record.offset} is of no input", [value])
                    continue
                count, total = state[group]
                state[group] = (count + 1, total + model.amount[sequence])
                if state[group] != (value["c"], value["t"]):
                    self._problem(
                        f"grouped[{number}]@{record.offset} saw another state than its outputs",
                        [f"{value} instead of {state[group]}"],
                    )
                    state[group] = (value["c"], value["t"])
                lane = (model.source[sequence], group)
                if sequence <= last[lane]:
                    self._problem(f"grouped[{number}]@{record.offset} is out of order", [value])
                last[lane] = sequence
        if lost := model.group_of.keys() - places.keys():
            self._problem(f"grouped lost {len(lost)} inputs", sorted(lost))
        if doubled := [sequence for sequence, times in places.items() if times > 1]:
            self._problem(f"grouped doubled {len(doubled)} inputs", doubled)
        self.groups = dict(state)

    # Tables in their changelogs.

    def _tables(self):
        model = self.model
        self._table("totals", {key: list(value) for key, value in model.totals.items()})
        self._table("seen", dict(model.seen))
        self._table("groups", {key: list(value) for key, value in self.groups.items()})
        self._table(
            "windows",
            {
                (key, (start, start + WINDOW_S - 0.1)): count
                for (key, start), count in model.windows.items()
            },
        )
        for number, records in self.changelogs["totals"].items():
            for record in records:
                # One record per commit: a state that the outputs passed through, or half a commit.
                key, value = json.loads(record.key), record.json
                if tuple(value) not in model.running[key]:
                    self._problem(
                        f"totals changelog[{number}]@{record.offset} is no state of {key}", [value]
                    )

    def _table(self, table, expected):
        folded, before = {}, {}
        for number, records in self.changelogs[table].items():
            for record in records:
                key, value = _key(record.key), record.json
                grown = value if isinstance(value, int) else value[0]
                if grown <= before.get(key, 0):
                    self._problem(f"{table} changelog[{number}]@{record.offset} went back", [key])
                before[key] = grown
                folded[key] = value
        if folded != expected:
            keys = [
                key
                for key in folded.keys() | expected.keys()
                if folded.get(key) != expected.get(key)
            ]
            self._problem(
                f"{table} differs for {len(keys)} keys",
                [
                    f"{key}: {folded.get(key)} instead of {expected.get(key)}"
                    for key in sorted(keys)
                ],
            )

    # What Kafka keeps: offsets, markers, open transactions.

    async def _describe(self):
        admin = Admin(ClientConfig(self.bootstrap))
        try:
            metadata = admin._client.list_topics(timeout=10)
            self.topics = {
                name: len(topic.partitions)
                for name, topic in metadata.topics.items()
                if self.app_id in name
            }
            self.cluster_id = await admin.cluster_id()
            names = [f"{self.app_id}-{table}-changelog" for table in TABLES]
            described = await admin.topics(names)
            self.topic_ids = {
                table: described[name].topic_id for table, name in zip(TABLES, names, strict=True)
            }
        finally:
            admin.close()

    async def _offsets(self):
        """Committed behind the last record of every source, and given up in order."""
        repartition = [topic for topic in self.topics if topic.endswith("-repartition")]
        wanted = {
            Partition(topic, number): records[-1].offset + 1 if records else 0
            for topic in [f"{self.app_id}-in", *repartition]
            for number, records in self._read[topic].items()
        }
        reader = CommittedOffsets(ClientConfig(self.bootstrap))
        found = await reader.committed(self.app_id, wanted)
        await asyncio.to_thread(reader.close)
        for partition, offset in sorted(wanted.items()):
            committed = found[partition]
            # Repartition topics are emptied behind the committed offset.
            emptied = offset == 0 and partition.topic in repartition
            if committed.offset != offset and not emptied:
                self._problem(f"{partition} is committed at {committed.offset}, not {offset}")
            marker = parse(committed.metadata)
            if marker is None or marker.released is not Handover.RELEASED:
                self._problem(f"{partition} was not released", [committed.metadata])

    # Local stores.

    def _stores(self):
        """Each store is the fold of its changelog; every task's last owner has all of it."""
        whole = Counter()
        identity = StoreIdentity(self.app_id, self.cluster_id, self.topic_ids)
        budget = MemoryBudget(64 << 20)
        markers = [
            found for root in self.data_directories for found in root.rglob("onceflow-store.json")
        ]
        for marker in markers:
            number = int(marker.parent.name.rpartition("-")[2])
            store = TaskStore.open(
                marker.parent,
                identity,
                TABLES,
                budget,
                now_ms=time.time_ns() // 1_000_000,
                trusted_for_ms=3_600_000,
            )
            try:
                if store.rebuild_reasons:
                    self._problem(f"{marker.parent} is not trusted", store.rebuild_reasons.items())
                    continue
                whole[number] += self._store(marker.parent, number, store)
            finally:
                store.close()
        for number in range(self.partitions):
            if not whole[number]:
                self._problem(f"no worker has the whole state of task {number}")

    def _store(self, path, number, store):
        """Whether a store has all of its changelogs."""
        whole = True
        for table in TABLES:
            records = self.changelogs[table][number]
            position = store.changelog_position(table) or 0
            rows = {}
            for record in records:
                if record.offset < position:
                    key = from_changelog(record.key) if table == "windows" else record.key
                    rows[key] = record.value
            found = dict(store.scan(table))
            if found != rows:
                different = [k for k in found.keys() | rows.keys() if found.get(k) != rows.get(k)]
                self._problem(
                    f"{path} {table}: not the fold of its changelog up to {position}",
                    [f"{key}: {found.get(key)} instead of {rows.get(key)}" for key in different],
                )
            whole = whole and (not records or position > records[-1].offset)
        return whole


def _key(encoded):
    key = json.loads(encoded)
    return (key[0], tuple(key[1])) if isinstance(key, list) else key
