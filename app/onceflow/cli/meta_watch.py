"""Measurements and health of a member over HTTP, as its loop shows them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from onceflow.http.server import AddressOrigin, HttpAddress, HttpServer
from onceflow.observe.member import MemberFacts, MemberView
from onceflow_consensus.limits import KEPT_LOG_ENTRIES

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from onceflow.coordinator.group_machine import GroupMachine
    from onceflow_consensus.server.member import Member


@contextmanager
def serve_http(http: str | None, machine: GroupMachine) -> Generator[Callable[[Member], None]]:
    """Serve what the yielded function is given, on a thread of its own.

    Args:
        http: the address, or None for the default one or the next that is free.
        machine: the member's state machine, whose numbers are shown as well.

    Raises:
        ConfigError: the address is malformed or taken; nothing was started.
    """
    view = MemberView(max_lag_entries=KEPT_LOG_ENTRIES)

    def show(member: Member) -> None:
        status = member.driver.replica.status
        lag_entries = status.commit_index - member.data.applied_index
        numbers = member.metrics() | machine.numbers()
        view.publish(MemberFacts(numbers, status.raft_leader or None, lag_entries))

    address = HttpAddress() if http is None else HttpAddress.parse(http, AddressOrigin.EXPLICIT)
    with HttpServer(address, view, view):
        yield show
