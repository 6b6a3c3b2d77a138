"""Random harm to a replicated group of real processes: ``make faults RUNS=100 SEED=7``.

A run draws everything from its seed: engine, size, and what is done to whom between how many
operations of clients. Members that were killed come back, so that a majority is always owed; what
clients saw must be linearizable, and all members must agree in the end.
"""

from __future__ import annotations

import random

import pytest

from harness.history import Recorder
from harness.links import LinkState
from harness.meta_group import meta_group
from onceflow_consensus.transport.codec import CODECS

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

STEPS = 12
MUCH_RATIO = 0.25
SNAPSHOT_LOG_BYTES = 16_384
"""So small that snapshots are taken all the time."""


class Harm:
    """Does harm to a group, to less than half of its members at a time."""

    def __init__(self, group, chance):
        self.group, self.chance = group, chance
        self.hurt: dict[int, str] = {}

    async def step(self):
        """Mend somebody, or hurt somebody who is well while a majority would be left."""
        bearable = (len(self.group.ids) - 1) // 2
        if self.hurt and (len(self.hurt) >= bearable or self.chance.random() < 0.5):
            self.mend(self.chance.choice(sorted(self.hurt)))
            return
        well = [member for member in self.group.ids if member not in self.hurt]
        leads = await self.group.leader()
        victim = leads if leads in well and self.chance.random() < 0.5 else self.chance.choice(well)
        self.hurt[victim] = how = self.chance.choice(("kill", "freeze", "cut", "silence"))
        if how == "kill":
            self.group.kill(victim)
        elif how == "freeze":
            self.group.freeze(victim)
        else:
            self.group.isolate(victim, LinkState.CUT if how == "cut" else LinkState.SILENT)
        if self.chance.random() < MUCH_RATIO:
            await self.group.write_much()  # so that the victim gets a snapshot when it is back

    def mend(self, member):
        how = self.hurt.pop(member)
        if how == "kill":
            self.group.start(member)
        elif how == "freeze":
            self.group.thaw(member)
        else:
            self.group.heal()
            for other, still in self.hurt.items():
                if still in ("cut", "silence"):
                    self.group.isolate(other, LinkState.CUT if still == "cut" else LinkState.SILENT)

    def mend_all(self):
        for member in sorted(self.hurt):
            self.mend(member)


async def test_random_harm_leaves_a_group_linearizable_and_equal(
    random_run, pytestconfig, tmp_path
):
    seed = f"{pytestconfig.getoption('fault_seed')}/{random_run}"
    chance = random.Random(seed)
    engine = chance.choice([each.value for each in CODECS])
    size = chance.choice((3, 3, 5))
    print(f"seed {seed}: {engine}, {size} members")
    options = {"engine": engine, "snapshot-log-bytes": str(SNAPSHOT_LOG_BYTES)}
    async with meta_group(tmp_path, size=size, **options) as group:
        await group.leader()
        harm = Harm(group, chance)
        async with Recorder(group, seed=chance.randrange(1_000_000), clients=6) as recorder:
            for _ in range(STEPS):
                await recorder.wait_more(chance.randrange(1, 120))
                await harm.step()
            harm.mend_all()
            await recorder.wait_more(50)
        recorder.judge(tmp_path / "history.jsonl")
        await group.wait_equal()
