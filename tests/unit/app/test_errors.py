"""Which errors blame a record, and what one that blames nothing is worth."""

from __future__ import annotations

import pytest

from harness.table_driver import TableDriver, make_app
from onceflow import errors
from onceflow.engine.failures import Failures
from onceflow.engine.runtime import runtime_of


def test_errors_of_one_record_are_record_errors_and_no_others():
    blaming = {
        kind.__name__
        for kind in vars(errors).values()
        if isinstance(kind, type)
        and issubclass(kind, errors.RecordError)
        and kind is not errors.RecordError
    }
    assert blaming == {
        "ColumnDecodeError",
        "DeserializationError",
        "ProcessingError",
        "RowsRefused",
        "SerializationError",
    }


def test_a_write_of_an_aborted_attempt_is_refused_and_blames_nobody(tmp_path):
    app = make_app()
    counts = app.Table("counts", default=int)
    driver = TableDriver(app, tmp_path).open()
    with driver.record(key=b"a"):
        driver.abort()
        with pytest.raises(errors.StaleAttempt) as refused:
            counts["a"] = 1
    assert driver.commit_now() == {}
    # Neither a policy nor the epoch is asked: nothing of the worker exists here.
    Failures.failed(runtime_of(app).failures, None, refused.value)
