"""Turns of load: writes, linearizable and stale reads at a number of outstanding calls.

Each turn has a group of its own, that of ours and that of etcd next to each other in time. What was
acknowledged must have taken effect, once: ours by the count of writes that a version is, etcd by
its revision. Reads are compared with what was written.
"""

from __future__ import annotations

import array
import functools
import resource
from contextlib import AsyncExitStack

import uvloop

from bench_consensus.etcd import EtcdGroup, put_frame, range_frame
from bench_consensus.group import Acts, running, settle, status_of, write_count
from bench_consensus.measure import KEY, VALUE, measure
from bench_consensus.reckoning import latency_row
from bench_consensus.usage import Meter

SLICE_S = 10.0
KEPT_LATENCIES = 500_000
"""Of a long load, latencies are thinned out so that this process stays small."""

PATHS = {"write": "Put", "read": "Range", "stale": "Range"}


async def _sliced(act, outstanding, seconds):
    """Load in slices; count, wall time, and latencies of which every so many are kept."""
    count, wall_s, kept = 0, 0.0, array.array("d")
    while wall_s < seconds:
        taken_s, part = await measure(act, outstanding, min(SLICE_S, seconds - wall_s))
        count, wall_s = count + len(part), wall_s + taken_s
        kept.extend(part[:: 1 + int(len(part) * seconds / SLICE_S / KEPT_LATENCIES)])
    return count, wall_s, sorted(kept)


async def _ours(group, kind, outstanding, clients, size):
    async with AsyncExitStack() as stack:
        all_clients = [await stack.enter_async_context(group.client()) for _ in range(clients)]
        client = all_clients[0]
        before = await settle(group, client)
        acts = Acts(*all_clients)
        await acts.expect()
        act = getattr(acts, kind)
        await measure(act, outstanding, size.warm_s)
        writes_before = await write_count(client)
        await acts.expect()
        meter = Meter(process.pid for process in group.processes.values())
        count, wall_s, latencies = await _sliced(act, outstanding, size.seconds)
        row = latency_row(latencies, wall_s) | meter.row(count)
        row |= {"count": count, "per_s": round(count / wall_s)}
        # The write of ``expect`` and this one are not of the load.
        took_effect = await write_count(client) - writes_before - 2
        await acts.expect()
        wanted = count if kind == "write" else 0
        return row | {
            "term_changes": (await status_of(client))["term"] - before["term"],
            "took_effect": took_effect,
            "wrong": acts.wrong,
            "verified": took_effect == wanted and acts.wrong == 0,
        }


def ours(directory, size, kind, outstanding, clients=1):
    """Take a turn of ours; returns its line."""
    with running(directory, size.engine) as group:
        return uvloop.run(_ours(group, kind, outstanding, clients, size))


def etcd(directory, size, kind, outstanding, clients=1):
    """Take a turn of etcd; returns its line."""
    with EtcdGroup(size.programs(), directory) as group:
        number, term = group.settle(), group.term()
        load = functools.partial(group.load, number)
        frame = range_frame(KEY, serializable=kind == "stale")
        if kind == "write":
            frame = put_frame(KEY, VALUE)
        else:
            load(put_frame(KEY, VALUE), "Put", 1, 1)
        path = PATHS[kind]
        each = load(frame, path, 1, 1).data_bytes
        # How many there are to be is known only after a while.
        tried = load(frame, path, 200 + 2 * outstanding, outstanding, clients)
        warm_count = int(tried.succeeded / tried.wall_s * size.warm_s)
        warm = load(frame, path, warm_count, outstanding, clients)
        count = max(outstanding, int(warm.succeeded / warm.wall_s * size.seconds))
        revision = group.revision(number)
        pids = [process.pid for process in group.processes.values()]
        meter = Meter(pids, resource.RUSAGE_CHILDREN)
        loaded = load(frame, path, count, outstanding, clients)
        row = latency_row(loaded.latencies_s, loaded.wall_s) | meter.row(count)
        took_effect = group.revision(number) - revision
        whole = loaded.succeeded == count and took_effect == (count if kind == "write" else 0)
        if kind != "write":
            # An answer without the value, or an error of gRPC, is shorter.
            whole = whole and loaded.data_bytes == count * each > count * len(VALUE)
        return row | {
            "term_changes": group.term() - term,
            "took_effect": took_effect,
            "verified": whole,
        }
