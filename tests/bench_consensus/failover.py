"""Measures how long writes are not answered after the leader is killed with SIGKILL.

PYTHONPATH=tests python tests/bench_consensus/failover.py --trials 20
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import tempfile
import time
from pathlib import Path

import uvloop

from harness.consensus_group import ProcessGroup, put
from onceflow_consensus.transport.requests import GetStatus


async def leader_of(group: ProcessGroup) -> int:
    async with group.client() as client:
        await client.submit(put(b"k", b"v"))
        for _ in range(500):
            for peer_id in group.processes:
                async with group.client(peer_id) as member:
                    found = json.loads((await member.ask(GetStatus)).body)
                if found["role"] == "StateLeader":
                    return peer_id
            await asyncio.sleep(0.02)
    raise TimeoutError("nobody leads")


async def trial(group: ProcessGroup) -> float:
    """Seconds from the kill to the first write that is acknowledged after it."""
    raft_leader = await leader_of(group)
    await asyncio.sleep(0.5)
    async with group.client() as client:
        await client.submit(put(b"k", b"v"))
        group.kill(raft_leader)
        begin = time.perf_counter()
        await client.submit(put(b"k", b"after"))
        taken_s = time.perf_counter() - begin
    group.start(raft_leader)
    await asyncio.sleep(0.5)
    return taken_s


async def run(group: ProcessGroup, trials: int) -> None:
    taken = sorted([await trial(group) for _ in range(trials)])
    print(
        json.dumps(
            {
                "what": "fail-over after kill -9",
                "trials": trials,
                "median_s": round(taken[len(taken) // 2], 3),
                "min_s": round(taken[0], 3),
                "max_s": round(taken[-1], 3),
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--engine", default="raft")
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(dir="/var/tmp"))
    group = ProcessGroup(directory, engine=arguments.engine)
    try:
        group.start(1, 2, 3)
        uvloop.run(run(group, arguments.trials))
    finally:
        group.close()
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
