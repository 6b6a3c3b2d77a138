"""How ``onceflow txn`` reaches the record, and what an application's sinks and Kafka show.

The record's group is named by ``--endpoints``, by the settings, or by the application; else it is
the one that a running worker of the application hosts. Imports of engine and group stand in the
functions, so that ``--help`` is quick.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from onceflow.cli.effective import effective_settings
from onceflow.errors import ConfigError, Unreachable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine, Generator

    from onceflow.coordinator.client import CoordinatorClient
    from onceflow.engine.runtime import Runtime
    from onceflow.settings import Settings

Result = TypeVar("Result")

_BEYOND_S = 5.0
"""What a whole command may take longer than one call: closing threads and connections."""


@dataclass(frozen=True, slots=True)
class Reach:
    """How a command reaches the record."""

    endpoints: Annotated[
        str | None,
        typer.Option(
            "--endpoints",
            help="Client addresses of the group that keeps the record, host:port with commas "
            "between. By default the setting coordinator, or the group that a running worker of "
            "the application hosts.",
        ),
    ] = None
    cluster: Annotated[str | None, typer.Option("--cluster", help="Name of the group.")] = None
    tls: Annotated[
        str | None, typer.Option("--tls", help="Folder with tls.crt, tls.key and ca.crt.")
    ] = None
    token_file: Annotated[
        str | None, typer.Option("--token-file", help="File with the token that clients show.")
    ] = None
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds to wait for answers.")
    ] = 30.0

    @contextmanager
    def group(self, app: Any) -> Generator[Settings]:
        """Yield settings that name the group which keeps the record.

        The group that an application's workers host is hosted here meanwhile if none of them runs.

        Args:
            app: the application, None if none was given.

        Raises:
            ConfigError: nothing names a group, or a setting is wrong.
        """
        settings = effective_settings(
            coordinator=self.endpoints,
            coordinator_cluster=self.cluster,
            coordinator_tls=self.tls,
            coordinator_token_file=self.token_file,
        )
        if settings.coordinator is not None:
            yield settings
        elif app is not None:
            with _group_of(app) as settings:
                yield settings
        else:
            raise ConfigError(
                "It is not known which group keeps the record. Nothing was done. Give --endpoints "
                "or the setting coordinator (ONCEFLOW_COORDINATOR), or name the application with "
                "--app."
            )

    def run(self, asked: Coroutine[None, None, Result]) -> Result:
        """Run a command in a loop of its own, for a bounded time.

        Raises:
            Unreachable: it took longer.
        """

        async def bounded() -> Result:
            async with asyncio.timeout(self.timeout_s + _BEYOND_S):
                return await asked

        try:
            return asyncio.run(bounded())
        except TimeoutError:
            raise Unreachable(
                f"Kafka, a sink or the group did not answer within {self.timeout_s:g} s. What was "
                "asked may be done in part; repeating it is safe. Check them, or raise --timeout."
            ) from None


@contextmanager
def _group_of(app: Any) -> Generator[Settings]:
    """Yield settings with the group that an app names, or that is hosted for it."""
    from onceflow.engine.hosted import group_directory, use_group  # noqa: PLC0415 - slow
    from onceflow.engine.runtime import runtime_of  # noqa: PLC0415
    from onceflow.supervisor.hosting import (  # noqa: PLC0415
        hosted_group,
        in_directory,
        present_address,
    )

    runtime = runtime_of(app)
    if runtime.settings.coordinator is not None:
        yield runtime.settings
        return
    directory = group_directory(app)
    present = present_address(directory)
    with hosted_group(in_directory(directory)) if present is None else nullcontext(present) as at:
        use_group(app, at)
        yield runtime.settings


def found_app(app_path: str | None) -> Any:
    """Import an application; None for none.

    Raises:
        ConfigError: it cannot be imported.
    """
    from onceflow.engine.worker import find_app  # noqa: PLC0415 - slow

    return None if app_path is None else find_app(app_path)


@asynccontextmanager
async def record_of(settings: Settings, timeout_s: float) -> AsyncGenerator[CoordinatorClient]:
    """Open a client of the record, each call of which takes ``timeout_s`` at most."""
    from onceflow.coordinator.client import CoordinatorClient  # noqa: PLC0415 - quick --help
    from onceflow.coordinator.reaching import client_options  # noqa: PLC0415

    options = client_options(settings, timeout_s)
    if options is None:
        raise ConfigError("No group is named. Nothing was done. Give --endpoints.")
    async with CoordinatorClient(options) as client:
        yield client


@asynccontextmanager
async def sinks_of(app: Any) -> AsyncGenerator[Runtime]:
    """Open the sinks of an application and clients of its Kafka, without consuming anything."""
    from onceflow.engine.by_hand import open_sinks  # noqa: PLC0415 - slow
    from onceflow.engine.runtime import runtime_of  # noqa: PLC0415

    runtime = runtime_of(app)
    try:
        await open_sinks(runtime)
        yield runtime
    finally:
        await runtime.participants.stop()
        await runtime.clients.stop()
