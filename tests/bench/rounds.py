"""One run: rounds in which everybody selected takes one turn, on the same broker and data.

Rounds are interleaved (A B C A B C), so that a machine that gets slower does so for all. A
contestant that cannot run is a line of the table with its reason, never left out.
"""

from __future__ import annotations

import functools
import os
import tempfile
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.contestants import (
    COMMIT_MS,
    CONTESTANTS,
    LATENCY_COMMITS_MS,
    LATENCY_OF,
    RESTORING,
    Job,
    Output,
)
from bench.latency import Latency
from bench.load import fill_events
from bench.places import NotRun, RunFailed
from bench.process import ContestantProcess
from bench.restore import Restore
from bench.topics import drop_topics, make_topics
from bench.verify import Truth
from bench.watch import CommittedOffsets, watch


@dataclass(frozen=True)
class Size:
    """How much is done: events of the full input, records restored, seconds of latency."""

    events: int
    restored: int
    latency_s: float
    bound_s: float = 300.0


class Bench:
    """What outlives a turn: input topics, what must come of them, what is installed.

    ``root`` is an empty directory for logs and local state; ``say`` is told of what takes long.
    """

    def __init__(self, bootstrap, root, size, say):
        self._bootstrap = bootstrap
        self._root = root
        self._size = size
        self._say = say
        self._truth = Truth(bootstrap)
        self._inputs = {}
        self._prepared = {}
        self._restore = None

    def turns(self):
        """Every name with its title and the function that takes its turn."""
        found = [(each.name, each.title, self._throughput, (each,)) for each in CONTESTANTS]
        for commit_ms in LATENCY_COMMITS_MS:
            for name, each in LATENCY_OF.items():
                title = f"{each.title}, commit every {commit_ms} ms"
                found.append(
                    (f"latency-{name}-{commit_ms}", title, self._latency, (each, commit_ms))
                )
        title = f"ours, {self._size.restored:,} records of 60 bytes"
        found.append((RESTORING.name, title, self._restored, ()))
        return [
            (name, title, functools.partial(measure, *arguments))
            for name, title, measure, arguments in found
        ]

    def run(self, name, number, measure):
        """Take one turn; returns its line, which says so if the contestant did not run."""
        line = {"name": name, "round": number, "load1": round(os.getloadavg()[0], 1)}
        try:
            return line | measure()
        except NotRun as error:
            return line | {"verified": False, "not_run": str(error)}
        except (RunFailed, TimeoutError) as error:
            return line | {"verified": False, "failed": str(error)}

    def _throughput(self, contestant):
        prepared = self._prepare(contestant)
        source = self._input(contestant.source)
        with self._job(contestant.name, source, COMMIT_MS) as job:
            make_topics(self._bootstrap, [job.output])
            offsets = CommittedOffsets(self._bootstrap, job.group, source)
            with _process(contestant, prepared, job, {}) as process:
                usage = watch(offsets, process, self._size.bound_s)
                log = process.log_tail()
            offsets.close()
            if not usage.complete:
                raise RunFailed(f"{usage.counted} of {usage.events} events; its log: {log}")
            return {
                "events": usage.events,
                "counted": usage.counted,
                "wall_s": round(usage.wall_s, 2),
                "cpu_s": round(usage.cpu_s, 2),
                "per_wall_s": usage.per_wall_s,
                "per_cpu_s": usage.per_cpu_s,
                "peak_rss_mb": usage.peak_rss_mb,
                **self._verify(contestant, job),
            }

    def _verify(self, contestant, job):
        compare = {
            Output.RESULTS: self._truth.compare_results,
            Output.COPIES: self._truth.compare_copies,
            Output.COUNTS: self._truth.compare_counts,
        }[contestant.output]
        return compare(job.source, contestant.checked_topic(job))

    def _latency(self, contestant, commit_ms):
        prepared = self._prepare(contestant)
        with self._job(f"latency-{contestant.name}", None, commit_ms) as job:
            make_topics(self._bootstrap, [job.source, job.output])
            with _process(contestant, prepared, job, {}) as process:
                try:
                    measured = Latency(job, self._size.latency_s).measure()
                except RunFailed as error:
                    raise RunFailed(f"{error}; its log: {process.log_tail()}") from error
            return {**measured, "verified": measured["unseen"] == 0}

    def _restored(self):
        if self._restore is None:
            job = self._new_job(RESTORING.name, None, COMMIT_MS)
            start = functools.partial(_process, RESTORING, None)
            restore = Restore(job, start, self._size.restored)
            self._say(f"writing a changelog of {self._size.restored:,} records")
            restore.prepare()
            self._restore = restore
        return self._restore.measure()

    def _prepare(self, contestant):
        """Install or build, once; a contestant that is missing is missing in every round."""
        if contestant.prepare not in self._prepared:
            try:
                self._prepared[contestant.prepare] = contestant.prepare()
            except NotRun as error:
                self._prepared[contestant.prepare] = error
        found = self._prepared[contestant.prepare]
        if isinstance(found, NotRun):
            raise found
        return found

    def _input(self, source):
        if source not in self._inputs:
            topic = f"bench-events-{source.name}-{uuid.uuid4().hex[:8]}"
            events = source.events(self._size.events)
            self._say(f"writing {events:,} events of {source.keys:,} keys")
            fill_events(self._bootstrap, topic, events, source.keys)
            self._inputs[source] = topic
        return self._inputs[source]

    @contextmanager
    def _job(self, name, source, commit_ms):
        """A job of its own; its topics are removed afterwards, whatever happened."""
        job = self._new_job(name, source, commit_ms)
        try:
            yield job
        finally:
            drop_topics(self._bootstrap, job.group)

    def _new_job(self, name, source, commit_ms):
        group = f"bench-{name}-{uuid.uuid4().hex[:8]}"
        directory = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._root))
        names = (source or f"{group}-in", f"{group}-out")
        return Job(self._bootstrap, *names, group, directory, commit_ms)


def _process(contestant, prepared, job, environ):
    command = contestant.command(prepared, job)
    return ContestantProcess(command, {**contestant.environ(job), **environ}, job.directory)
