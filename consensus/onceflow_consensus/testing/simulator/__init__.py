"""Whole groups in one thread on virtual time, decided by one seed: the simulator of both engines.

Rooms: ``plan`` draws what a run is made of; ``world`` keeps time and lets things happen;
``network``, ``disks``, ``replica`` and ``machine`` are what they happen to, ``faults`` is what is
done to them; ``ledger`` knows what must hold; ``engines`` is the door to what is tested;
``healing`` asks for progress at the end. ``running`` plays a plan, ``sweeping`` many seeds,
``shrinking`` finds the smallest failing plan, ``report`` tells. ``mutations`` and ``known_bugs``
prove that bugs are found.
"""
