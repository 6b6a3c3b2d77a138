"""The sinks that the agents of an app were given, of one kind, by name.

Rules of this file: what is wrong is said before any record is taken, and nothing is opened here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from faust.types import TopicT

from onceflow.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from faust.types import AppT


class _Named(Protocol):
    """A sink of any kind."""

    name: str


S = TypeVar("S", bound=_Named)


def sinks_by_name(
    app: AppT, sinks_of: Callable[[Any], Iterable[S]]
) -> tuple[dict[str, S], dict[str, set[str]]]:
    """Return the sinks of all agents by name, and by the same names the topics whose rows they get.

    Args:
        app: whose agents are looked at.
        sinks_of: the sinks of an agent that are meant.

    Raises:
        ConfigError: an agent with a sink reads no topic, or two sinks have one name; exit 2.
    """
    found: dict[str, S] = {}
    topics: dict[str, set[str]] = {}
    for agent in cast("Any", app).agents.values():
        for sink in sinks_of(agent):
            if not isinstance(agent.channel, TopicT):
                raise ConfigError(
                    f"Agent {agent.name} has the sink {sink.name}, but reads no topic: without "
                    "offsets there is nothing that its rows could commit with. Nothing was "
                    "consumed. Let it read a topic."
                )
            if found.setdefault(sink.name, sink) is not sink:
                raise ConfigError(
                    f"Two sinks are named {sink.name}, so that what they write could not be told "
                    "apart. Nothing was consumed. Use one sink for both agents, or give one of "
                    "them another name=."
                )
            channel = cast("Any", agent.channel)
            topics.setdefault(sink.name, set()).update(channel.topics)
    return found, topics
