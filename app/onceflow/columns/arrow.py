"""The one place that imports pyarrow; the rest of the room takes ``pa`` and ``pc`` from here.

pyarrow ships no types, so its modules are cast to ``Any`` once, here, and the names of its classes
that stand in signatures are aliases. What is decided here: Arrow runs on the calling thread. A
worker shares its cores with other workers, and its epochs are far too small (some 10,000 records)
for a pool of threads to pay: the pool only burns processor time.

Must never import Faust, Kafka or RocksDB.
"""

from __future__ import annotations

from typing import Any, TypeAlias, cast

import pyarrow  # noqa: ICN001 - "pa" is the cast below  # pyright: ignore[reportMissingTypeStubs]
import pyarrow.compute  # pyright: ignore[reportMissingTypeStubs]

pa: Any = cast("Any", pyarrow)
pc: Any = cast("Any", pyarrow.compute)

ArrowArray: TypeAlias = Any
"""A ``pyarrow.Array``."""

ArrowBatch: TypeAlias = Any
"""A ``pyarrow.RecordBatch``."""

ArrowField: TypeAlias = Any
"""A ``pyarrow.Field``."""

ArrowSchema: TypeAlias = Any
"""A ``pyarrow.Schema``."""

ArrowTable: TypeAlias = Any
"""A ``pyarrow.Table``."""

ArrowType: TypeAlias = Any
"""A ``pyarrow.DataType``."""

ArrowError: type[Exception] = pa.ArrowException
"""Root of what pyarrow raises about data."""


def load_whole() -> None:
    """Let pyarrow load what it otherwise loads in the midst of records, for a second or more.

    Its first array loads pandas, where that is installed, and its first group the readers of files.
    """
    pa.table({"key": pa.array([0])}).group_by("key").aggregate([])
