"""Turns of trouble: fail-over after kill -9 of the leader, and kill -9 of all members at once."""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import signal
import statistics
import time

import aiohttp
import uvloop

from bench.places import RunFailed
from bench_consensus.etcd import EtcdGroup
from bench_consensus.group import key_of, lost_of, running, settle, write_keys
from bench_consensus.measure import VALUE
from harness.consensus_group import put
from onceflow_consensus.errors import GroupUnreachable

RETRY_S = 0.005
OUTAGE_S = 20.0
RETURN_S = 60.0
"""How long writes wait for three processes to start, on a machine that does other work as well."""

CALM_S = 0.3
"""Between the return of a member and the next kill, so that each trial begins in order."""


def _summary(taken_s, lost):
    return {
        "trials": len(taken_s),
        "median_s": round(statistics.median(taken_s), 3),
        "min_s": round(min(taken_s), 3),
        "max_s": round(max(taken_s), 3),
        "lost": lost,
        "verified": lost == 0,
    }


async def _ours(group, trials):
    taken_s = []
    async with group.client() as client:
        for number in range(trials):
            status = await settle(group, client)
            await asyncio.sleep(CALM_S)
            began = time.perf_counter()
            group.kill(status["id"])
            await client.submit(put(key_of(number), VALUE))
            taken_s.append(time.perf_counter() - began)
            await asyncio.to_thread(group.start, status["id"])
        return _summary(taken_s, await lost_of(client, range(trials)))


def ours(directory, size):
    """Kill the leader over and over; the client is one that was connected to it."""
    with running(directory, size.engine) as group:
        return uvloop.run(_ours(group, size.trials))


async def _etcd_trial(group, number, key):
    """Seconds from the kill to the first write that a survivor acknowledges.

    Another write goes out every 5 ms, to the survivors in turn, since one that was passed on to
    the dead leader is answered only after seconds.
    """
    urls = [group.url(each) + "/v3/kv/put" for each in (1, 2, 3) if each != number]
    body = {"key": key, "value": base64.b64encode(VALUE).decode()}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        done = asyncio.get_running_loop().create_future()

        async def attempt(url):
            try:
                async with session.post(url, json=body) as response:
                    await response.read()
                    if response.status == 200 and not done.done():
                        done.set_result(time.perf_counter())
            except aiohttp.ClientError:
                return

        began = time.perf_counter()
        os.kill(group.processes[number].pid, signal.SIGKILL)
        attempts = []
        for url in itertools.cycle(urls):
            attempts.append(asyncio.create_task(attempt(url)))
            await asyncio.wait([done], timeout=RETRY_S)
            if done.done() or time.perf_counter() - began > OUTAGE_S:
                break
        for each in attempts:
            each.cancel()
        await asyncio.gather(*attempts, return_exceptions=True)
        if not done.done():
            raise RunFailed(f"no write was acknowledged within {OUTAGE_S:.0f} s of the kill")
        return done.result() - began


def etcd(directory, size, flags=()):
    """The same with etcd; its client asks both survivors."""
    taken_s, keys = [], []
    with EtcdGroup(size.programs(), directory, flags) as group:
        for number in range(size.trials):
            raft_leader = group.settle()
            time.sleep(CALM_S)
            keys.append(base64.b64encode(key_of(number)).decode())
            taken_s.append(asyncio.run(_etcd_trial(group, raft_leader, keys[-1])))
            # Waits until its guard has seen it.
            group.kill(raft_leader)
            group.start(raft_leader)
        found = [group.call(group.settle(), "/v3/kv/range", {"key": key}) for key in keys]
        return _summary(taken_s, sum("kvs" not in each for each in found))


async def _crash(group, size):
    """Kill all members in the middle of writes, several times; everything acknowledged is there."""
    numbers, acknowledged = itertools.count(), []
    async with group.client(timeout_s=RETURN_S) as client:
        for crash in range(size.crashes):
            await settle(group, client)
            part = itertools.islice(numbers, size.crash_writes)
            writing = asyncio.create_task(write_keys(client, part, 64, acknowledged))
            while len(acknowledged) < (crash + 0.3) * size.crash_writes and not writing.done():
                await asyncio.wait([writing], timeout=RETRY_S)
            for peer_id in [*group.processes]:
                group.kill(peer_id)
            if len(acknowledged) >= (crash + 1) * size.crash_writes:
                raise RunFailed("the writes were over before the kill")
            await asyncio.to_thread(group.start, 1, 2, 3)
            try:
                await writing
            except GroupUnreachable as error:
                raise RunFailed("the group did not come back after the kill of all") from error
        lost = await lost_of(client, acknowledged)
    return {
        "crashes": size.crashes,
        "acknowledged": len(acknowledged),
        "lost": lost,
        "verified": lost == 0,
    }


def crash(directory, size):
    """Take the turn."""
    with running(directory, size.engine) as group:
        return uvloop.run(_crash(group, size))
