"""The server of a replicated group: one member, driven by an asyncio loop."""

from onceflow_consensus.server.member import start_member
from onceflow_consensus.server.options import ServerOptions, Start
from onceflow_consensus.server.process import tune_process

__all__ = ["ServerOptions", "Start", "start_member", "tune_process"]
