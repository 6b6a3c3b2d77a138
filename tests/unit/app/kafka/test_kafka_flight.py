"""Back-pressure measures what is handed over and not finished."""

from __future__ import annotations

from onceflow.kafka.flight import Flight


def test_either_measure_fills_it_and_both_must_halve():
    flight = Flight(records_max=10, bytes_max=1_000)
    assert not flight.is_full()
    assert flight.is_half_done()
    flight.post(10, 10)
    assert flight.is_full()
    flight.finish(4, 4)
    assert not flight.is_full()
    assert not flight.is_half_done()
    flight.finish(1, 1)
    assert flight.is_half_done()
    flight.post(1, 995)
    assert flight.is_full()
    assert not flight.is_half_done()
    assert (flight.records, flight.size_bytes) == (6, 1_000)
