"""What the rules allow by name, each with its reason. A rule without an entry has no exception.

An entry that nothing needs is a failure as well, so that the lists only shrink by themselves.
"""

from __future__ import annotations

TOP_LEVEL = {
    "pyproject.toml",
    "app",
    "consensus",
    "tests",
    "docker",
    "Makefile",
    "README.md",
    "LICENSE",
    "CONTRIBUTING.md",
    "requirements.lock",
}
"""The only names at the root of the repository, apart from dotfiles."""

LOOP_ROOTS: dict[str, str] = {
    "onceflow.engine.agent:Agent._execute_actor": "the user's agent raised; on_error decides",
    "onceflow.engine.agent:Agent._report": "the user's callback raised; the worker ends",
    "onceflow.engine.closing:_tell": "the user's on_window_close raised; it is named and raised",
    "onceflow.engine.epochs:Epochs._run": "the driver of the protocol; an error ends the worker",
    "onceflow.engine.stream:Stream._records": "a user's codec raised; the record is to blame",
    "onceflow.engine.stream:Stream._passive_drainer": "a processor raised; the record is to blame",
    "onceflow.engine.taking:Taker._event": "a user's codec raised; the record is to blame",
    "onceflow.engine.topic:Topic.send": "a user's codec raised; it is named and raised",
    "onceflow.kafka.poll:PollThread._main": "the root of the poll thread; it must not end unseen",
    "onceflow.kafka.threads:CallThread._main": "a call's error goes to who waits for it",
    "onceflow.kafka.threads:deliver": "what the event loop was told raised; the worker ends",
    "onceflow.sinks.files:_Opened._run": "the root of the thread that rolls; prepare raises it",
    "onceflow_consensus.server.driver:Driver.guard": "the root of a member's loop; it stops it",
}
"""Functions that may catch everything, because nobody above them would see the error."""

BORDERS = {"state": "rocksdict raises bare Exception, which is translated and raised again"}
"""Rooms in which a handler of everything may stand if its last statement raises."""

MODE_FLAGS: dict[str, str] = {
    "onceflow.columns.windowcache:WindowCache.remember.whole": "a fact about the rows given",
    "onceflow.decisions.marker:commit_attempts.moved": "a fact about the epoch",
    "onceflow.decisions.marker:commit_attempts.noted": "a fact about the epoch",
    "onceflow.state.set_rows:_prefix_of.windowed": "a fact about the table's keys",
    "onceflow.state.set_rows:fold_operations.windowed": "a fact about the table's keys",
    "onceflow.state.set_rows:split_row.windowed": "a fact about the table's keys",
    "onceflow.testing.model_broker:ModelBroker.end_transaction.commits": "Kafka's EndTxn has it",
}
"""Keyword-only booleans, as ``module:function.parameter``, that do not select a mode."""
