"""The protocol's shape: what an implementation must bring, and how its errors are classed."""

from __future__ import annotations

import pytest

from onceflow import errors, sinks
from onceflow.sinks.participant import EncodedRows, FinishOutcome, MarkerRow, Participant, Standing


def test_a_participant_that_lacks_a_method_cannot_be_made():
    class Half(sinks.Participant):
        name = "half"

        def encode(self, value: object) -> EncodedRows:
            return EncodedRows(1, 1, value)

    with pytest.raises(TypeError, match="abstract"):
        Half()
    assert sinks.Participant is Participant


def test_errors_ask_for_the_reaction_that_they_need():
    refused = errors.RowsRefused("duplicate key", culprit=2)
    assert isinstance(refused, errors.RecordError)
    assert refused.culprit == 2
    assert issubclass(errors.ParticipantUnavailable, errors.Unreachable)
    assert errors.ParticipantUnavailable.exit_code == 3
    assert not issubclass(errors.Superseded, errors.Unreachable)
    assert errors.Superseded.exit_code == 1


def test_a_marker_row_tells_the_last_branch_and_whether_more_may_come():
    row = MarkerRow(7, Standing.RAISED)
    assert (row.commit_epoch, row.raised) == (7, "raised")
    assert set(FinishOutcome) == {"done", "missing"}


def test_a_name_that_sinks_does_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = sinks.Nothing
