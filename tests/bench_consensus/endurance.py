"""Turns that take long: memory over many commands, and the recovery of a member with much state."""

from __future__ import annotations

import asyncio
import random
import time

import uvloop

from bench_consensus.group import lost_of, running, settle, write_count, write_keys
from bench_consensus.measure import VALUE
from bench_consensus.reckoning import growth
from bench_consensus.usage import disk_mb, rss_mb
from onceflow_consensus.transport.requests import Consistency

OUTSTANDING = 1_000
KEYS = 1_000
SAMPLES = 20
READ_BACK = 1_000


async def _memory(group, size):
    resident, disk = [], []
    async with group.client() as client:
        before = await settle(group, client)
        begun = await write_count(client)
        began = time.perf_counter()
        each = size.commands // SAMPLES
        for _ in range(SAMPLES):
            part = (number % KEYS for number in range(each))
            await write_keys(client, part, OUTSTANDING, [])
            resident.append(rss_mb(process.pid for process in group.processes.values()))
            disk.append(disk_mb(group.directory / str(number) for number in (1, 2, 3)))
        wall_s = time.perf_counter() - began
        took_effect = await write_count(client) - begun - 1
        status = await settle(group, client)
        lost = await lost_of(client, range(min(KEYS, each)))
    return {
        "commands": each * SAMPLES,
        "rss_samples_mb": resident,
        "rss_growth": growth(resident),
        "rss_mb": max(resident),
        "disk_mb": max(disk),
        "per_s": round(each * SAMPLES / wall_s),
        "wall_s": round(wall_s),
        "term_changes": status["term"] - before["term"],
        "snapshots": status["metrics"]["snapshots_taken_total"],
        "lost": lost,
        "verified": took_effect == each * SAMPLES and lost == 0,
    }


def memory(directory, size):
    """Overwrite few keys many times, and see that neither memory nor disk grows."""
    with running(directory, size.engine) as group:
        return uvloop.run(_memory(group, size))


async def _recovery(group, size):
    async with group.client() as client:
        keys = range(size.state_mb * 1_000_000 // (8 + len(VALUE)))
        await write_keys(client, keys, OUTSTANDING, [])
        status = await settle(group, client)
        follower = next(each["id"] for each in status["members"] if each["id"] != status["id"])
        group.kill(follower)
        began = time.perf_counter()
        await asyncio.to_thread(group.start, follower)
        serving_s = time.perf_counter() - began
        await settle(group, client)
        caught_up_s = time.perf_counter() - began
        chosen = random.Random(0).sample(keys, min(READ_BACK, len(keys)))
        async with group.client(follower) as alone:
            lost = await lost_of(alone, chosen, Consistency.STALE)
    return {
        "keys": len(keys),
        "state_mb": size.state_mb,
        "serving_s": round(serving_s, 2),
        "caught_up_s": round(caught_up_s, 2),
        "lost": lost,
        "verified": lost == 0,
    }


def recovery(directory, size):
    """Kill a follower that has much state, and start it again."""
    with running(directory, size.engine) as group:
        return uvloop.run(_recovery(group, size))
