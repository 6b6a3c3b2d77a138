"""Names of branches: read back exactly, bounded, and nobody else's are taken for ours."""

from __future__ import annotations

import secrets

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onceflow.errors import ConfigError, InvariantViolation
from onceflow.ids import BranchId, CommitEpoch, Incarnation
from onceflow.limits import GID_BYTES_MAX
from onceflow.sinks.gid import Scope, branch_of, checked_name, derived_name, gid_of

SCOPE = Scope.of("cluster-1", "app")


def branch(incarnation: str, commit_epoch: int) -> BranchId:
    return BranchId(Incarnation(incarnation), CommitEpoch(commit_epoch))


@settings(deadline=None)
@given(
    st.binary(min_size=9, max_size=9),
    st.integers(min_value=1, max_value=10**13 - 1),
    st.from_regex(r"[a-z0-9_]{1,16}", fullmatch=True),
)
def test_a_branch_is_read_back_from_its_name(random: bytes, commit_epoch: int, name: str):
    import base64  # noqa: PLC0415 - as secrets.token_urlsafe makes an incarnation

    incarnation = base64.urlsafe_b64encode(random).decode()
    mine = branch(incarnation, commit_epoch)
    gid = gid_of(SCOPE, mine, name)
    assert len(gid.encode()) <= GID_BYTES_MAX
    assert gid.startswith(SCOPE.gid_prefix)
    assert branch_of(gid, SCOPE, name) == mine


@pytest.mark.parametrize(
    ("mine", "name"),
    [
        (branch("w.1", 1), "pg"),
        (branch("w", 0), "pg"),
        (branch("w", 1), "PG"),
        (branch("w", 1), "a" * 17),
        (branch("w" * 40, 1), "pg"),
        (branch("w", 1), "pg\n"),
    ],
)
def test_inv_gid_a_name_that_would_not_be_read_back_is_refused(mine: BranchId, name: str):
    with pytest.raises(InvariantViolation, match="INV-GID"):
        gid_of(SCOPE, mine, name)


def test_other_names_are_not_ours():
    gid = gid_of(SCOPE, branch("w", 7), "pg")
    other = Scope.of("cluster-1", "app2")
    assert branch_of(gid, other, "pg") is None
    assert branch_of(gid, SCOPE, "pg2") is None
    foreign = [
        "",
        "by hand",
        gid + ".x",
        gid + "\n",
        gid.replace("of1", "of2"),
        gid.replace(".7.", ".07."),
    ]
    assert [branch_of(each, SCOPE, "pg") for each in foreign] == [None] * len(foreign)


def test_scopes_differ_by_cluster_and_by_application():
    scopes = {Scope.of(*pair).scope for pair in [("a", "b"), ("a", "c"), ("b", "b"), ("ab", "")]}
    assert len(scopes) == 4
    assert all(len(scope) == 16 for scope in scopes)


def test_a_derived_name_is_the_same_everywhere_and_differs_by_identity():
    assert derived_name("pg", "totals") == derived_name("pg", "totals")
    assert derived_name("pg", "totals") != derived_name("pg", "sums")
    assert derived_name("pg", "a", "b") != derived_name("pg", "ab")
    assert checked_name(derived_name("pg", "totals")).startswith("pg_")


@pytest.mark.parametrize("name", ["", "Totals", "a" * 17, "a.b", "a-b", "ä"])
def test_a_name_that_does_not_fit_is_a_configuration_error(name: str):
    with pytest.raises(ConfigError, match="cannot name a sink"):
        checked_name(name)


def test_branches_are_ordered_by_incarnation_and_epoch():
    unique = secrets.token_urlsafe(9)
    assert branch(unique, 9) < branch(unique, 10)
