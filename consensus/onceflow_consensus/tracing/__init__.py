"""What a replica goes through, as lines of JSON that an outside judge can replay.

Names and fields are those of etcd-raft's state trace (its ``state_trace.go``), one event a line
under ``event``: ``name``, ``nid`` (the replica), ``state`` (term, vote, commit index), ``role``,
``log`` (the last index), ``conf`` (voters, and outgoing voters while joint), ``msg``, ``prop``.
A line with the tag ``trace`` tells what etcd-raft tells, where it tells it, so that its TLA+ trace
specification reads it. Lines with the tag ``trace-more`` tell the rest in the same form: a
follower's ``Commit``, ``BecomePreCandidate``, and messages of which etcd-raft is silent, named
after their kinds. Numbers of replicas are texts, as there.

What is added to an event, for a judge that holds whole logs: ``logTerm`` (the last entry's term),
``learners``, ``learnersNext``, ``autoLeave``; in ``msg`` the ``entryTerms``, the ``context`` and a
snapshot's ``snapshotTerm`` and ``snapshotMembers``. ``InitState`` lists in ``prop.terms`` where
each term begins in the log, beginning with what stands below the first entry. ``ts`` is the clock
that is handed in.

A message is told when the engine posts it, which is before it leaves: what a crash takes back is
never received. A message that is refused is told only if its term was taken before.

Of Multi-Paxos, lines have the tag ``trace-paxos`` and the same form: ``role`` is the phase,
``term`` and ``vote`` are the promised ballot, ``Promise``, ``TakeBallot``, ``OpenBallot`` and
``GiveUp`` are its changes.

A traced replica (``raft``, ``paxos``, made by ``starting``) is one of its own kind: it overrides
the few doors of the state through which all changes pass, and adds nothing to the engines when
nobody asks for a trace.
"""
