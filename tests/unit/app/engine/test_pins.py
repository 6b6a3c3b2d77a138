from __future__ import annotations

import orjson
import pytest

from onceflow.engine.pins import FILE_NAME, check_pins
from onceflow.errors import DataAtRisk
from onceflow.kafka.admin import TopicDescription


def described(topic_id: str = "id-1", partition_count: int = 4) -> dict[str, TopicDescription]:
    return {"orders": TopicDescription("orders", topic_id, partition_count, 1)}


def test_a_first_start_pins_and_the_next_one_agrees(tmp_path):
    check_pins(tmp_path, "shop", "cluster-a", described())
    check_pins(tmp_path, "shop", "cluster-a", described())
    assert orjson.loads((tmp_path / FILE_NAME).read_bytes())["topics"] == {"orders": ["id-1", 4]}


def test_a_recreated_topic_is_refused_with_what_to_do(tmp_path):
    check_pins(tmp_path, "shop", "cluster-a", described())
    with pytest.raises(DataAtRisk, match=r"deleted and made again.*Reset") as raised:
        check_pins(tmp_path, "shop", "cluster-a", described("id-2"))
    assert raised.value.exit_code == 4


def test_another_partition_count_is_refused(tmp_path):
    check_pins(tmp_path, "shop", "cluster-a", described())
    with pytest.raises(DataAtRisk, match=r"had 4 partitions .* has 6 now"):
        check_pins(tmp_path, "shop", "cluster-a", described(partition_count=6))


def test_another_cluster_is_refused(tmp_path):
    check_pins(tmp_path, "shop", "cluster-a", described())
    with pytest.raises(DataAtRisk, match="cluster-a, and this one is cluster-b"):
        check_pins(tmp_path, "shop", "cluster-b", described())


def test_a_topic_added_later_is_pinned_beside_the_others(tmp_path):
    check_pins(tmp_path, "shop", "cluster-a", described())
    added = {"refunds": TopicDescription("refunds", "id-9", 4, 1)}
    check_pins(tmp_path, "shop", "cluster-a", {**described(), **added})
    with pytest.raises(DataAtRisk, match="refunds"):
        check_pins(
            tmp_path, "shop", "cluster-a", {"refunds": TopicDescription("refunds", "id-8", 4, 1)}
        )


def test_pins_of_another_format_are_refused(tmp_path):
    (tmp_path / FILE_NAME).write_bytes(b'{"format":99}')
    with pytest.raises(DataAtRisk, match="another version"):
        check_pins(tmp_path, "shop", "cluster-a", described())
