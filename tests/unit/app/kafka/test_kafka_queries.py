"""Answers of the client that look like offsets and are none."""

from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from confluent_kafka import OFFSET_INVALID, TopicPartition

from onceflow.errors import Unreachable
from onceflow.ids import Partition
from onceflow.kafka.queries import LATEST, list_offsets

PLACE = Partition("in", 2)


class Answering:
    """A client that answers with one offset after the other, the last one for ever."""

    def __init__(self, *offsets):
        self.offsets = list(offsets)

    def list_offsets(self, asked, **_):
        offset = self.offsets.pop(0) if len(self.offsets) > 1 else self.offsets[0]
        answer = Future()
        answer.set_result(SimpleNamespace(offset=offset))
        return dict.fromkeys((TopicPartition(p.topic, p.partition) for p in asked), answer)


def test_no_offset_is_asked_for_again():
    client = Answering(OFFSET_INVALID, 30)
    assert list_offsets(client, {PLACE: LATEST}, 5.0) == {PLACE: 30}


def test_no_offset_until_the_bound_is_unreachable_not_a_truncated_log():
    client = Answering(OFFSET_INVALID)
    with pytest.raises(Unreachable, match=r"in\[2\]"):
        list_offsets(client, {PLACE: LATEST}, 0.2)


def test_no_record_at_a_time_is_an_answer():
    assert list_offsets(Answering(-1), {PLACE: LATEST}, 0.2) == {PLACE: -1}
