"""Sessions over the key-value machine against a model: clients that repeat, lose and reorder.

Each client sends commands in a session and repeats them at will, in the same batch or later. The
model applies each command once, in the order of its numbers. At any point the state is replaced by
one restored from a snapshot, or compared with one that replays the whole log.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from onceflow_consensus.kv import (
    CompareValue,
    CompareVersion,
    Delete,
    Deleted,
    Found,
    Get,
    KeyValueMachine,
    Mismatch,
    Put,
    Scan,
    Written,
    decode_response,
    encode_command,
    encode_query,
)
from onceflow_consensus.sessions import (
    ReplicatedState,
    Status,
    encode_registration,
    registered_session_id,
    split_outcome,
)
from onceflow_consensus.state_machine import CommandKind, encode_batch

TIMEOUT_MS = 4_000
KEYS = [b"a", b"b", b"ab"]
VALUES = [b"", b"1", b"2"]

keys = st.sampled_from(KEYS)
values = st.sampled_from(VALUES)
commands = st.one_of(
    st.builds(Put, keys, values),
    st.builds(CompareValue, keys, st.one_of(st.none(), values), values),
    st.builds(CompareVersion, keys, st.integers(0, 5), values),
    st.builds(Delete, keys),
)


class Model:
    """What the key-value space must be: a dict and a count of writes."""

    def __init__(self):
        self.entries: dict[bytes, tuple[bytes, int]] = {}
        self.writes = 0

    def apply(self, command):
        value, version = self.entries.get(command.key, (None, 0))
        if isinstance(command, Delete):
            if version:
                self.writes += 1
                del self.entries[command.key]
            return Deleted(version)
        if isinstance(command, CompareValue) and command.expected != value:
            return Mismatch(version)
        if isinstance(command, CompareVersion) and command.expected != version:
            return Mismatch(version)
        self.writes += 1
        self.entries[command.key] = (command.value, self.writes)
        return Written(self.writes)


class Client:
    """Numbers commands, knows what was answered, and when the log heard of it last."""

    def __init__(self, session_id, heard_ms):
        self.session_id = session_id
        self.heard_ms = heard_ms
        self.sent: list = []
        self.answers: list = []
        self.first_unanswered = 1
        self.is_gone = False


class Sessions(RuleBasedStateMachine):
    """One replica and its clients."""

    def __init__(self):
        super().__init__()
        self.state = ReplicatedState(KeyValueMachine())
        self.model = Model()
        self.clients: list[Client] = []
        self.log: list[bytes] = []
        self.now_ms = 0

    def append(self, batch):
        data = encode_batch(self.now_ms, batch)
        self.log.append(data)
        return [split_outcome(each) for each in self.state.apply(len(self.log), data)]

    def has_expired(self, client):
        return client.is_gone or self.now_ms - client.heard_ms > TIMEOUT_MS

    @rule()
    def register(self):
        payload = encode_registration(TIMEOUT_MS)
        ((status, response),) = self.append([(CommandKind.REGISTER, 0, 0, 0, payload)])
        assert status is Status.OK
        session_id = registered_session_id(response)
        assert session_id not in {client.session_id for client in self.clients}
        self.clients.append(Client(session_id, self.now_ms))

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), passed_ms=st.integers(0, 1_500))
    def send_a_batch(self, data, passed_ms):
        self.now_ms += passed_ms
        batch, expected = [], []
        for _ in range(data.draw(st.integers(1, 6), label="commands")):
            client = data.draw(st.sampled_from(self.clients), label="client")
            last = len(client.sent) + 2
            sequence = data.draw(st.integers(client.first_unanswered, last), label="sequence")
            first_unanswered = client.first_unanswered
            expected.append(self.expect(client, sequence, data.draw(commands, label="command")))
            payload = encode_command(client.sent[sequence - 1]) if sequence < last else b"lost"
            batch.append(
                (CommandKind.COMMAND, client.session_id, sequence, first_unanswered, payload)
            )
        for outcome, (status, response) in zip(self.append(batch), expected, strict=True):
            assert outcome[0] is status
            if response is not None:
                assert decode_response(outcome[1]) == response

    def expect(self, client, sequence, command):
        """Tell what becomes of a command; a fresh one is applied to the model here."""
        if sequence == len(client.sent) + 1:
            client.sent.append(command)
        if self.has_expired(client):
            client.is_gone = True
            return Status.SESSION_EXPIRED, None
        client.heard_ms = self.now_ms
        if sequence > len(client.answers) + 1:
            return Status.SEQUENCE_GAP, None
        if sequence == len(client.answers) + 1:
            client.answers.append(self.model.apply(client.sent[sequence - 1]))
        return Status.OK, client.answers[sequence - 1]

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def answers_arrive(self, data):
        client = data.draw(st.sampled_from(self.clients))
        last = len(client.answers) + 1
        client.first_unanswered = data.draw(st.integers(client.first_unanswered, last))

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def keep_alive(self, data):
        client = data.draw(st.sampled_from(self.clients))
        kept = (CommandKind.KEEP_ALIVE, client.session_id, 0, client.first_unanswered, b"")
        ((status, _),) = self.append([kept])
        assert status is (Status.SESSION_EXPIRED if self.has_expired(client) else Status.OK)
        client.is_gone = self.has_expired(client)
        client.heard_ms = self.now_ms

    @rule()
    def restart_from_a_snapshot(self):
        restored = ReplicatedState(KeyValueMachine())
        restored.restore(self.state.take_snapshot())
        self.state = restored

    @rule()
    def replay_gives_the_same_state(self):
        replayed = ReplicatedState(KeyValueMachine())
        for index, data in enumerate(self.log, 1):
            replayed.apply(index, data)
        assert b"".join(replayed.take_snapshot()) == b"".join(self.state.take_snapshot())

    @invariant()
    def the_space_is_that_of_the_model(self):
        page = decode_response(self.state.query(encode_query(Scan(b""))))
        assert {row[0]: row[1:] for row in page.rows} == self.model.entries
        assert [row[0] for row in page.rows] == sorted(self.model.entries)
        for key in KEYS:
            found = self.model.entries.get(key, (b"", 0))
            assert decode_response(self.state.query(encode_query(Get(key)))) == Found(*found)


TestSessions = Sessions.TestCase
TestSessions.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
