"""The client of a replicated group: finds the leader, repeats what was lost, has effect once."""

from onceflow_consensus.client.client import ClientOptions, GroupClient

__all__ = ["ClientOptions", "GroupClient"]
