from __future__ import annotations

import pytest

from onceflow.decisions.copartition import check_assignment, check_tables, missing, tasks
from onceflow.errors import TopologyError
from onceflow.ids import Partition, TaskId

COUNTS = {"orders": 4, "clicks": 4, "rates": 1}


def some(*pairs: tuple[str, int]) -> set[Partition]:
    return {Partition(topic, number) for topic, number in pairs}


def test_topics_of_one_count_make_one_task_per_number():
    here = some(("orders", 1), ("clicks", 1), ("orders", 3), ("clicks", 3), ("rates", 0))
    assert tasks(here, COUNTS) == {
        TaskId(1, 0): some(("rates", 0)),
        TaskId(4, 1): some(("orders", 1), ("clicks", 1)),
        TaskId(4, 3): some(("orders", 3), ("clicks", 3)),
    }
    check_assignment(here, COUNTS)


def test_a_task_opens_only_when_all_its_partitions_are_here():
    here = some(("orders", 1), ("orders", 2), ("clicks", 2))
    assert tasks(here, COUNTS) == {TaskId(4, 2): some(("orders", 2), ("clicks", 2))}
    assert missing(here, COUNTS) == {TaskId(4, 1): some(("clicks", 1))}


def test_an_assignment_that_tears_topics_apart_is_refused_with_what_to_do():
    with pytest.raises(TopologyError, match=r"clicks\[1\] went to another") as refused:
        check_assignment(some(("orders", 1)), COUNTS)
    for part in ("orders", "4 partitions each", "range assignor", "same topics"):
        assert part in str(refused.value)
    assert refused.value.exit_code == 2


def test_a_topic_that_this_worker_does_not_read_is_refused():
    with pytest.raises(TopologyError, match="does not read other"):
        tasks(some(("other", 0)), COUNTS)


def test_nothing_assigned_makes_no_task():
    assert tasks(set(), COUNTS) == {}
    check_assignment(set(), COUNTS)


def test_tables_need_the_partition_count_of_a_source_topic():
    check_tables({"totals": 4, "latest": 1}, COUNTS)
    with pytest.raises(TopologyError, match="table totals has 8 partitions") as refused:
        check_tables({"totals": 8}, COUNTS)
    assert "clicks: 4, orders: 4, rates: 1" in str(refused.value)
