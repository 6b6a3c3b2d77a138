"""Measures a group of three processes on loopback through the public client, in this process.

    PYTHONPATH=tests python tests/bench_consensus/measure.py --seconds 3 --outstanding 1,16,64

Writes of 256 bytes with their sync on all members, then linearizable and stale reads. After each
row of writes the count of those that took effect is compared with the count of those that were
acknowledged. CPU seconds are those of members and of this client, by 1,000 operations.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from harness.consensus_group import ProcessGroup, get, put
from onceflow_consensus.transport.requests import Consistency, GetStatus

if TYPE_CHECKING:
    from onceflow_consensus.client import GroupClient

KEY, VALUE = b"k" * 8, b"v" * 256
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_of(group: ProcessGroup) -> list[float]:
    """CPU seconds of the members so far."""
    found = []
    for process in group.processes.values():
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2].split()
        found.append((int(fields[11]) + int(fields[12])) / TICKS_PER_S)
    return found


def own_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def measure(act, outstanding: int, seconds: float) -> tuple[float, list[float]]:
    """Keep ``outstanding`` calls under way; return the time taken and all latencies, sorted."""
    latencies: list[float] = []
    begin = time.perf_counter()
    end = begin + seconds

    async def one_after_the_other() -> None:
        while (asked := time.perf_counter()) < end:
            await act()
            latencies.append(time.perf_counter() - asked)

    await asyncio.gather(*[one_after_the_other() for _ in range(outstanding)])
    return time.perf_counter() - begin, sorted(latencies)


async def row(group: ProcessGroup, name: str, act, outstanding: int, seconds: float) -> int:
    members_before, own_before = cpu_of(group), own_cpu()
    taken_s, latencies = await measure(act, outstanding, seconds)
    count = len(latencies)
    members = [
        round((after - before) * 1000 / count, 3)
        for before, after in zip(members_before, cpu_of(group), strict=True)
    ]
    print(
        json.dumps(
            {
                "what": name,
                "outstanding": outstanding,
                "per_s": round(count / taken_s),
                "p10_ms": round(latencies[count // 10] * 1000, 2),
                "p50_ms": round(latencies[count // 2] * 1000, 2),
                "p99_ms": round(latencies[count * 99 // 100] * 1000, 2),
                "max_ms": round(latencies[-1] * 1000, 1),
                "cpu_s_per_1000_members": members,
                "cpu_s_per_1000_client": round((own_cpu() - own_before) * 1000 / count, 3),
            }
        ),
        flush=True,
    )
    return count


async def applied_commands(client: GroupClient) -> int:
    status = json.loads((await client.ask(GetStatus)).body)
    return int(status["metrics"]["commands_total"])


async def run(group: ProcessGroup, arguments: argparse.Namespace) -> None:
    async with group.client() as client:
        await client.submit(put(KEY, VALUE))
        await asyncio.sleep(0.5)

        async def write() -> None:
            await client.submit(put(KEY, VALUE))

        async def read() -> None:
            await client.query(get(KEY))

        async def read_stale() -> None:
            await client.query(get(KEY), Consistency.STALE)

        for outstanding in arguments.outstanding:
            before = await applied_commands(client)
            count = await row(group, "write", write, outstanding, arguments.seconds)
            took_effect = await applied_commands(client) - before
            if took_effect != count:
                print(f"{count} writes were acknowledged and {took_effect} took effect")
        for name, act in (("linearizable read", read), ("stale read", read_stale)):
            for outstanding in arguments.outstanding if arguments.reads else ():
                await row(group, name, act, outstanding, arguments.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument(
        "--outstanding",
        type=lambda text: [int(each) for each in text.split(",")],
        default=[1, 16, 64, 256, 1000],
    )
    parser.add_argument("--reads", action="store_true")
    parser.add_argument("--engine", default="raft")
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"))
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(dir=arguments.directory))
    group = ProcessGroup(directory, engine=arguments.engine)
    try:
        group.start(1, 2, 3)
        uvloop.run(run(group, arguments))
    finally:
        group.close()
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
