"""The replicated record of transactions, offsets and workers, and its clients.

The group that keeps it *remembers*; it does not decide. What became of an epoch is decided by
Kafka, and recovery is right without anything that stands here; see ``app/ARCHITECTURE.md``. People
and tools look here to learn what is in doubt, since when, and what went wrong for good.

``vocabulary`` is what can be told and asked, ``transactions`` which state follows which,
``machine`` the replicated state, ``group_machine`` that state beside the key-value space of the
group, ``client`` how a program reaches it, and ``records`` how a worker tells it what it does
without ever waiting for it.
"""
