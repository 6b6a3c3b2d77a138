"""What survives a crash: the segmented log, hard state and snapshots, shared by the engines."""

from onceflow_consensus.storage.disk import OsDisk
from onceflow_consensus.storage.durable_log import DurableLog, WriteRequest
from onceflow_consensus.storage.writer import LogWriter

__all__ = ["DurableLog", "LogWriter", "OsDisk", "WriteRequest"]
