"""The main job's input and the truth about it: nothing dropped, times right, both ways agree."""

from __future__ import annotations

import csv
import io
import zipfile
from collections import Counter
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import orjson
import pytest

from onceflow.demo import data
from onceflow.demo.data import (
    DISORDER_S_MAX,
    data_directory,
    in_publication_order,
    read_airlines,
    read_flights,
    read_planes,
    read_weather,
)
from onceflow.demo.publish import flight_records, weather_records
from onceflow.demo.truth import compute_truth
from onceflow.errors import ConfigError

pytestmark = pytest.mark.timeout(180)

FLIGHTS = 336_776
NEVER_DEPARTED = 8_255
WITHOUT_TAIL = 2_512
WITHOUT_WEATHER = 1_556


@pytest.fixture(scope="module")
def flights():
    return read_flights(data_directory())


@pytest.fixture(scope="module")
def weather():
    return read_weather(data_directory())


@pytest.fixture(scope="module")
def truth():
    return compute_truth(data_directory(), FLIGHTS)


def test_every_flight_is_read_and_the_exceptional_ones_are_as_many_as_are_known(flights, weather):
    assert len(flights) == FLIGHTS
    assert sum(each.delay is None for each in flights) == NEVER_DEPARTED
    assert sum(each.tail is None for each in flights) == WITHOUT_TAIL
    observed = {(seen.origin, seen.hour) for seen in weather}
    assert len(observed) == len(weather)
    assert sum((each.origin, each.hour) not in observed for each in flights) == WITHOUT_WEATHER


def test_event_time_is_the_scheduled_departure_in_new_york_as_utc(flights):
    new_york = ZoneInfo("America/New_York")
    archive = zipfile.ZipFile(data_directory() / "flights.csv.zip")
    with archive, archive.open("flights.csv") as file:
        rows = csv.DictReader(io.TextIOWrapper(file, "utf-8"))
        for flight, row in zip(flights, rows, strict=True):
            if flight.id % 997:
                continue
            local = datetime(
                int(row["year"]),
                int(row["month"]),
                int(row["day"]),
                int(row["sched_dep_time"]) // 100,
                int(row["sched_dep_time"]) % 100,
                tzinfo=new_york,
            )
            assert datetime.fromtimestamp(flight.scheduled_s, UTC) == local


def test_aircraft_and_airlines_have_names():
    assert read_airlines(data_directory())["UA"] == "United Air Lines Inc."
    assert read_planes(data_directory())["N102UW"].manufacturer == "AIRBUS INDUSTRIE"


def test_data_that_is_not_installed_is_named_with_the_command(monkeypatch):
    monkeypatch.setattr(data.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="pip install"):
        data_directory()


def test_publication_is_disordered_by_the_seed_alone_and_within_the_bound(flights):
    some = flights[:20_000]
    once = in_publication_order(some, 7)
    assert once == in_publication_order(some, 7)
    assert once != in_publication_order(some, 8)
    assert sorted(each.id for each in once) == [each.id for each in some]
    latest = 0
    behind = 0
    for flight in once:
        latest = max(latest, flight.scheduled_s)
        behind += flight.scheduled_s < latest
        assert latest - flight.scheduled_s <= DISORDER_S_MAX
    assert behind > len(some) // 10


def test_records_carry_key_event_time_and_all_that_the_application_needs(flights, weather):
    (record,) = flight_records(flights[:1])
    assert record.key == b"EWR-UA"
    assert record.timestamp_ms == flights[0].scheduled_s * 1000
    assert orjson.loads(record.value) == {
        "id": 0,
        "hour": flights[0].scheduled_s // 3600,
        "origin": "EWR",
        "carrier": "UA",
        "distance": 1400,
        "tail": "N14228",
        "delay": 2,
    }
    (seen,) = weather_records(weather[:1])
    assert seen.key == f"EWR@{weather[0].hour}".encode()
    assert orjson.loads(seen.value)["visibility"] == 10.0


def test_the_truth_agrees_with_a_plain_count_of_the_rows(truth, flights):
    assert len(truth.reports) == FLIGHTS
    assert sum(truth.never_departed.values()) == NEVER_DEPARTED
    assert truth.aircraft["no tail number"] == (0, 0, WITHOUT_TAIL)
    skies = Counter(weather for weather, _ in truth.reports.values())
    assert skies["no weather"] == WITHOUT_WEATHER
    hourly: dict[tuple[str, int], tuple[int, int, int]] = {}
    for flight in flights:
        if flight.delay is not None:
            key = f"{flight.origin}-{flight.carrier}", flight.hour
            count, minutes, longest = hourly.get(key, (0, 0, flight.delay))
            hourly[key] = count + 1, minutes + flight.delay, max(longest, flight.delay)
    assert truth.hourly == hourly
    departed = sum(row[0] for row in truth.by_weather.values())
    assert departed == FLIGHTS - NEVER_DEPARTED


def test_the_truth_of_a_part_is_about_that_part():
    assert sorted(compute_truth(data_directory(), 500).reports) == list(range(500))
