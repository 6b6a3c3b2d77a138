"""Small apps with two-phase sinks, for tests over a log in memory."""

from __future__ import annotations

import asyncio

import onceflow
from onceflow.engine.runtime import runtime_of


def new_app(**options):
    app = onceflow.App("sinks", topic_partitions=2, **options)
    return app, app.topic("words", key_type=str, value_type=str)


def copy_into(app, words, *sinks):
    """Let an agent of the app make a row of each word, in all of these sinks."""

    @app.agent(words, sink=list(sinks))
    async def copy(stream):
        async for word in stream:
            yield {"word": word}

    return copy


def rows_of(words):
    return [{"word": word} for word in words]


async def feed(driver, *words, partition=0):
    for word in words:
        await driver.feed("words", word, partition=partition)


def sample(app, name, **labels):
    text = runtime_of(app).metrics.exposition().decode()
    wanted = name + (
        "{" + ",".join(f'{k}="{v}"' for k, v in labels.items()) + "}" if labels else ""
    )
    return next(
        float(line.split()[-1]) for line in text.splitlines() if line.startswith(wanted + " ")
    )


async def until(reached):
    async with asyncio.timeout(20):
        while not reached():  # noqa: ASYNC110 - what is waited for is written by a thread
            await asyncio.sleep(0.01)
