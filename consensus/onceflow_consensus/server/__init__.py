"""The server of a replicated group: one member, driven by an asyncio loop."""

from onceflow_consensus.server.member import start_member
from onceflow_consensus.server.options import ServerOptions, Start
from onceflow_consensus.server.process import run_process

__all__ = ["ServerOptions", "Start", "run_process", "start_member"]
