"""Names of branches in foreign systems, and of the participants in them.

A gid names one branch of one epoch of one participant: ``of1.`` + scope + ``.`` + incarnation +
``.`` + commit epoch + ``.`` + name of the participant. It fits the 64 bytes of MySQL's
XA identifiers; PostgreSQL takes 199. What is not read back exactly is not ours and is never
touched: several applications may share a server, and people prepare transactions by hand.

Must never import a driver of a database, and does no I/O.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from onceflow.errors import ConfigError, invariant
from onceflow.ids import BranchId, CommitEpoch, Incarnation
from onceflow.limits import GID_BYTES_MAX

_VERSION: Final = "of1"
"""Grows when a field changes its meaning; another version's branches are not ours to finish."""

_NAME: Final = re.compile(r"[a-z0-9_]{1,16}")

_FORM: Final = re.compile(
    r"of1\.(?P<scope>[0-9a-f]{16})\.(?P<incarnation>[A-Za-z0-9_-]{1,64})"
    r"\.(?P<commit_epoch>[1-9][0-9]{0,18})\.(?P<name>[a-z0-9_]{1,16})"
)


@dataclass(frozen=True, slots=True)
class Scope:
    """Which application on which Kafka cluster writes: 16 hexadecimal digits.

    Rows, branches and marker rows of another scope belong to somebody else, also when they lie in
    the same database.
    """

    scope: str

    @classmethod
    def of(cls, cluster_id: str, app_id: str) -> Scope:
        """The scope of an application.

        Args:
            cluster_id: as Kafka tells it; it changes when a cluster is made anew.
            app_id: the application's id, which is also its consumer group.
        """
        digest = hashlib.sha256(f"{len(cluster_id)}:{cluster_id}{app_id}".encode())
        return cls(digest.hexdigest()[:16])

    @property
    def gid_prefix(self) -> str:
        """What the gids of all our branches begin with, the last dot included."""
        return f"{_VERSION}.{self.scope}."


def checked_name(name: str) -> str:
    """Give the name back if it may name a participant.

    Raises:
        ConfigError: it is not 1 to 16 lower-case letters, digits and underscores.
    """
    if _NAME.fullmatch(name) is None:
        raise ConfigError(
            f"{name!r} cannot name a sink: it becomes a part of transaction identifiers, which are "
            f"short. Use 1 to 16 lower-case letters, digits and underscores."
        )
    return name


def derived_name(kind: str, *identity: str) -> str:
    """The default name of a participant, the same in every process.

    Args:
        kind: a short word for the system, such as ``pg``.
        identity: what tells two sinks of an application apart, such as the table; no secrets, and
            nothing that changes when a server moves, because branches are found by the name.
    """
    digest = hashlib.sha256("\0".join(identity).encode()).hexdigest()
    return checked_name(f"{kind}_{digest[:8]}")


def gid_of(scope: Scope, branch: BranchId, name: str) -> str:
    """The name of a branch in the participant ``name``: ASCII, at most 64 bytes.

    Raises:
        InvariantViolation: INV-GID, a branch that would not be read back as it is.
    """
    gid = f"{scope.gid_prefix}{branch.incarnation}.{branch.commit_epoch}.{name}"
    invariant(
        len(gid.encode()) <= GID_BYTES_MAX and _FORM.fullmatch(gid) is not None,
        "INV-GID: the name of a branch fits its bound and is read back as it was written",
        gid=gid,
    )
    return gid


def branch_of(gid: str, scope: Scope, name: str) -> BranchId | None:
    """Which branch of the participant ``name`` a gid names; None: it is not ours, leave it."""
    found = _FORM.fullmatch(gid)
    if found is None or found["scope"] != scope.scope or found["name"] != name:
        return None
    return BranchId(Incarnation(found["incarnation"]), CommitEpoch(int(found["commit_epoch"])))
