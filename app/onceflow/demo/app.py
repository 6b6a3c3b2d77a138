"""A year of flights from New York: the main job's application, written as any Faust application.

It counts departures and their delays per route and hour, the same by the weather of the hour, and
what each aircraft flew. Nothing in it deals with failures: that outputs, tables and offsets commit
together is onceflow's part.

Run it by hand with ``onceflow worker onceflow.demo.app:app``.
"""

# Faust's own annotations leave keys and values open, so strict checking would ask for a cast in
# every second line of an application.
# pyright: basic

from __future__ import annotations

import os
from collections.abc import AsyncIterator  # noqa: TC003 - Faust looks at annotations
from datetime import timedelta
from pathlib import Path

import faust

import onceflow
from onceflow.demo.names import HOURLY_TABLE, REPORT_FILES, STATISTICS
from onceflow.sinks import Files, SQLite

app = onceflow.App(
    os.environ.get("ONCEFLOW_DEMO_APP", "flights"),
    broker=os.environ.get("ONCEFLOW_DEMO_BROKER", "onceflow://127.0.0.1:9092"),
    topic_partitions=4,
)

HOUR = timedelta(hours=1)


class Flight(faust.Record, include_metadata=False):
    """One scheduled flight. Its event time, the record's timestamp, is the scheduled departure."""

    id: int
    hour: int
    """The hour of the scheduled departure, in hours since 1970 UTC: what weather is known by."""
    origin: str
    carrier: str
    distance: int
    tail: str | None = None
    delay: int | None = None
    """Minutes; negative if early; None if the flight never departed."""


class Weather(faust.Record, include_metadata=False):
    """What an airport observed in one hour."""

    origin: str
    hour: int
    visibility: float
    precipitation: float
    wind: float | None = None


class Delays(faust.Record, include_metadata=False):
    """Departures and their delays in minutes."""

    departures: int = 0
    minutes: int = 0
    longest: int | None = None

    @property
    def mean(self) -> float:
        """The mean delay; of at least one departure."""
        return self.minutes / self.departures

    def after(self, delay: int) -> Delays:
        """These delays and one more."""
        longest = delay if self.longest is None else max(self.longest, delay)
        return Delays(self.departures + 1, self.minutes + delay, longest)


class Aircraft(faust.Record, include_metadata=False):
    """What one aircraft flew."""

    flights: int = 0
    miles: int = 0
    cancelled: int = 0


class Report(faust.Record, include_metadata=False):
    """What is told about every flight: one report for each, no more and no less."""

    id: int
    weather: str
    delay: int | None = None


flights_topic = app.topic("flights", key_type=str, value_type=Flight)
weather_topic = app.topic("weather", key_type=str, value_type=Weather)
reports_topic = app.topic("reports", key_type=str, value_type=Report)

hourly = app.Table("hourly", default=Delays, value_type=Delays).tumbling(HOUR)
by_weather = app.Table("by-weather", default=Delays, value_type=Delays).tumbling(HOUR)
never_departed = app.Table("never-departed", default=int)
aircraft = app.Table("aircraft", default=Aircraft, value_type=Aircraft)
skies = app.GlobalTable("skies")


SINKS = Path(os.environ.get("ONCEFLOW_DEMO_SINKS", "."))

hourly_rows = SQLite(
    SINKS / STATISTICS,
    table=HOURLY_TABLE,
    key=["route", "hour"],
    create_table={
        "route": "TEXT",
        "hour": "INTEGER",
        "departures": "INTEGER",
        "minutes": "INTEGER",
        "longest": "INTEGER",
    },
    name="hourly",
)
report_files = Files(SINKS / REPORT_FILES, roll_interval_s=5.0, location="local", name="reports")


def describe(seen: Weather) -> str:
    """Name the weather by what delays flights most."""
    if seen.visibility < 3:  # noqa: PLR2004 - miles: below them aircraft fly by instruments
        return "low visibility"
    if seen.precipitation > 0:
        return "rain or snow"
    if seen.wind is not None and seen.wind >= 20:  # noqa: PLR2004 - miles per hour
        return "windy"
    return "fair"


def tail_of(flight: Flight) -> str:
    """Name the aircraft, or the bucket of flights whose aircraft is not known."""
    return flight.tail or "no tail number"


@app.agent(weather_topic, name="remember-weather")
async def remember_weather(observations: faust.StreamT[Weather]) -> None:
    """Keep the weather of every airport and hour for all workers to look up."""
    async for seen in observations:
        skies[f"{seen.origin}@{seen.hour}"] = describe(seen)


@app.agent(flights_topic, name="delays-per-hour", sink=[hourly_rows])
async def delays_per_hour(flights: faust.StreamT[Flight]) -> AsyncIterator[dict[str, object]]:
    """Count departures and delays per route, an origin and a carrier, in windows of an hour.

    The counts are rows of a SQLite file as well, where the last one of a route and hour stands.
    """
    async for flight in flights:
        route = f"{flight.origin}-{flight.carrier}"
        if flight.delay is None:
            never_departed[route] += 1
        else:
            counted = hourly[route].current().after(flight.delay)
            hourly[route] = counted
            yield {
                "route": route,
                "hour": flight.hour,
                "departures": counted.departures,
                "minutes": counted.minutes,
                "longest": counted.longest,
            }


@app.agent(flights_topic, name="delays-by-weather", sink=[report_files])
async def delays_by_weather(flights: faust.StreamT[Flight]) -> AsyncIterator[dict[str, object]]:
    """The same joined with the weather of the hour; and report every flight, to Kafka and files."""
    async for flight in flights:
        weather = skies.get(f"{flight.origin}@{flight.hour}", "no weather")
        if flight.delay is not None:
            route = f"{flight.origin}-{flight.carrier} {weather}"
            by_weather[route] = by_weather[route].current().after(flight.delay)
        report = Report(flight.id, weather, flight.delay)
        await reports_topic.send(key=str(flight.id), value=report)
        yield {"id": flight.id, "weather": weather, "delay": flight.delay}


@app.agent(flights_topic, name="aircraft-totals")
async def aircraft_totals(flights: faust.StreamT[Flight]) -> None:
    """Sum up what each aircraft flew, wherever its flights departed from."""
    async for flight in flights.group_by(tail_of, name="tail"):
        tail = tail_of(flight)
        total = aircraft[tail]
        if flight.delay is None:
            aircraft[tail] = Aircraft(total.flights, total.miles, total.cancelled + 1)
        else:
            miles = total.miles + flight.distance
            aircraft[tail] = Aircraft(total.flights + 1, miles, total.cancelled)
