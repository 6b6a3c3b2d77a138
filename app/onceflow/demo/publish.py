"""Writes the main job's input to Kafka: encoded, keyed and stamped with event time.

Rules of this file: every record is acknowledged by the broker before publishing counts as done,
and the producer is idempotent, so that each is there once.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from onceflow.demo.names import FLIGHTS, WEATHER
from onceflow.kafka.errors import ProducerFull
from onceflow.kafka.plain import PlainProducer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from onceflow.demo.data import FlightRow, WeatherRow
    from onceflow.kafka.configuration import ClientConfig
    from onceflow.kafka.plain import Delivery

_PART_RECORDS = 5_000
"""Records that are sent before their acknowledgements are awaited; the loop runs in between."""

_FLUSH_S = 60.0
"""Bound on the last acknowledgements; they take milliseconds."""

_FULL_PAUSE_S = 0.05
"""Wait for the producer's queue to drain; it empties within tenths of a second."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record to publish: key and value encoded, event time in milliseconds since 1970."""

    key: bytes
    value: bytes
    timestamp_ms: int


def flight_records(flights: Iterable[FlightRow]) -> Iterator[Record]:
    """Encode flights, keyed by route, so that a route's windows are in one partition."""
    for flight in flights:
        fields = {
            "id": flight.id,
            "hour": flight.hour,
            "origin": flight.origin,
            "carrier": flight.carrier,
            "distance": flight.distance,
            "tail": flight.tail,
            "delay": flight.delay,
        }
        key = f"{flight.origin}-{flight.carrier}".encode()
        yield Record(key, orjson.dumps(fields), flight.scheduled_s * 1000)


def weather_records(weather: Iterable[WeatherRow]) -> Iterator[Record]:
    """Encode observations, keyed by airport and hour."""
    for seen in weather:
        key = f"{seen.origin}@{seen.hour}".encode()
        yield Record(key, orjson.dumps(seen), seen.hour * 3_600_000)


async def publish_flights(config: ClientConfig, flights: Iterable[FlightRow]) -> None:
    """Publish flights in the order given.

    Raises:
        Unreachable: the broker does not acknowledge.
    """
    await _publish(config, FLIGHTS, flight_records(flights))


async def publish_weather(config: ClientConfig, weather: Iterable[WeatherRow]) -> None:
    """Publish observations.

    Raises:
        Unreachable: the broker does not acknowledge.
    """
    await _publish(config, WEATHER, weather_records(weather))


async def _publish(config: ClientConfig, topic: str, records: Iterable[Record]) -> None:
    producer = PlainProducer(config, asyncio.get_running_loop())
    waiting: list[asyncio.Future[Delivery]] = []
    try:
        for record in records:
            waiting.append(await _send(producer, topic, record))
            if len(waiting) >= _PART_RECORDS:
                await asyncio.gather(*waiting)
                waiting.clear()
        await producer.flush(_FLUSH_S)
        await asyncio.gather(*waiting)
    finally:
        await producer.stop()


async def _send(producer: PlainProducer, topic: str, record: Record) -> asyncio.Future[Delivery]:
    while True:
        try:
            future = producer.send(
                topic, record.value, record.key, timestamp_ms=record.timestamp_ms
            )
        except ProducerFull:
            await asyncio.sleep(_FULL_PAUSE_S)
        else:
            return future
