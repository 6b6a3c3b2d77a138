"""Every bound, with its unit and its reason. A bound that users may change is a setting."""

from __future__ import annotations

MARKER_BYTES_MAX = 256
"""Offset metadata of a marker. Kafka refuses more than 4,096 bytes; 256 keeps commits small."""

METRIC_SERIES_MAX = 5_000
"""Series of one metric. 5,000 are 1,000 partitions of five topics; a scrape stays under a second.

Measurements beyond it fold into one series whose labels say ``other``, and are counted.
"""

GATE_WINDOW_S = 10.0
"""Time over which the share of a closed gate is taken: a hundred epochs at the default interval."""

HTTP_CONNECTIONS_MAX = 32
"""Connections of the status server. Probes and scrapers need a handful; each costs memory."""

HTTP_IDLE_S_MAX = 30.0
"""A connection that asks nothing for so long is closed, so that idle ones cannot use up all."""

HTTP_LINE_BYTES_MAX = 4_096
"""Request line and each header: our paths are short, and nobody sends long cookies to probes."""

HTTP_BODY_BYTES_MAX = 16_384
"""Body of a request: all that the status server answers are reads."""

HTTP_PORTS_TRIED_MAX = 64
"""Ports tried from the default one on: more workers on one host have ports of their own."""

HTTP_START_S_MAX = 10.0
"""Bound on starting and stopping the status server; both take milliseconds."""

JAVA_VERSION_MIN = 17
"""Kafka 4 brokers need Java 17. Source: https://kafka.apache.org/43/getting-started/compatibility/"""

MAVEN_S = 900
"""Seconds that Maven may take to fetch a local Kafka's 44 MB; a slow network needs minutes."""

KAFKA_READY_S = 180.0
"""Seconds until a local Kafka must be ready: 3 are usual, a very loaded machine took 90."""

KAFKA_STOP_S = 15.0
"""Seconds that the brokers of a local Kafka get to stop in order; after that they are killed, which
loses nothing, because they recover their logs at the next start."""

WINDOW_CODES_MAX = 65_536
"""Window bounds whose two spellings a process remembers, some 200 bytes each. Live windows are far
fewer; a table with more of them only pays the 1 us of encoding again."""

STORE_FLUSH_MS = 5_000
"""Age at which applied but unflushed rows are written to disk. What a killed worker replays from
the changelog is at most what it applied in so long, a second's work at 300,000 records/s."""

STORE_CLOSE_S_MAX = 5.0
"""How long a closing store waits for its last flush: some ten megabytes, a second on a slow disk.
After it rocksdict flushes one table after the other, which only a kill in between would show."""

STORE_CLOCK_SKEW_MS = 300_000
"""How far in the future a store's last apply may lie. More means that a clock was wrong, so that
the store's age is unknown and it is rebuilt."""

STORE_STALL_S_MAX = 1.0
"""How long a write waits for memtables to come below their share of the memory budget. A disk that
takes longer lets memory grow by one epoch's changes per second, which an operator can see."""

STORE_OPEN_FILES_MAX = 64
"""Table files that one store keeps open. Each costs a descriptor and some kilobytes; a process may
host hundreds of stores, and the common limit of descriptors is 1,024."""

STORE_MEMORY_BYTES_MIN = 16 * 1024 * 1024
"""Least budget of a process's stores. Below it every write flushes and every read misses."""

RESTORE_CHUNK_BYTES = 1_000_000
"""Bytes of one write while restoring. RocksDB's write holds the interpreter, so this bounds how
long the event loop stands still: 10,000 records of 60 bytes take some 8 ms."""

RESTORE_CHUNK_RECORDS = 10_000
"""Records of one write while restoring; see RESTORE_CHUNK_BYTES."""

PENDING_RETRY_S = 2.0
"""Between stable readings of offsets that an open transaction holds back while taking over."""

PENDING_READS_MAX = 45
"""Stable readings before a takeover gives up: 90 s, over the transaction timeout of 30 s plus the
broker's 10 s interval of looking for timed-out transactions. Longer timeouts need more."""

REFUSED_BACKOFF_S = 1.0
"""Wait after offsets were refused: our membership is stale, and news of the group comes with a
heartbeat. Working on before it would be aborted again."""

RUN_RECORDS_MAX = 2_000
"""Records of one run. Long runs spread the cost of a Faust message over many records; longer ones
gain nothing measurable and let the gate wait for the end of a run."""

POLL_RECORDS_MAX = 4_000
"""Records asked of librdkafka at once: two full runs. Their columns take some 2 ms to build, while
the poll thread holds the interpreter; 2,000 to 16,000 cost the same per record."""

POLL_LINGER_S = 0.002
"""How long a poll gathers records after the first. It trades 2 ms of latency for fewer wake-ups of
the event loop at moderate rates; a full poll does not wait."""

POLL_IDLE_S = 0.05
"""How long a poll waits for a first record; a command waits as long for the poll thread."""

FLIGHT_RECORDS_MAX = 100_000
"""Records handed to the event loop and not finished: a quarter of a second at full speed."""

FLIGHT_BYTES_MAX = 64 * 1024 * 1024
"""Bytes of keys and values in flight; bounds memory where records are large."""

HOLD_S = 5.0
"""How long the poll thread holds back when too much is in flight, before it pauses the partitions.
Pausing throws away what librdkafka has prefetched, up to as much as may be in flight, and fetches
it again; an agent that does 40,000 records a second works off half of the flight in this time."""

HOLD_LOOK_S = 0.1
"""How often the poll thread, while it holds back, takes one record, so that a rebalance is served:
a revocation waits this long. In ``HOLD_S`` that is fifty records above the mark."""

REVOKE_S_MAX = 10.0
"""Hard bound on answering a revocation. The engine's own bound is 5 s; past 10 s the partitions are
given up unreleased, and the broker refuses a commit that comes later."""

LOST_S_MAX = 1.0
"""Bound on hearing about lost partitions: nothing can be saved any more, so nobody waits long."""

FETCH_WAKE_S = 0.5
"""Bound on waking librdkafka's fetching threads after a resume; it takes a millisecond. Without an
answer they wake by themselves after a second."""

SEEK_S_MAX = 10.0
"""Bound on seeking: a partition assigned a moment ago cannot be seeked until its fetcher runs."""

SEEKS_AGAIN_MAX = 3
"""How often a started partition may be found below its position before the worker ends."""

CLOSE_S_MAX = 30.0
"""Bound on leaving the group, with the revocation in it."""

END_S_SLOW = 1.0
"""A commit or abort that took longer spends its producer: librdkafka may have sent its EndTxn
twice, and a late duplicate would complete the next transaction half-way (librdkafka #5423)."""

ABORT_FLUSH_S = 2.0
"""How long an abort goes on sending what is queued: an epoch's rest is sent in milliseconds, and a
broker that is slower than this is better waited for by the abort itself."""

ABORT_STEP_S = 0.25
"""Time in which an abort must see something delivered, else it stops sending: after an error the
client holds the rest back."""

ADMIN_S_MAX = 30.0
"""Bound on one administrative request, retries included."""

ADMIN_ATTEMPT_S = 6.0
"""After so long an administration client that does not answer is replaced by a fresh one.
librdkafka 2.16 leaves some waiting for ever for brokers that restarted (its issues 5301 and 5511);
elections take less. A request is repeated so until its own bound."""

ADMIN_AGAIN_S = 0.1
"""How long to wait before a broker is asked again for what it has not heard of yet."""

ADMIN_THREADS = 4
"""Threads for blocking administrative calls; they wait, they do not compute."""

OUTBOX_RECORDS_MAX = 100_000
"""Sends without a record that wait for a commit. At about 1 kB each this is 100 MB; more means that
commits stand still."""

TIMESTAMP_AHEAD_MAX_MS = 59 * 60 * 1000
"""How far a record's timestamp may be ahead of the clock. Kafka's default limit is one hour
(``message.timestamp.after.max.ms``); a minute is left for clocks that differ."""

RESTART_BACKOFF_S = 0.5
"""Wait before the first restart of a worker; doubles with each further one in the window. Half a
second lets a rebalance of the others begin instead of adding a second one to it."""

RESTART_BACKOFF_S_MAX = 16.0
"""Longest wait before a restart: an operator who repaired the cause should not wait longer."""

RESTARTS_MAX = 6
"""Restarts of one worker within the window before the supervisor gives up: with the waits above a
worker that dies at once uses them up in half a minute, and one killed now and then never does."""

RESTART_WINDOW_S = 60.0
"""Time after which a restart no longer counts."""

WORKER_PROCESSES_MAX = 256
"""Workers of one supervisor. More than any machine has cores; a larger number is a typing error."""

EVENT_TIME_MS_MAX = 1 << 53
"""Timestamps beyond plus or minus 285,000 years are refused: no clock gives them, and sums of times
with window sizes stay far from the end of 64 bits."""

UNFOLDED_RECORDS_MAX = 65_536
"""Records of one partition that a columnar aggregate collects before it folds them, some 32 bytes
and a key each, or 150 if they come few at a time. Folding costs 0.4 ms per call, so less often is
cheaper; this bounds the memory."""

FEW_RECORDS_MAX = 400
"""Records of one partition and epoch that a columnar aggregate folds without Arrow, divided by the
number of windows that a record is in. Arrow costs 0.4 ms per fold and little per record. For 50
records plain Python takes a fifth of it; at 400 records with keys of their own both cost the same.
"""

CACHED_WINDOW_ROWS_MAX = 250_000
"""Committed window rows that a columnar aggregate remembers, some 200 bytes each: 50 MB."""

FLUSH_S_MAX = 20.0
"""Waiting for the brokers to take an epoch's records; below the transaction timeout of 30 s."""

SEND_OFFSETS_S_MAX = 15.0
"""Sending offsets into a transaction. When the group's coordinator dies librdkafka finds the next
one after 5 to 6 s, or never (#5456: it waits for a sign of some broker, without a time-out)."""

COMMIT_S_MAX = 10.0
"""One commit or abort. After a second the producer is spent anyway; longer means that the outcome
must be read from the marker."""

FENCE_S_MAX = 15.0
"""One ``init_transactions``. The first one of a fresh cluster makes an internal topic (1.5 s)."""

TAKEOVER_RETRY_S = 0.5
"""Pause between attempts at brokers that do not answer during a takeover."""

PRODUCER_STOP_S = 10.0
"""Waiting for sends outside of transactions when a process ends."""

RETRY_BACKOFF_S_MAX = 5.0
"""The longest wait before a retry of a failing record; its partition waits with it."""

DEAD_LETTER_HEADER_BYTES_MAX = 8_000
"""The stack in a dead letter's header: its end, where the error is. Kafka's records are bounded."""

CLOSING_S_MAX = 1.0
"""How long the end of an epoch goes on telling windows to ``on_window_close``; the others are told
by the next ones. No record is processed meanwhile, and a revoked partition waits up to 5 s."""

EXPIRED_ROWS_PER_EPOCH = 2_000
"""Expired windows deleted per partition and epoch: about 4 ms of work, 20,000 a second and
partition at the default interval, more than windows can be made at in the long run."""

POLL_ALIVE_S = 5.0
"""The poll thread turns its loop at least ten times a second; this long without is a stall."""

OFFSETS_S_MAX = 5.0
"""One reading of committed offsets; longer means that a transaction holds them back."""

OFFSETS_ATTEMPT_S = 0.2
"""First attempt inside such a reading, doubled each time: librdkafka may wait for a sign of some
broker when it has found the coordinator already (as in its issue 5456), and none comes."""

OFFSETS_AGAIN_S = 0.02
"""Between two of these attempts."""

PENDING_DOUBT_S = 2.0
"""Last part of a stable reading, spent on finding out why nothing came: an open transaction, or no
coordinator. A client that is made for it needs some tenths of a second to find the coordinator."""

REPLICA_POLL_RECORDS = 10_000
"""Records that the reader of GlobalTables asks for at once; they are written in smaller pieces."""

REPLICA_POLL_S = 0.2
"""How long that reader waits for a first record; also the longest that stopping it takes."""

REPLICA_ROWS_REMEMBERED_MAX = 50_000
"""Rows of a GlobalTable's replica that reads remember until it changes: some 10 MB."""

STORE_HEARTBEAT_S = 3_600.0
"""How often a store that nothing changes says that it is complete. A store is trusted for half of
``delete.retention.ms``, 12 hours by default, so that a quiet one would be rebuilt otherwise."""

CAREFUL_RECORDS_MAX = 1_024
"""Records of the last small epoch after owners were lost in a row; then the partition is read at
will. An epoch at full speed holds some 10,000, so that a record which kills is found in some 20."""

CAREFUL_GROWTH = 4
"""How small epochs grow: six from 1 to 1,024 records. More would come less close to the record in
each life, less would take longer until the partition is read at will."""

REPLY_TOPICS_KEPT = 1_000
"""Reply topics of other processes that a worker keeps at hand; each asking process has one."""

TRIM_INTERVAL_S = 30.0
"""How often what was read of repartition topics is deleted: they hold half a minute of records."""

RECORD_BOUND_S_MAX = 450.0
"""Twice it is the transaction timeout, of which Kafka takes 900 s by default."""

OAUTH_TOKEN_S = 300.0
"""Faust's token providers do not tell how long a token lives; it is asked for again after this."""

RESTORE_POLL_RECORDS = 10_000
"""Records asked for at once while restoring; see RESTORE_CHUNK_RECORDS, which is as many."""

RESTORE_POLL_S = 0.1
"""How long a restoring reader waits for a first record; also the longest that cancelling takes."""

RESTORE_PROGRESS_S = 1.0
"""How often a running restore is logged and shown."""

WATCH_S = 2.0
"""Within this long a record that is being processed has surely been noticed by the watch."""

PIECE_RECORDS_FIRST = 128
"""Records of the first piece of a partition with several readers."""

PIECE_RECORDS_MAX = 2_048
"""Largest piece: fast readers lose nothing by it, and wait for one another often enough."""

PIECE_S_LONG = 1.0
"""A piece that took longer was too large: the gate may wait that long for the slowest reader."""

PIECE_S_SHORT = 0.1
"""A piece that took less may be larger."""

GID_BYTES_MAX = 63
"""Name of a branch in a two-phase sink. MySQL takes 64 bytes, PostgreSQL 63 as a session's name.
Sources: https://dev.mysql.com/doc/refman/8.4/en/xa-statements.html,
https://www.postgresql.org/docs/current/runtime-config-logging.html#GUC-APPLICATION-NAME"""

PREPARE_S_MAX = 8.0
"""Writing and preparing one branch. With the offsets and the decision it stays within the
transaction timeout of 30 s, and a lock that another session holds is not waited for longer."""

FINISH_S_MAX = 10.0
"""One attempt to commit or roll back a branch, or to look into a two-phase sink. Nothing is lost by
trying again, so it only bounds how late a dead server is noticed."""

PARTICIPANT_RETRY_S = 0.1
"""First wait before a two-phase sink that did not answer is tried again; doubled each time."""

PARTICIPANT_RETRY_S_MAX = 5.0
"""Longest of these waits: a database that is back should not wait longer for its branches."""

PARTICIPANTS_MAX = 8
"""Two-phase sinks of one application: the markers name them, within MARKER_BYTES_MAX."""

PARTICIPANT_STOP_S = 5.0
"""Waiting for a two-phase sink to close when a process ends; what it holds stays there anyway."""

PARTICIPANT_ROWS_BYTES_MAX = 256 * 1024 * 1024
"""Encoded rows of one epoch in one sink: four times the default ``commit_bytes``. They stay in
memory until the epoch is prepared, and a server takes them in some seconds."""

COORDINATOR_CHANGES_MAX = 256
"""Changes of one command to the coordinator's record. Its response has one small number for each,
and responses of commands are kept until their sender has seen them."""

COORDINATOR_NAME_BYTES_MAX = 249
"""Names in the record: topics have at most 249 bytes in Kafka, everything else is shorter."""

COORDINATOR_TEXT_BYTES_MAX = 2_048
"""Free texts in the record, such as what was found at a participant: an error message fits."""

COORDINATOR_PARTICIPANTS_MAX = 32
"""Participants of one epoch. Each costs a prepare per epoch; an application has a handful."""

COORDINATOR_PARTITIONS_MAX = 20_000
"""Partitions of one application in the record. A worker with more could not commit in a second."""

COORDINATOR_APPS_MAX = 1_000
"""Applications that one group keeps a record of."""

COORDINATOR_OPEN_MAX = 10_000
"""Transactions of one application that are not ended. Each incarnation has one or two; more are
left only by thousands of workers that died and whose branches nobody could finish."""

COORDINATOR_HEURISTICS_MAX = 10_000
"""Transactions of one application with heuristic outcomes. They are kept for ever, and whoever has
more of them has stopped looking."""

COORDINATOR_NOTES_MAX = 64
"""Heuristic outcomes of one transaction: two for each participant."""

COORDINATOR_ENDED_KEPT = 1_000
"""Ended transactions of one application that are kept to be looked at: a few minutes of them."""

COORDINATOR_FORGOTTEN_KEPT = 10_000
"""Incarnations of one application of which it is known how far their transactions were dropped. A
message that is later than so many restarts is not expected."""

COORDINATOR_WORKERS_MAX = 1_000
"""Workers of one application that live at once, as far as their leases tell."""

COORDINATOR_LEASE_MS_MIN = 1_000
"""Shortest lease: a change of the group's leader takes half a second."""

COORDINATOR_LEASE_MS_MAX = 3_600_000
"""Longest lease: a worker that died is listed no longer than an hour."""

COORDINATOR_SWEEP_MS = 1_000
"""Log time between searches for leases that ran out."""

COORDINATOR_ALARMS_KEPT = 1_000
"""Contradicted decisions that are kept to be looked at; all are counted."""

COORDINATOR_PAGE_ROWS_MAX = 1_000
"""Rows of one answer. A query runs between commands and must not hold them up."""

COORDINATOR_PAGE_BYTES_MAX = 256 * 1024
"""Bytes of rows in one answer, exceeded by one row at most, for the same reason."""

FILES_MOVES_MAX = 100
"""Times that a files sink looks again after a branch was moved under its eyes. It is moved twice in
its life, so more means that the directory is changed by somebody else."""

FILES_DIRECTORY_BYTES_MAX = 200
"""Name of a directory made of a column's value. File systems take 255 bytes."""

FILES_LOOK_S = 1.0
"""How often a files sink looks whether rows are due to become a file: what a file is late at most,
for one listing of a directory."""

FILES_ADOPT_S = 10.0
"""How long past their time another worker's rows, and a roll that it began, lie still before this
worker takes them. Taking them from a living one is safe and only costs it the work of the roll."""

SCAN_INTERVAL_S = 60.0
"""How often a worker looks for branches that no takeover clears away. They hold locks in the sink,
but nothing of the stream waits for them."""

AWAIT_BRANCHES_S_MAX = 5.0
"""How long a sealed epoch waits for the branch of an earlier one; its transaction is open meanwhile
and must be prepared and decided within 30 s. Past it the epoch is processed again."""

PARTICIPANT_LOCK_S_MAX = 3.0
"""Waiting for a lock that another transaction holds in a two-phase sink: an epoch of another worker
is finished much sooner, and a lock that stays must not use up the time of preparing."""

RAISE_LOCK_S = 0.25
"""Waiting for a marker row that is to be raised, before the session that holds it is ended."""

PARTICIPANT_AGAIN_S = 0.02
"""First pause between attempts within one bounded call to a two-phase sink; doubled each time."""

PARTICIPANT_AGAIN_S_MAX = 0.5
"""Longest of these pauses: a restarting server is met soon after it answers."""

CONNECT_S_MAX = 5
"""Making a connection to a two-phase sink, for each of its hosts; whole seconds, as libpq takes."""

SINK_OPEN_S_MAX = 20.0
"""Checking a two-phase sink when a worker starts: a handful of small queries, and making tables."""

COLUMNAR_ROWS_MIN = 64
"""Rows of one yield from which on they become columns before they are written. It costs 0.1 ms and
saves 3 us per row."""

ROW_SHAPES_MAX = 4_096
"""Combinations of column names and value types that a sink remembers, about 1 kB each. A stream has
a handful; past it they are worked out anew."""

COORDINATOR_BACKLOG_MAX = 10_000
"""Changes that wait to be told to the group: a quarter of an hour of two-phase epochs, some 5 MB.
After that the least important ones are given up."""

COORDINATOR_TOLD_MAX = 64
"""Changes told to the group at once."""

COORDINATOR_TRY_S = 5.0
"""How long one try to tell the group may take; a change of its leader takes half a second."""

COORDINATOR_PAUSE_S = 0.1
"""Wait after the first try that failed; doubles with each further one."""

COORDINATOR_PAUSE_S_MAX = 5.0
"""Longest wait between tries: a group that is back is told soon."""

COORDINATOR_OFFSETS_S = 1.0
"""How often the group is told of offsets. They are for people, and only the last ones count."""

COORDINATOR_LEASE_MS = 15_000
"""How long a worker counts as alive after it said so; it does so three times as often."""

COORDINATOR_STOP_S = 2.0
"""How long a worker that ends waits to tell the group the rest; its lease runs out anyway."""

MYSQL_ANSWER_S_MAX = 5.0
"""Waiting for one answer of MySQL. Statements are at most MYSQL_STATEMENT_BYTES_MAX long and locks
are waited for 3 s, so that later means that the server or the way to it is gone."""

MYSQL_STATEMENT_BYTES_MAX = 1_000_000
"""Length of one INSERT of many rows: some 10,000 of them, a tenth of a second. Longer ones gain
nothing, and the server's ``max_allowed_packet`` is 16 MiB by default."""

COORDINATOR_HOST_STOP_S = 5.0
"""How long a hosted group may take to end; it writes what is under way, some milliseconds."""

OUTBOX_MESSAGE_BYTES_MAX = 256 * 1024
"""About the length of one message of an outbox sink: a quarter of what brokers take by default, so
that a large yield becomes several, and a run of them is bounded."""

OUTBOX_POLL_RECORDS = 2_000
"""Messages that an applier asks for at once, and applies in one local transaction: some 20 ms of
work for SQLite, so that other writers of the file are not held up for long."""

OUTBOX_POLL_S = 0.2
"""How long an applier waits for a first message; also how late it notices new partitions."""

OUTBOX_MEASURE_S = 5.0
"""How often an applier compares its progress with the end and the id of its topic."""

OUTBOX_STOP_S = 3.0
"""How long a worker that ends applies what it has committed; the next one applies the rest."""

OUTBOX_UNTOLD_MAX = 100
"""Refused messages told to the dead letters at once; each may be 256 KiB long."""
