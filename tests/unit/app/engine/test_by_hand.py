"""What the evidence about a transaction says, and what is refused because of it."""

from __future__ import annotations

import pytest

from onceflow.decisions.marker import Marker
from onceflow.engine.by_hand import Evidence, Fencing, Verdict, refuse_contradiction
from onceflow.errors import OnceflowError
from onceflow.ids import BranchId, CommitEpoch, Incarnation, Partition
from onceflow.sinks.participant import MarkerRow, Standing

OWN = Incarnation("w")
BRANCH = BranchId(OWN, CommitEpoch(7))


def evidence(*, last=6, prepared=("pg",), row=None, fencing=Fencing.FENCE):
    marker = Marker(OWN, CommitEpoch(9), CommitEpoch(last))
    rows = {"pg": None if row is None else MarkerRow(CommitEpoch(row), Standing.ACTIVE)}
    markers = {Partition("t", 0): marker}
    return Evidence(BRANCH, markers, frozenset(prepared), rows, frozenset(), fencing)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (evidence(last=7), Verdict.COMMIT),
        (evidence(last=7, fencing=Fencing.LOOK_ONLY), Verdict.COMMIT),
        (evidence(last=7, prepared=()), Verdict.COMMIT),
        (evidence(row=7), Verdict.COMMIT),
        (evidence(), Verdict.ABORT),
        (evidence(last=8, row=8), Verdict.ABORT),
        (evidence(row=6), Verdict.ABORT),
        (evidence(fencing=Fencing.LOOK_ONLY), Verdict.UNDECIDED),
        (evidence(prepared=()), Verdict.NOTHING_LEFT),
    ],
)
def test_presence_is_proof_and_absence_only_after_a_fence(found, verdict):
    """INV-2PC-3, for people."""
    assert found.verdict is verdict


def test_what_contradicts_the_evidence_is_refused_with_the_reason():
    refuse_contradiction(evidence(last=7), Verdict.COMMIT)
    refuse_contradiction(evidence(), Verdict.ABORT)
    with pytest.raises(OnceflowError, match=r"the marker of t\[0\] names it"):
        refuse_contradiction(evidence(last=7), Verdict.ABORT)
    with pytest.raises(OnceflowError, match="the marker row of pg"):
        refuse_contradiction(evidence(row=7), Verdict.ABORT)
    with pytest.raises(OnceflowError, match="says abort, not commit"):
        refuse_contradiction(evidence(), Verdict.COMMIT)
