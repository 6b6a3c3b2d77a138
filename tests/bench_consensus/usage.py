"""What the members' processes take: processor time, memory, bytes written, disk."""

from __future__ import annotations

import os
import resource
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
BLOCK_BYTES = 512
"""Unit of st_blocks, whatever the file system's own is."""


def cpu_s(pids):
    """Processor seconds so far."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_PER_S


def written_bytes(pids):
    """Bytes that went towards the disk so far."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/io").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("write_bytes:"))


def rss_mb(pids):
    """Resident memory of the largest of the processes."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    found = [int(line.split()[1]) >> 10 for line in lines if line.startswith("VmRSS:")]
    return max(found)


def disk_mb(directories):
    """Disk taken by the largest of the directories, what is allocated in advance included."""
    return max(
        sum(each.stat().st_blocks for each in directory.rglob("*") if each.is_file()) * BLOCK_BYTES
        >> 20
        for directory in directories
    )


def client_cpu_s(who):
    """Processor seconds of this process, or of its children that ended."""
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


class Meter:
    """What processes and a client take from now on, by 1,000 operations."""

    def __init__(self, pids, client=resource.RUSAGE_SELF):
        self._pids, self._client = [*pids], client
        self._cpu_s, self._client_s = cpu_s(self._pids), client_cpu_s(client)
        self._bytes = written_bytes(self._pids)

    def row(self, count):
        """What ``count`` operations took."""
        used_s, own_s = cpu_s(self._pids) - self._cpu_s, client_cpu_s(self._client) - self._client_s
        return {
            "cpu_s_per_1000": round(used_s * 1000 / count, 4),
            "client_cpu_s_per_1000": round(own_s * 1000 / count, 4),
            "bytes_per_operation": round((written_bytes(self._pids) - self._bytes) / count),
        }
