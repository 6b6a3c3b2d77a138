"""The Raft engine: messages and ticks in, messages and writes out.

``raft/node.py`` is the door: step messages in, take what is to be done out. The modules behind it
hold one concern each. Nothing here reads a clock, draws a number, sleeps or does I/O: the same
state and the same event give the same effects, which is what makes a simulation reproducible.
"""
