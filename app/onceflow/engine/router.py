"""The router of web requests to workers: refused, because nobody tells where a key is.

Faust ships each worker's URL and tables with its own group protocol; here Kafka's protocol assigns
partitions, which carries none of that. An empty or stale answer would send requests astray. Views
that ask answer 501, with the refusal as JSON.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NoReturn

from faust.app.router import Router as FaustRouter
from faust.web.exceptions import WebError

from onceflow.errors import ConfigError

if TYPE_CHECKING:
    from yarl import URL


class NotRouted(ConfigError, WebError):  # noqa: N818 - named like the other errors
    """The workers do not know of each other who has a key. Reaction: as the message says."""

    code = HTTPStatus.NOT_IMPLEMENTED

    def __init__(self, message: str) -> None:
        Exception.__init__(self, message)
        self.detail = message
        self.extra_context = {}


class Router(FaustRouter):
    """A router whose every question is answered with what to do instead.

    Raises (from each method): NotRouted, a `ConfigError`.
    """

    def key_store(self, table_name: str, key: Any) -> URL:
        """Refuse: where a key's table partition is."""
        del key
        _refuse(f"the worker that has a key of table {table_name}")

    def external_topic_key_store(self, topic: Any, key: Any) -> URL:
        """Refuse: who processes a key of a topic."""
        del key
        _refuse(f"the worker that reads a key of {topic}")

    def table_metadata(self, table_name: str) -> Any:
        """Refuse: where a table's partitions are."""
        _refuse(f"the workers of table {table_name}")

    def tables_metadata(self) -> Any:
        """Refuse: where all tables' partitions are."""
        _refuse("the workers of the tables")

    def external_topics_metadata(self) -> Any:
        """Refuse: who reads which partitions."""
        _refuse("the workers of the topics")


def _refuse(what: str) -> NoReturn:
    raise NotRouted(
        f"app.router and @app.table_route were asked for {what}, which workers here do not know "
        "of each other. Nothing was sent or changed. Write what has to be looked up to a topic or "
        "a database from the agent, or use a GlobalTable, which every worker has."
    )
