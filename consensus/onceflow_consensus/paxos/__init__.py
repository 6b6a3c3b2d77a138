"""The Multi-Paxos engine: Sequence Paxos with ballot leader election.

It stands behind the same door as the Raft engine; ``onceflow_consensus.replica`` picks one of them
per group.
"""
