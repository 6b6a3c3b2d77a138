"""The windowed aggregate in Quix Streams, exactly once; runs in an environment of its own.

    python quix_program.py BROKER IN OUT GROUP COMMIT_S STATE

The output's key is the record's, and the window's start stands in the value.
"""

from __future__ import annotations

import sys
from datetime import timedelta

from quixstreams import Application


def main(broker, source, output, group, commit_s, state):
    """Count and sum per key in tumbling windows of ten seconds."""
    app = Application(
        broker_address=broker,
        consumer_group=group,
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        commit_interval=float(commit_s),
        state_dir=state,
        loglevel="WARNING",
    )
    events = app.dataframe(app.topic(source, key_deserializer="bytes", value_deserializer="json"))
    windows = events.tumbling_window(timedelta(seconds=10), grace_ms=timedelta(seconds=60)).reduce(
        initializer=lambda event: {"n": 1, "sum": event["v"]},
        reducer=lambda state, event: {"n": state["n"] + 1, "sum": state["sum"] + event["v"]},
    )
    flat = windows.current().apply(lambda window: {**window["value"], "w": window["start"]})
    flat.to_topic(app.topic(output, key_serializer="bytes", value_serializer="json"))
    app.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
