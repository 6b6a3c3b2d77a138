"""What the main job must come to, computed a second time and in another way.

DuckDB reads the CSV files and groups them in SQL. Rules of this file: it shares no code with the
application or with the reading of its input (``data.py``), so that a mistake would have to be made
twice to go unnoticed.
"""

from __future__ import annotations

import tempfile
import zipfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from onceflow.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from duckdb import DuckDBPyConnection

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Truth:
    """The results of a correct run.

    Fields:
        hourly: (route, hour) -> departures, minutes of delay, longest delay. A route is
            ``EWR-UA``; an hour counts from 1970 UTC.
        by_weather: (``EWR-UA fair``, hour) -> the same.
        never_departed: route -> flights.
        aircraft: tail number -> flights, miles, cancelled.
        reports: flight's number -> weather, delay or None.
    """

    hourly: dict[tuple[str, int], Row] = field(default_factory=dict[tuple[str, int], Row])
    by_weather: dict[tuple[str, int], Row] = field(default_factory=dict[tuple[str, int], Row])
    never_departed: dict[str, int] = field(default_factory=dict[str, int])
    aircraft: dict[str, Row] = field(default_factory=dict[str, Row])
    reports: dict[int, Row] = field(default_factory=dict[int, Row])


_FLIGHTS = """
CREATE TABLE flights AS
SELECT row_number() OVER () - 1 AS id,
       origin || '-' || carrier AS route,
       CAST(epoch(time_hour) AS BIGINT) // 3600 AS hour,
       origin, distance, dep_delay AS delay,
       coalesce(tailnum, 'no tail number') AS tail
FROM read_csv(?, header = true, nullstr = 'NA', parallel = false)
LIMIT ?
"""

_SKIES = """
CREATE TABLE skies AS
SELECT origin,
       CAST(epoch(time_hour) AS BIGINT) // 3600 AS hour,
       CASE WHEN visib < 3 THEN 'low visibility'
            WHEN precip > 0 THEN 'rain or snow'
            WHEN wind_speed >= 20 THEN 'windy'
            ELSE 'fair' END AS weather
FROM read_csv(?, header = true, nullstr = 'NA')
"""

_JOINED = """
CREATE TABLE joined AS
SELECT id, route, flights.hour AS hour, delay, coalesce(weather, 'no weather') AS weather
FROM flights LEFT JOIN skies ON flights.origin = skies.origin AND flights.hour = skies.hour
"""

_HOURLY = """
SELECT route, hour, count(*), sum(delay)::BIGINT, max(delay)
FROM flights WHERE delay IS NOT NULL GROUP BY route, hour
"""

_BY_WEATHER = """
SELECT route || ' ' || weather, hour, count(*), sum(delay)::BIGINT, max(delay)
FROM joined WHERE delay IS NOT NULL GROUP BY ALL
"""

_NEVER_DEPARTED = "SELECT route, count(*) FROM flights WHERE delay IS NULL GROUP BY route"

_AIRCRAFT = """
SELECT tail, count(delay), coalesce(sum(distance) FILTER (WHERE delay IS NOT NULL), 0)::BIGINT,
       count(*) - count(delay)
FROM flights GROUP BY tail
"""

_REPORTS = "SELECT id, weather, delay FROM joined"


def compute_truth(directory: Path, flights_max: int) -> Truth:
    """Compute the results of the first ``flights_max`` flights of the CSV files.

    Raises:
        ConfigError: DuckDB is not installed; the message names the command.
    """
    try:
        import duckdb  # noqa: PLC0415 - an extra, needed by this computation alone
    except ImportError as error:
        raise ConfigError(
            "DuckDB, which the result is verified with, is not installed; nothing was started. "
            "Install it with \"pip install 'onceflow[demo]'\""
        ) from error
    with tempfile.TemporaryDirectory(prefix="onceflow-truth-") as work, duckdb.connect() as base:
        with zipfile.ZipFile(directory / "flights.csv.zip") as archive:
            flights = archive.extract("flights.csv", work)
        base.execute(_FLIGHTS, [flights, flights_max])
        base.execute(_SKIES, [str(directory / "weather.csv")])
        base.execute(_JOINED)
        return Truth(
            hourly={(row[0], row[1]): row[2:] for row in _rows(base, _HOURLY)},
            by_weather={(row[0], row[1]): row[2:] for row in _rows(base, _BY_WEATHER)},
            never_departed={row[0]: row[1] for row in _rows(base, _NEVER_DEPARTED)},
            aircraft={row[0]: row[1:] for row in _rows(base, _AIRCRAFT)},
            reports={row[0]: row[1:] for row in _rows(base, _REPORTS)},
        )


def _rows(base: DuckDBPyConnection, query: str) -> list[Row]:
    return base.execute(query).fetchall()
