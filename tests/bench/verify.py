"""What must come out, recomputed from what lies in the input topic, and compared with what did.

Every contestant counts and sums per key and window of ten seconds, so every window is compared:
the last output of each must be the count and the sum of its events.
"""

from __future__ import annotations

import orjson
import polars as pl

from bench.topics import read_columns

WINDOW_MS = 10_000
SUM_TOLERANCE = 1e-6
EVENT = {"k": pl.String, "v": pl.Float64, "ts": pl.Int64}
RESULT = {"n": pl.Int64, "sum": pl.Float64, "w": pl.Int64}
TOTALS = {"k": pl.String, "w": pl.Int64, "n": pl.Int64, "sum": pl.Float64}


def windows_of(chunks):
    """Count and sum per key and window of events, given as columns of keys and values."""
    parts = [pl.DataFrame(schema=TOTALS)]
    for _, values in chunks:
        events = pl.read_ndjson(b"\n".join(values), schema=EVENT)
        parts.append(
            events.group_by("k", (pl.col("ts") // WINDOW_MS * WINDOW_MS).alias("w")).agg(
                pl.len().cast(pl.Int64).alias("n"), pl.col("v").sum().alias("sum")
            )
        )
    return pl.concat(parts).group_by("k", "w").agg(pl.col("n").sum(), pl.col("sum").sum())


def last_results(chunks):
    """The last result of each key and window, and how many results there were.

    The key is ``k@w``, or ``k`` with ``w`` in the value.
    """
    parts, count = [pl.DataFrame(schema=TOTALS)], 0
    for keys, values in chunks:
        count += len(keys)
        results = pl.read_ndjson(b"\n".join(values), schema=RESULT)
        name = pl.Series("name", [key.decode() for key in keys]).str.splitn("@", 2)
        fields = name.struct.rename_fields(["k", "at"]).struct.unnest()
        rows = pl.concat([fields, results], how="horizontal").select(
            "k", pl.coalesce("w", pl.col("at").cast(pl.Int64)).alias("w"), "n", "sum"
        )
        parts.append(rows.group_by("k", "w", maintain_order=True).last())
    return pl.concat(parts).group_by("k", "w", maintain_order=True).last(), count


def last_counts(chunks):
    """The last count of each key in the changelog of a table without windows."""
    counts = {}
    for keys, values in chunks:
        for key, value in zip(keys, values, strict=True):
            counts[orjson.loads(key)] = orjson.loads(value)
    return pl.DataFrame({"k": list(counts), "n": list(counts.values())})


def wrong_rows(truth, seen, on):
    """How many rows of ``seen`` are missing, too many, or not as in ``truth``."""
    both = truth.join(seen, on=on, how="full", suffix="_seen", coalesce=True)
    differs = pl.col("n").ne_missing(pl.col("n_seen"))
    if "sum" in seen.columns:
        distance = (pl.col("sum") - pl.col("sum_seen")).abs()
        allowed = SUM_TOLERANCE * pl.max_horizontal(1.0, pl.col("sum").abs())
        differs |= (distance > allowed).fill_null(value=True)
    return both.filter(differs).height


class Truth:
    """The windows of each input topic, computed once per topic."""

    def __init__(self, bootstrap):
        self._bootstrap = bootstrap
        self._windows = {}

    def windows(self, topic):
        """Count and sum per key and window of the topic's events."""
        if topic not in self._windows:
            self._windows[topic] = windows_of(read_columns(self._bootstrap, topic))
        return self._windows[topic]

    def compare_results(self, topic, output):
        """Compare per-window results; returns what goes into the run's line."""
        results, count = last_results(read_columns(self._bootstrap, output))
        return self._verdict(self.windows(topic), results, ["k", "w"], count)

    def compare_copies(self, topic, output):
        """Compare copies of the events: the same windows must come of them."""
        copies = windows_of(read_columns(self._bootstrap, output))
        return self._verdict(self.windows(topic), copies, ["k", "w"], int(copies["n"].sum()))

    def compare_counts(self, topic, changelog):
        """Compare a table's counts per key, read from its changelog."""
        expected = self.windows(topic).group_by("k").agg(pl.col("n").sum())
        chunks = list(read_columns(self._bootstrap, changelog))
        return self._verdict(expected, last_counts(chunks), ["k"], sum(len(k) for k, _ in chunks))

    @staticmethod
    def _verdict(expected, seen, on, outputs):
        wrong = wrong_rows(expected, seen, on)
        return {"verified": wrong == 0, "rows": expected.height, "wrong": wrong, "outputs": outputs}
