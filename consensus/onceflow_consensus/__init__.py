"""The replicated group of onceflow: Raft and Multi-Paxos behind one interface."""
