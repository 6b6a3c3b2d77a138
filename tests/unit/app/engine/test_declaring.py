"""Which topics are made, when, and how."""

from __future__ import annotations

import asyncio
import types

import faust
import pytest

from onceflow.engine.declaring import Declarations, TopicPlan
from onceflow.errors import TopologyError


class Admin:
    """Topics of a cluster: name to partition count."""

    def __init__(self, **topics):
        self.counts = topics
        self.created, self.described = [], []

    async def topics(self, names):
        self.described.append(sorted(names))
        await asyncio.sleep(0)
        return {n: self._description(n) for n in names if n in self.counts}

    def _description(self, name):
        return types.SimpleNamespace(partition_count=self.counts[name])

    async def create_topic(self, name, partitions, *, replication_factor, config):
        if self.counts.get(name, partitions) != partitions:
            raise TopologyError(f"{name} has other partitions")
        self.counts[name] = partitions
        self.created.append((name, partitions, replication_factor, config))
        return self._description(name)

    async def topic_configs(self, names):
        bounds = {"message.timestamp.after.max.ms": "7200000", "message.timestamp.type": ""}
        return dict.fromkeys(names, bounds)


@pytest.fixture
def make():
    def made(admin, **options):
        app = faust.App("declaring", broker="onceflow://localhost:1", **options)
        clients = types.SimpleNamespace(admin=admin)
        runtime = types.SimpleNamespace(app=app, clients=clients, partition_counts_known={})
        return app, Declarations(runtime)

    return made


async def test_topics_of_the_app_are_made_as_it_says(make):
    admin = Admin(there=3)
    app, declarations = make(admin, topic_partitions=5)
    app.topic("there", partitions=9)
    app.topic("plain")
    app.topic("special", partitions=2, replicas=3, retention=60.0, config={"a": 1})
    app.topic("compacted", compacting=True, deleting=True)
    await declarations.declare_named()
    assert sorted(admin.created) == [
        ("compacted", 5, -1, {"cleanup.policy": "compact,delete"}),
        ("plain", 5, -1, {}),
        ("special", 2, 3, {"a": "1", "retention.ms": "60000"}),
    ]
    assert declarations.runtime.partition_counts_known["there"] == 3


async def test_iterated_copies_and_internal_topics_are_not_named_twice(make):
    admin = Admin()
    app, declarations = make(admin)
    topic = app.topic("orders", partitions=2)
    topic.clone(is_iterator=True, root=topic, partitions=7)
    app.topic("changelog", internal=True)
    await declarations.declare_named()
    assert [row[:2] for row in admin.created] == [("orders", 2)]


async def test_a_description_that_says_more_wins(make):
    admin = Admin()
    app, declarations = make(admin, topic_partitions=5)
    app.topic("orders")
    app.topic("orders", partitions=2)
    app.topic("orders")
    await declarations.declare_named()
    assert [row[:2] for row in admin.created] == [("orders", 2)]


async def test_a_topic_first_seen_in_a_send_is_made_once(make):
    admin = Admin()
    _, declarations = make(admin, topic_partitions=5)
    await asyncio.gather(*(declarations.ensure("found") for _ in range(5)))
    await declarations.ensure("found")
    assert [row[:2] for row in admin.created] == [("found", 5)]
    assert admin.described == [["found"]]


async def test_a_topic_made_meanwhile_by_somebody_else_is_taken_as_it_is(make):
    class Racing(Admin):
        async def create_topic(self, name, partitions, **options):
            self.counts[name] = 7
            return await super().create_topic(name, partitions, **options)

    _, declarations = make(Racing(), topic_partitions=5)
    await declarations.ensure("found")
    assert declarations.runtime.partition_counts_known == {"found": 7}


async def test_a_topic_of_the_apps_own_has_to_fit(make):
    app, declarations = make(Admin(changelog=7), topic_partitions=5)
    app.topic("changelog", internal=True)
    with pytest.raises(TopologyError):
        await declarations.declare_own("changelog")


async def test_missing_topics_are_named_together_where_none_may_be_made(make):
    admin = Admin(there=1)
    _, declarations = make(admin, topic_allow_declare=False)
    with pytest.raises(TopologyError, match="Topic a, b does not exist"):
        await declarations.require(["a", "there", "b"])
    assert not admin.created


async def test_a_failed_look_is_tried_again(make):
    admin = Admin()
    _, declarations = make(admin, topic_allow_declare=False)
    with pytest.raises(TopologyError):
        await declarations.ensure("late")
    admin.counts["late"] = 1
    await declarations.ensure("late")


async def test_the_bound_on_timestamps_is_the_topics(make):
    _, declarations = make(Admin(there=1))
    hour_ms = 3_600_000
    assert declarations.timestamp_ahead_ms("there") < hour_ms
    await declarations.ensure("there")
    assert hour_ms < declarations.timestamp_ahead_ms("there") < 2 * hour_ms


async def test_engines_own_topics_have_a_plan(make):
    admin = Admin()
    _, declarations = make(admin)
    declarations.plans["letters"] = TopicPlan(1, None, {"retention.ms": "-1"})
    await declarations.declare_named()
    assert admin.created == [("letters", 1, -1, {"retention.ms": "-1"})]
