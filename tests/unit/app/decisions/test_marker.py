from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onceflow.decisions.marker import (
    NO_COMMIT_EPOCH,
    PROBATION_ATTEMPTS,
    Handover,
    Marker,
    claim_attempts,
    commit_attempts,
    noted_attempts,
    parse,
)
from onceflow.errors import DataAtRisk, InvariantViolation
from onceflow.ids import CommitEpoch, Incarnation, Offset
from onceflow.limits import MARKER_BYTES_MAX

OWNER = Incarnation("7f3c")
MARKERS = st.builds(
    Marker,
    incarnation=st.from_regex(r"\A[A-Za-z0-9_-]{1,64}\Z").map(Incarnation),
    commit_epoch=st.integers(0, 2**63 - 1).map(CommitEpoch),
    with_participants=st.integers(0, 2**63 - 1).map(CommitEpoch),
    released=st.sampled_from(Handover),
    attempts=st.integers(0, 10**9 - 1),
    participants=st.lists(st.from_regex(r"\A[a-z0-9_]{1,16}\Z"), max_size=7).map(tuple),
)


@given(MARKERS)
def test_a_marker_is_read_back_as_it_was_written_within_its_bound(marker):
    text = marker.encode()
    assert parse(text) == marker
    assert len(text.encode()) <= MARKER_BYTES_MAX


def test_the_text_of_a_marker_is_stable_because_other_versions_read_it():
    marker = Marker(OWNER, CommitEpoch(12), CommitEpoch(3), Handover.RELEASED, 2)
    assert marker.encode() == "of1:7f3c:12:3:r:2"
    assert parse("of1:7f3c:12:0:h:0") == Marker(OWNER, CommitEpoch(12), NO_COMMIT_EPOCH)
    with_sinks = Marker(OWNER, CommitEpoch(12), CommitEpoch(3), participants=("db", "files"))
    assert with_sinks.encode() == "of1:7f3c:12:3:h:0:db,files"


@pytest.mark.parametrize("metadata", ["", None])
def test_empty_metadata_are_those_of_a_group_that_onceflow_never_wrote(metadata):
    assert parse(metadata) is None


@pytest.mark.parametrize(
    "metadata",
    [
        "of2:7f3c:12:3:r:2",
        "flink",
        "of1",
        "of1:",
        "of1:7f3c:12:3:x:2",
        "of1:7f3c:-1:3:r:2",
        "of1:7f3c:12:3:r",
        "of1:7f3c:12:3:r:2:",
        "of1::12:3:r:2",
        "of1:7f3c:12:3:r:2\n",
        "of1:7f3c:1\u0662:3:r:2",
    ],
)
def test_metadata_that_are_not_understood_are_data_at_risk(metadata):
    with pytest.raises(DataAtRisk, match="resuming could lose or double"):
        parse(metadata)


@given(st.text(max_size=60))
def test_any_other_text_is_refused_or_a_marker_that_encodes_to_it(text):
    try:
        marker = parse(text)
    except DataAtRisk:
        return
    assert marker is None or parse(marker.encode()) == marker


@pytest.mark.parametrize("incarnation", ["", "a:b", "x" * 250, "ü"])
def test_an_incarnation_that_cannot_be_read_back_breaks_inv_marker(incarnation):
    with pytest.raises(InvariantViolation, match="INV-MARKER"):
        Marker(Incarnation(incarnation), CommitEpoch(1)).encode()


def held(attempts: int) -> Marker:
    return Marker(OWNER, CommitEpoch(4), attempts=attempts)


def test_an_owner_lost_without_progress_counts_as_an_attempt_up_to_probation():
    counts = [claim_attempts(held(each), Offset(7), Offset(7)) for each in range(5)]
    assert counts == [1, PROBATION_ATTEMPTS, PROBATION_ATTEMPTS, 3, 4]


def test_a_released_partition_keeps_its_count_and_another_offset_clears_it():
    released = Marker(OWNER, CommitEpoch(4), released=Handover.RELEASED, attempts=1)
    assert claim_attempts(released, Offset(7), Offset(7)) == 1
    assert claim_attempts(held(3), Offset(7), Offset(8)) == 0
    assert claim_attempts(None, None, Offset(0)) == 0


def test_progress_clears_the_count_and_a_noted_attempt_is_above_probation():
    assert commit_attempts(3, moved=True, noted=False) == 0
    assert commit_attempts(2, moved=False, noted=False) == 2
    noted = [commit_attempts(each, moved=False, noted=True) for each in (0, 1, 2, 3)]
    assert [noted_attempts(each) for each in noted] == [1, 1, 1, 2]
    assert noted_attempts(commit_attempts(9, moved=True, noted=True)) == 1
