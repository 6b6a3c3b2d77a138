"""The trace of replicas, and its judge: what correct groups tell is accepted, falsehood is not."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from onceflow_consensus.errors import ConsensusError, MessageRefused
from onceflow_consensus.paxos.messages import PaxosKind, PaxosMessage
from onceflow_consensus.raft.confchange import ChangeOp, ConfChange, SingleChange
from onceflow_consensus.raft.configuration import configuration_of
from onceflow_consensus.raft.messages import (
    Entry,
    EntryKind,
    Message,
    MessageKind,
    RaftSnapshot,
)
from onceflow_consensus.raft.options import RaftOptions, StorageMode
from onceflow_consensus.replica import Engine
from onceflow_consensus.testing import casefile, group, interaction
from onceflow_consensus.testing.confchange import parse_changes
from onceflow_consensus.testing.memory_log import MemoryLog
from onceflow_consensus.testing.simulator.__main__ import main as simulate
from onceflow_consensus.testing.simulator.known_bugs import KNOWN_BUGS
from onceflow_consensus.testing.simulator.mutations import mutated
from onceflow_consensus.testing.simulator.plan import draw_plan
from onceflow_consensus.testing.simulator.running import play
from onceflow_consensus.testing.trace_judge import judge_trace, main
from onceflow_consensus.testing.trace_lines import TraceRejected, TraceUnreadable, parse_trace
from onceflow_consensus.tracing.lines import MORE_TAG, PAXOS_TAG, TAG, Trace
from onceflow_consensus.tracing.raft import TracedRaft
from onceflow_consensus.tracing.starting import TraceFile, start_traced_replica

CASES = Path(__file__).parents[3] / "scenarios/etcd_raft/interaction"
OWN_CASES = Path(__file__).parents[1] / "interaction_cases"

ETCD_NAMES = {
    "InitState", "BecomeCandidate", "BecomeFollower", "BecomeLeader", "Commit", "Replicate",
    "ChangeConf", "ApplyConfChange", "Ready", "SendAppendEntriesRequest",
    "ReceiveAppendEntriesRequest", "SendAppendEntriesResponse", "ReceiveAppendEntriesResponse",
    "SendRequestVoteRequest", "ReceiveRequestVoteRequest", "SendRequestVoteResponse",
    "ReceiveRequestVoteResponse",
}  # fmt: skip
"""The events of etcd-raft's state_trace.go; it names snapshots' too, but tells them as appends."""

ETCD_MESSAGE_FIELDS = {
    "type", "term", "from", "to", "entries", "logTerm", "index", "commit", "vote", "reject",
    "rejectHint",
}  # fmt: skip


@pytest.fixture
def traced(monkeypatch):
    """Make every replica of a ``Group`` a traced one; return the lines."""
    lines = []

    def start(options, stable, *, applied_index=0):
        trace = Trace(lines.append, lambda: float(len(lines)))
        return TracedRaft(options, stable, trace, applied_index=applied_index)

    monkeypatch.setattr(group, "RaftNode", start)
    return lines


def judged(lines):
    judge_trace(parse_trace("".join(lines)))


@pytest.mark.parametrize(
    "path", sorted([*CASES.glob("*.txt"), *OWN_CASES.glob("*.txt")]), ids=lambda path: path.stem
)
def test_what_replicas_tell_of_a_case_is_accepted_and_changes_nothing(path, traced):
    text = path.read_text(encoding="utf-8")
    assert casefile.run_text(interaction.KIND, text) == []
    # A snapshot that the directive makes by hand was posted by nobody.
    if "send-snapshot" not in text:
        judged(traced)


class RandomGroup:
    """A group that is driven at random, with restarts from what is durable."""

    def __init__(self, seed, storage=StorageMode.READY):
        self.rng = random.Random(seed)
        self.group = group.Group()
        self.group.transcript.is_quiet = True
        voters = frozenset({1, 2, 3})
        for peer_id in (1, 2, 3, 4):
            options = RaftOptions(peer_id, pre_vote=seed % 2 == 0, storage=storage)
            begun = RaftSnapshot(2, 1, configuration_of(voters)) if peer_id < 4 else RaftSnapshot()
            self.group.add_member(options, begun)
        self.change = "l4"

    def run(self, steps):
        self.group.members[1].node.campaign()
        self.group.stabilize([1, 2, 3])
        for _ in range(steps):
            member = self.group.members[self.rng.choice(list(self.group.members))]
            action = self.rng.choice([self.ask, self.tick, self.work, self.lose, self.restart])
            if self.rng.random() < 0.75:
                action = self.settle
            try:
                action(member)
            except ConsensusError:
                continue

    def settle(self, member):
        self.group.stabilize([peer_id for peer_id in self.group.members if self.rng.random() < 0.9])

    def ask(self, member):
        choice = self.rng.random()
        if choice < 0.1:
            member.node.campaign()
        elif choice < 0.3:
            member.node.transfer_leadership(self.rng.randint(1, 4))
        elif choice < 0.6:
            self.change = self.rng.choice(["l4", "v4", "r4 l3", "v3 v4"])
            text = f"propose-conf-change\n{self.change}\n----\nok\n"
            changes = parse_changes(casefile.parse(text)[0])
            member.node.propose_conf_change(ConfChange(changes))
        else:
            member.node.propose(b"x", b"y")

    def tick(self, member):
        for _ in range(12):
            member.node.tick(self.rng.randint(10, 14))

    def work(self, member):
        if member.node.has_ready():
            self.group.process_ready(member.options.peer_id)

    def lose(self, member):
        self.group.drop(member.options.peer_id)

    def restart(self, member):
        newest = member.history[-1]
        member.append_work, member.apply_work = [], []
        peer_id = member.options.peer_id
        self.group.messages = [
            item for item in self.group.messages if item.to != peer_id or item.sender < 5
        ]
        log = member.log
        log.initial_state = lambda: (log.hard_state, newest.configuration)
        member.node = group.RaftNode(member.options, log, applied_index=newest.index)


@pytest.mark.parametrize("storage", StorageMode)
@pytest.mark.parametrize("seed", range(4))
def test_what_replicas_tell_of_losses_restarts_and_changes_is_accepted(seed, storage, traced):
    RandomGroup(seed, storage).run(120)
    judged(traced)
    names = {json.loads(line)["event"]["name"] for line in traced}
    assert {"InitState", "BecomeLeader", "Commit", "Replicate"} <= names


def test_lines_have_the_names_and_fields_of_etcd(traced):
    for seed in range(6):
        RandomGroup(seed).run(150)
    for path in (
        CASES / "confchange_v2_add_double_auto.txt",
        OWN_CASES / "forget_leader_and_transfer.txt",
    ):
        casefile.run_text(interaction.KIND, path.read_text(encoding="utf-8"))
    seen = set()
    for line in map(json.loads, traced):
        event = line["event"]
        assert set(line) == {"tag", "ts", "event"}
        assert {"name", "nid", "state", "role", "log", "conf"} <= set(event)
        assert set(event["state"]) == {"term", "vote", "commit"}
        assert isinstance(event["nid"], str)
        assert isinstance(event["state"]["vote"], str)
        if "msg" in event:
            assert set(event["msg"]) >= ETCD_MESSAGE_FIELDS
            seen.add(event["msg"]["type"])
        if event["name"] == "ApplyConfChange":
            assert set(event["prop"]["cc"]) == {"newconf"}
        if event["name"] == "ChangeConf":
            assert all(set(item) == {"nid", "action"} for item in event["prop"]["cc"]["changes"])
        if line["tag"] == TAG:
            assert event["name"] in ETCD_NAMES
            seen.add(event["name"])
        else:
            assert line["tag"] == MORE_TAG
    assert seen >= ETCD_NAMES
    assert {"MsgApp", "MsgSnap", "MsgHeartbeat", "MsgPreVote", "MsgTimeoutNow"} <= seen


def test_a_refused_message_is_only_told_if_its_term_was_taken(traced):
    log = MemoryLog(RaftSnapshot(1, 1, configuration_of(frozenset({1, 2}))))
    node = group.RaftNode(RaftOptions(1), log, applied_index=1)
    with pytest.raises(MessageRefused):
        node.step(Message(MessageKind.APP_RESP, 1, 7, 1))
    with pytest.raises(MessageRefused):
        node.step(Message(MessageKind.APP, 1, 2, 1, 1, 1, (Entry(1, 5),)))
    with pytest.raises(MessageRefused):
        node.step(Message(MessageKind.APP, 1, 2, 1, 1, 1, (Entry(1, 5),)))
    assert [json.loads(line)["event"]["name"] for line in traced] == [
        "InitState",
        "ReceiveAppendEntriesRequest",
        "BecomeFollower",
    ]


# Falsehood


def changed(value, name):
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 100
    if name == "role":
        return "StateFollower" if value == "StateLeader" else "StateLeader"
    if name == "conf":
        return [value[0][1:] or ["9"], value[1]]
    return str(int(value) + 1)


STATE_FIELDS = [("log",), ("logTerm",), ("role",), ("conf",)]
STATE_FIELDS += [("state", name) for name in ("term", "vote", "commit")]
RECEIVED_FIELDS = [("nid",)]
RECEIVED_FIELDS += [
    ("msg", name) for name in ("term", "to", "logTerm", "index", "commit", "reject", "entries")
]


@pytest.mark.parametrize("seed", range(5))
def test_any_falsified_value_of_a_line_is_reported(seed, traced):
    """State anywhere, messages where they are received; the last line of all may be anything."""
    RandomGroup(seed, StorageMode.MESSAGES if seed % 2 else StorageMode.READY).run(100)
    judged(traced)
    rng = random.Random(seed)
    kept = [number for number, line in enumerate(traced) if "InitState" not in line]
    for number in rng.sample(kept[:-1], min(30, len(kept) - 1)):
        line = json.loads(traced[number])
        is_received = line["event"]["name"].startswith("Receive")
        path = rng.choice(STATE_FIELDS + RECEIVED_FIELDS * is_received)
        place = line["event"]
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = changed(place[path[-1]], path[-1])
        false = [*traced[:number], json.dumps(line) + "\n", *traced[number + 1 :]]
        try:
            judged(false)
        except (TraceRejected, TraceUnreadable):
            continue
        pytest.fail(f"a false {path} passes in line {number}: {false[number]}")


def elected(traced, *names):
    """The lines of a group of three that elected 1 and committed, and where events stand."""
    story = "add-nodes 3 voters=(1,2,3) index=2\n----\n\ncampaign 1\n----\n\nstabilize\n----\n"
    casefile.run_text(interaction.KIND, story)
    events = [json.loads(line)["event"] for line in traced]
    return [
        next(
            number
            for number, event in enumerate(events)
            if (event["nid"], event["name"]) == (name[0], name[1:])
        )
        for name in names
    ]


def as_replica(line, old, new):
    return line.replace(f'"nid":"{old}"', f'"nid":"{new}"')


@pytest.mark.parametrize("name", ["1SendRequestVoteRequest", "1Replicate", "1BecomeLeader",
                                  "2ReceiveAppendEntriesRequest", "1BecomeCandidate", "1Commit",
                                  "1ReceiveAppendEntriesResponse", "2BecomeFollower"])  # fmt: skip
def test_a_line_that_others_follow_from_cannot_be_left_out(name, traced):
    (number,) = elected(traced, name)
    judged(traced)
    with pytest.raises(TraceRejected):
        judged([*traced[:number], *traced[number + 1 :]])


def test_a_second_leader_of_a_term_and_a_second_vote_are_reported(traced):
    start, leads = elected(traced, "1BecomeCandidate", "1BecomeLeader")
    inits = traced[:3]
    story = traced[3 : leads + 1]
    own = [line for line in story if '"nid":"1"' in line]
    alone = [*inits, *own]
    with pytest.raises(TraceRejected, match="receives what nobody sent"):
        judged(alone)
    # Without the voters' lines nobody can say what was sent, but a vote for two is seen.
    stranger = [line.replace('"to":"1"', '"to":"9"').replace('"from":"1"', '"from":"9"')
                for line in own]  # fmt: skip
    stranger = [as_replica(line, 1, 9).replace('"vote":"1"', '"vote":"9"') for line in stranger]
    begun = as_replica(inits[0], 1, 9)
    with pytest.raises(TraceRejected, match=r"replica [123] has voted for 1|leads term 1 already"):
        judged([inits[0], begun, *own, *stranger])
    assert start < leads


def test_the_command_tells_valid_invalid_and_unreadable(traced, tmp_path, capsys):
    (number,) = elected(traced, "1Commit")
    path = tmp_path / "trace.jsonl"
    foreign = '{"tag":"another","text":"passed over"}\n\n'
    path.write_text(foreign + "".join(traced), encoding="utf-8")
    command = [sys.executable, "-m", "onceflow_consensus.testing.trace_judge", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (
        0,
        f"valid: {len(traced)} lines of 3 replicas\n",
    )
    del traced[number]
    path.write_text("".join(traced), encoding="utf-8")
    assert main([str(path)]) == 1
    assert capsys.readouterr().out.startswith(f"invalid: {path}, line {number + 1}: ")
    assert main([]) == main([str(tmp_path / "absent")]) == 2
    path.write_text(foreign, encoding="utf-8")
    assert main([str(path)]) == 2


def test_files_of_several_replicas_are_put_together_by_time(traced, tmp_path):
    elected(traced, "1Commit")
    files = []
    for peer_id in "123":
        files.append(tmp_path / peer_id)
        own = [line for line in traced if f'"nid":"{peer_id}"' in line]
        files[-1].write_text("".join(own), encoding="utf-8")
    assert main([str(file) for file in files]) == 0
    # One file alone can be judged too, as far as it goes.
    assert main([str(files[1])]) == 0


LINE = {
    "tag": "trace",
    "ts": 0.0,
    "event": {
        "name": "InitState", "nid": "1", "state": {"term": 0, "vote": "0", "commit": 0},
        "role": "StateFollower", "log": 0, "logTerm": 0, "conf": [["1"], []], "learners": [],
        "prop": {"terms": [[0, 0]]},
    },
}  # fmt: skip


def with_event(**fields):
    return json.dumps({**LINE, "event": {**LINE["event"], **fields}})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[1]", "not a JSON object"),
        ("{", "not JSON"),
        ("{}", "'tag' is missing"),
        (json.dumps({**LINE, "ts": "now"}), "'ts'"),
        (with_event(nid=1), "'nid'"),
        (with_event(nid="x"), "'nid'"),
        (with_event(role=None), "'role'"),
        (with_event(log=-1), "'log'"),
        (with_event(log=True), "'log'"),
        (with_event(conf=[["1"]]), "'conf'"),
        (with_event(conf=1), "'conf'"),
        (with_event(state=1), "state: not a JSON object"),
        (with_event(prop={"terms": []}), "'terms'"),
        (with_event(prop={"terms": [[1]]}), "'terms'"),
        (with_event(msg={"type": "MsgApp"}), "'term' is missing"),
    ],
)
def test_a_line_that_is_none_of_a_trace_is_refused(text, reason):
    with pytest.raises(TraceUnreadable, match=reason):
        parse_trace(text)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"role": "StateLeader"}, "starts as a follower"),
        ({"log": 4, "logTerm": 2}, "the log that it lists"),
        ({"name": "Ready"}, "InitState is missing"),
    ],
)
def test_a_beginning_that_cannot_be_is_reported(fields, reason):
    with pytest.raises(TraceRejected, match=reason):
        judge_trace(parse_trace(with_event(**fields)))


# Traced replicas of both engines


class Pair:
    """Two traced replicas of an engine, whose work is done at once."""

    def __init__(self, engine, trace):
        members = configuration_of(frozenset({1, 2}))
        self.logs = {peer: MemoryLog(RaftSnapshot(1, 1, members)) for peer in (1, 2)}
        self.nodes = {
            peer: start_traced_replica(engine, RaftOptions(peer), log, trace, applied_index=1)
            for peer, log in self.logs.items()
        }

    def settle(self):
        while any(node.has_ready() for node in self.nodes.values()):
            for peer, node in self.nodes.items():
                while node.has_ready():
                    self.work(peer, node)

    def work(self, peer, node):
        ready = node.ready()
        self.logs[peer].put(ready.entries)
        for entry in ready.committed_entries:
            if entry.kind is not EntryKind.NORMAL:
                node.apply_conf_change(entry)
        node.advance()
        for message in (*ready.messages, *ready.messages_after_persist):
            if message.to in self.nodes:
                self.nodes[message.to].step(message)


@pytest.mark.parametrize("engine", Engine)
def test_both_engines_tell_elections_proposals_decisions_and_changes(engine, tmp_path):
    path = tmp_path / "trace.jsonl"
    trace = TraceFile(path)
    pair = Pair(engine, trace)
    pair.nodes[1].campaign()
    pair.settle()
    pair.nodes[1].propose(b"x", b"y")
    pair.nodes[1].propose_conf_change(ConfChange((SingleChange(ChangeOp.ADD_LEARNER, 3),)))
    pair.settle()
    for node in pair.nodes.values():
        node.tick(10)
    pair.settle()
    trace.close()
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    names = [line["event"]["name"] for line in lines]
    assert names.count("InitState") == 2
    assert names.count("Replicate") == 3
    assert names.count("ChangeConf") == 1
    assert names.count("ApplyConfChange") == 2
    assert lines[-1]["event"]["learners"] == ["3"]
    assert sorted(line["ts"] for line in lines) == [line["ts"] for line in lines]
    last = pair.nodes[1].status
    state = next(line["event"] for line in reversed(lines) if line["event"]["nid"] == "1")
    assert (state["log"], state["logTerm"]) == (last.last_index, last.term)
    assert state["state"] == {
        "term": last.term, "vote": str(last.vote), "commit": last.commit_index
    }  # fmt: skip
    if engine is Engine.RAFT:
        assert main([str(path)]) == 0
        return
    assert {line["tag"] for line in lines} == {PAXOS_TAG}
    assert {"TakeBallot", "OpenBallot", "Promise", "SendPrepare", "ReceivePromise"} <= set(names)
    assert names.index("TakeBallot") < names.index("SendPrepare") < names.index("ReceivePrepare")
    assert names.index("ReceivePromise") < names.index("OpenBallot") < names.index("Decide")


def test_a_paxos_replica_that_gives_up_or_refuses_tells_it():
    lines = []
    pair = Pair(Engine.PAXOS, Trace(lines.append, lambda: 0.0))
    pair.nodes[1].campaign()
    pair.settle()
    with pytest.raises(MessageRefused):
        pair.nodes[1].step(PaxosMessage(PaxosKind.ACCEPTED, 7, 1, 1))
    # Nobody answers 1 any more: it gives up.
    del pair.nodes[2]
    for _ in range(60):
        pair.nodes[1].tick(10)
        pair.settle()
    names = [json.loads(line)["event"]["name"] for line in lines]
    assert "GiveUp" in names
    assert names.count("ReceiveAccepted") == names.count("SendAccepted")


@pytest.mark.parametrize("seed", range(3))
def test_the_simulator_writes_a_trace_that_repeats_itself_and_is_accepted(seed, tmp_path, capsys):
    paths = [tmp_path / "first", tmp_path / "second"]
    for path in paths:
        arguments = ["--seed", str(seed), "--steps", "80", "--trace", str(path)]
        assert simulate(arguments) == 0
    first, second = (path.read_text(encoding="utf-8") for path in paths)
    assert first == second
    tags = {json.loads(line)["tag"] for line in first.splitlines()}
    assert tags == {TAG, MORE_TAG, PAXOS_TAG}
    assert main([str(paths[0])]) == 0
    assert "valid" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name",
    [
        "majority-minus-one",
        "own-vote-counted-twice",
        "highest-instead-of-median",
        "vote-forgotten-in-the-same-term",
        "vote-kept-for-the-next-term",
    ],
)
def test_a_known_bug_of_the_engine_shows_in_its_trace(name):
    with mutated(KNOWN_BUGS[name]):
        for seed in range(5):
            lines = []
            play(draw_plan("raft", seed, 150), write_trace=lines.append)
            try:
                judged(lines)
            except TraceRejected:
                return
    pytest.fail("five traces were accepted")
