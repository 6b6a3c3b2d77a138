"""Several worker processes under one command.

``policy`` decides, without clock or process, what happens when a worker ends; ``fleet`` performs
it; ``child`` says how a worker is started; ``lifeline`` ends workers whose supervisor is gone;
``worker_process`` is the program of one worker. The room must never import ``onceflow.cli``.
"""
