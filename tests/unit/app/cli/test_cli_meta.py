"""Options of ``onceflow meta``: what is read from them, and what is refused at once."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import Annotated

import pytest
import typer

from onceflow import cli
from onceflow.cli.meta_options import (
    DEFAULT_MEMBER,
    Connection,
    Serving,
    parse_member,
    read_token,
    tls_files,
    told,
)
from onceflow.cli.option_groups import with_options
from onceflow.errors import (
    ConfigError,
    DataAtRisk,
    InvariantViolation,
    OnceflowError,
    StorageFailed,
    Unreachable,
)
from onceflow_consensus import errors
from onceflow_consensus.replica import Engine
from onceflow_consensus.server.options import Start


@pytest.fixture
def run(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("TERMINAL_WIDTH", "300")

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main(["meta", *arguments])
        printed = capsys.readouterr()
        return caught.value.code, printed.out, printed.err

    return call


def test_a_member_without_options_is_a_group_of_one(tmp_path):
    options = Serving(directory=tmp_path).to_options()
    assert list(options.members) == [1]
    assert (str(options.listen.peer), str(options.listen.client)) == (
        "127.0.0.1:7400",
        "127.0.0.1:7401",
    )
    assert (options.start, options.engine) == (Start.FOUND, Engine.RAFT)


def test_options_of_a_member_reach_the_server(tmp_path):
    token = tmp_path / "token"
    token.write_text(" secret\n")
    options = Serving(
        directory=tmp_path / "data",
        peer_id=4,
        member=["1=a:1,a:2", "4=b:1,b:2"],
        listen="0.0.0.0:3,[::]:4",
        joining=True,
        cluster="other",
        peer_tls=tmp_path / "peers",
        token_file=token,
        snapshot_log_bytes=5000,
    ).to_options()
    assert options.peer_id == 4
    assert str(options.members[4].client) == "b:2"
    assert str(options.listen.client) == "[::]:4"
    assert (options.start, options.cluster_id) == (Start.JOIN, "other")
    assert options.peer_tls.certificate == tmp_path / "peers" / "tls.crt"
    assert options.client_tls is None
    assert options.client_token == "secret"
    assert options.snapshot_log_bytes == 5000
    assert "secret" not in repr(options)


@pytest.mark.parametrize("text", ["", "x", "1", "1=", "1=a:1", "0=a:1,b:2", "1=a,b:2", "1=a:1,b:x"])
def test_a_malformed_member_is_refused(text):
    with pytest.raises(ConfigError):
        parse_member(text)


def test_a_member_that_is_not_in_its_list_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="not among"):
        Serving(directory=tmp_path, peer_id=2).to_options()


def test_tokens_and_tls_folders_are_read_or_refused(tmp_path):
    assert read_token(None) == ""
    assert tls_files(None) is None
    empty = tmp_path / "empty"
    empty.write_text("\n")
    for path in (empty, tmp_path / "missing"):
        with pytest.raises(ConfigError, match="token file"):
            read_token(path)


def test_several_endpoints_are_read():
    addresses = Connection(endpoints="a:1, [::1]:2").addresses()
    assert [str(each) for each in addresses] == ["a:1", "[::1]:2"]
    with pytest.raises(ConfigError):
        Connection(endpoints="a").addresses()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.InvalidOptions("x"), ConfigError),
        (errors.StorageLocked("x"), ConfigError),
        (errors.StorageCorrupt("x"), DataAtRisk),
        (errors.StorageUnknown("x"), DataAtRisk),
        (errors.SnapshotUnreadable("x"), DataAtRisk),
        (errors.StorageFailed("x"), StorageFailed),
        (errors.GroupUnreachable("x"), Unreachable),
        (errors.RequestRefused("x"), ConfigError),
        (errors.SessionLost("x"), OnceflowError),
        (errors.InvariantViolation("x"), InvariantViolation),
    ],
)
def test_errors_of_the_group_have_the_exit_codes_of_the_table(error, kind):
    with pytest.raises(kind) as caught, told():
        raise error
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    "arguments",
    [
        ("serve",),
        ("serve", "--dir=d", "--engine=other"),
        ("serve", "--dir=d", "--member=nonsense"),
        ("status", "--endpoints=nonsense"),
        ("status", "--token-file=missing"),
        ("transfer",),
        ("kv", "cas", "k", "x", "y", "--by=version"),
        ("members", "add", "4"),
        ("status", "--tls=missing"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_starts_nothing(run, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert code == 2
    assert not out
    assert err
    assert not list(tmp_path.iterdir())


def test_every_command_has_help_with_an_example(run):
    for command in (
        ("serve",), ("status",), ("transfer",), ("backup",), ("restore",), ("members",),
        ("members", "add"), ("members", "promote"), ("members", "remove"),
        ("kv", "put"), ("kv", "get"), ("kv", "cas"), ("kv", "delete"), ("kv", "scan"),
    ):  # fmt: skip
        code, out, _ = run(*command, "--help")
        assert code == 0
        assert "Example: onceflow meta" in " ".join(out.split()), command
    assert DEFAULT_MEMBER in run("serve", "--help")[1]


def test_help_does_not_load_the_group():
    code = (
        "import sys, onceflow.cli.meta; "
        "sys.exit(any(name.startswith('onceflow_consensus') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


@dataclass(frozen=True)
class Fruit:
    colour: Annotated[str, typer.Option(help="Its colour.")]
    ripe: Annotated[bool, typer.Option("--ripe")] = False


def test_a_group_of_options_is_handed_over_as_one_object():
    app = typer.Typer()
    taken = []

    @app.command()
    @with_options(Fruit)
    def eat(fruit: Fruit, name: Annotated[str, typer.Argument()], count: int = 1) -> None:
        """Eat it."""
        taken.append((fruit, name, count))

    app(["apple", "--colour=red", "--ripe", "--count=3"], standalone_mode=False)
    assert taken == [(Fruit("red", ripe=True), "apple", 3)]
