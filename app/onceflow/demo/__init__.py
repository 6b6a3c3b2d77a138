"""The main job: a year of real flights, exactly once, while workers are being killed.

Modules: ``app`` (the Faust application, an ordinary one), ``data`` (its input), ``truth`` (what it
must come to, computed otherwise), ``publish``, ``workers`` (processes), ``watch`` (progress and
recoveries), ``sabotage`` (ways to break a run on purpose), ``verify`` and ``run`` (all of it).

Must never import: ``confluent_kafka``; ``faust`` only in ``app`` and what wraps it.
"""
