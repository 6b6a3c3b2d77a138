"""Cache, Java, jars and ports: where a local Kafka takes what it needs from."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest

from onceflow.errors import ConfigError
from onceflow.localkafka import jars, java, ports
from onceflow.localkafka.cache import cache_directory
from onceflow.localkafka.jars import classpath, parse_checksums, pinned_checksums, verify
from onceflow.localkafka.java import find_java


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """An environment without any of the variables and programs that are looked at."""
    for name in ("ONCEFLOW_CACHE", "XDG_CACHE_HOME", "HOME", "JAVA_HOME", "KAFKA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "bin").mkdir()
    (tmp_path / "tmp").mkdir()
    java.java_version.cache_clear()
    return monkeypatch


def _program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def _java(path: Path, version: str) -> Path:
    return _program(path, f"echo 'openjdk version \"{version}\"' >&2")


def test_the_cache_is_the_first_place_that_the_environment_names(bare, tmp_path):
    bare.setenv("HOME", str(tmp_path / "home"))
    assert cache_directory() == tmp_path / "home" / ".cache" / "onceflow"
    bare.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "onceflow"
    bare.setenv("ONCEFLOW_CACHE", str(tmp_path / "own"))
    assert cache_directory() == tmp_path / "own"
    assert cache_directory().is_dir()


def test_without_a_home_the_cache_is_this_users_below_the_temporary_directory(bare, tmp_path):
    assert cache_directory() == tmp_path / "tmp" / f"onceflow-{os.getuid()}"
    assert stat.S_IMODE(cache_directory().stat().st_mode) == 0o700


def test_a_cache_that_cannot_be_made_says_what_to_set(bare, tmp_path):
    (tmp_path / "file").write_text("")
    bare.setenv("ONCEFLOW_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(ConfigError, match="set ONCEFLOW_CACHE"):
        cache_directory()


def test_java_home_is_asked_before_the_path(bare, tmp_path):
    on_path = _java(tmp_path / "bin" / "java", "17.0.2")
    assert find_java() == on_path
    at_home = _java(tmp_path / "jdk" / "bin" / "java", "21")
    bare.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    assert find_java() == at_home


@pytest.mark.parametrize("version", ["1.8.0_312", "11.0.2", "16"])
def test_a_java_that_is_too_old_is_passed_over(bare, tmp_path, version):
    _java(tmp_path / "old" / "bin" / "java", version)
    bare.setenv("JAVA_HOME", str(tmp_path / "old"))
    newer = _java(tmp_path / "bin" / "java", "17")
    assert find_java() == newer


def test_without_any_java_the_error_names_what_was_found_and_how_to_install_one(bare, tmp_path):
    bare.setattr(java.importlib.util, "find_spec", lambda _: None)
    _java(tmp_path / "bin" / "java", "11.0.2")
    with pytest.raises(ConfigError, match=r"version 11.*apt-get install openjdk-17"):
        find_java()


def test_the_pinned_list_is_that_of_one_kafka_version_with_all_that_a_broker_needs():
    pinned = pinned_checksums()
    versions = {name.rsplit("-", 1)[1] for name in pinned if name.startswith("kafka")}
    assert versions == {"4.3.0.jar"}
    assert {"kafka_2.13-4.3.0.jar", "slf4j-simple-1.7.36.jar"} <= pinned.keys()


def test_jars_that_are_what_was_pinned_pass_and_any_difference_is_named(tmp_path):
    (tmp_path / "a.jar").write_bytes(b"a")
    checksums = {"a.jar": hashlib.sha256(b"a").hexdigest()}
    verify(tmp_path, checksums)
    (tmp_path / "extra.jar").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"extra\.jar"):
        verify(tmp_path, checksums)
    (tmp_path / "extra.jar").unlink()
    (tmp_path / "a.jar").write_bytes(b"b")
    with pytest.raises(ConfigError, match=r"a\.jar.*rm -r"):
        verify(tmp_path, checksums)
    (tmp_path / "a.jar").unlink()
    with pytest.raises(ConfigError, match=r"a\.jar"):
        verify(tmp_path, checksums)


def test_a_missing_maven_is_named_with_the_command_that_installs_it(bare, tmp_path):
    bare.setenv("ONCEFLOW_CACHE", str(tmp_path / "cache"))
    told = []
    with pytest.raises(ConfigError, match="apt-get install maven"):
        classpath(tmp_path / "java", told.append)
    assert told, "a step that takes long is announced"


def test_maven_runs_once_and_its_jars_are_used_offline_afterwards(bare, tmp_path):
    bare.setenv("ONCEFLOW_CACHE", str(tmp_path / "cache"))
    line = f"{hashlib.sha256(b'jar').hexdigest()}  one.jar\n"
    bare.setattr(
        jars, "_package_data", lambda name: {"jars.sha256": line.encode(), "pom.xml": b""}[name]
    )
    maven = _program(
        tmp_path / "bin" / "mvn",
        'for each in "$@"; do case $each in -DoutputDirectory=*) out=${each#*=};; esac; done\n'
        '/bin/mkdir "$out" && printf jar > "$out/one.jar"',
    )
    fetched = classpath(tmp_path / "bin" / "java", lambda _: None)
    maven.unlink()
    assert classpath(tmp_path / "bin" / "java", lambda _: None) == fetched
    record = Path(fetched).parent / "jars.sha256"
    assert parse_checksums(record.read_text()) == {"one.jar": line.split(maxsplit=1)[0]}
    leftovers = [path.name for path in (tmp_path / "cache" / "kafka").glob("fetching-*")]
    assert leftovers == []


def test_jars_other_than_pinned_never_reach_the_cache(bare, tmp_path):
    bare.setenv("ONCEFLOW_CACHE", str(tmp_path / "cache"))
    _program(
        tmp_path / "bin" / "mvn",
        'for each in "$@"; do case $each in -DoutputDirectory=*) out=${each#*=};; esac; done\n'
        '/bin/mkdir "$out" && printf forged > "$out/kafka_2.13-4.3.0.jar"',
    )
    with pytest.raises(ConfigError, match="not those that were pinned"):
        classpath(tmp_path / "bin" / "java", lambda _: None)
    assert list((tmp_path / "cache" / "kafka").glob("jars-*")) == []


def test_kafka_home_is_used_as_it_is_and_refused_if_it_is_no_distribution(bare, tmp_path):
    bare.setenv("KAFKA_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="KAFKA_HOME"):
        classpath(tmp_path / "java", lambda _: None)
    (tmp_path / "libs").mkdir()
    (tmp_path / "libs" / "kafka_2.13-4.3.0.jar").write_bytes(b"")
    assert classpath(tmp_path / "java", lambda _: None) == f"{tmp_path}/libs/*"


def test_free_ports_are_different_free_and_outside_the_range_of_outgoing_connections():
    found = ports.free_ports(5, avoid=frozenset(range(15_000, 31_000)))
    assert len(set(found)) == 5
    assert all(31_000 <= port <= 32_000 for port in found)


def test_a_port_in_use_is_named():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert not ports.is_free(port)
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 is in use"):
            ports.require_free(port, "or none")


def test_a_number_that_is_no_port_is_refused():
    with pytest.raises(ConfigError, match="70000 is not a TCP port"):
        ports.require_free(70_000, "or none")
