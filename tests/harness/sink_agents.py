"""What the agents of the sink applications do: rows that show lost and doubled records.

A row tells the state of its key after its record, which a record less or twice would change.
"""

from __future__ import annotations


async def counted(stream, totals):
    """A row for each record: where it stands, its key, and how many and how much the key has."""
    async for event in stream.events():
        value, message = event.value, event.message
        key = value["k"]
        count, total = totals[key] or (0, 0)
        count, total = count + 1, total + value["v"]
        totals[key] = [count, total]
        yield {"p": message.partition, "o": message.offset, "k": key, "c": count, "t": total}


async def last_seen(stream, seen):
    """For each record the row of its key, which replaces the one before."""
    async for value in stream:
        seen[value["k"]] += 1
        yield {"k": value["k"], "c": seen[value["k"]]}
