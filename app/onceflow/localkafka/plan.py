"""What a cluster's directory remembers: the cluster's id and each broker's ports.

Rules of this file: a directory keeps its number of brokers for ever, and its ports as long as they
are free, so that clients find the cluster again after a restart.
"""

from __future__ import annotations

import base64
import uuid
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import orjson

from onceflow.errors import ConfigError
from onceflow.localkafka.ports import free_ports, is_free, require_free
from onceflow.localkafka.properties import Node

if TYPE_CHECKING:
    from pathlib import Path

_FILE = "cluster.json"


@dataclass(frozen=True, slots=True)
class Plan:
    """A cluster: Kafka's id of it, and its brokers."""

    cluster_id: str
    nodes: tuple[Node, ...]

    @property
    def bootstrap(self) -> str:
        """The addresses that a client is given, comma separated."""
        return ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)


def load_plan(directory: Path) -> Plan | None:
    """Read the plan of ``directory``; None where no cluster was ever started in it.

    Raises:
        ConfigError: the file is not ours; choose another directory.
    """
    path = directory / _FILE
    try:
        content = orjson.loads(path.read_bytes())
        nodes = tuple(
            Node(int(each["node"]), int(each["port"]), int(each["controller_port"]))
            for each in content["nodes"]
        )
        return Plan(str(content["cluster_id"]), nodes)
    except FileNotFoundError:
        return None
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path} does not describe a local Kafka ({error!r}); nothing was started. Choose "
            "another directory, or remove this one if its data is of no use"
        ) from error


def save_plan(directory: Path, plan: Plan) -> None:
    """Write the plan of ``directory``, whole or not at all."""
    partial = directory / f"{_FILE}.part"
    partial.write_bytes(orjson.dumps(asdict(plan), option=orjson.OPT_INDENT_2))
    partial.rename(directory / _FILE)


def make_plan(previous: Plan | None, brokers: int, port: int) -> Plan:
    """Choose ports for a cluster that is about to start.

    Args:
        previous: the plan of the same directory, if it had one.
        brokers: 1 or 3.
        port: the first client port, the others follow it; 0 for the previous or any free ones.

    Raises:
        ConfigError: the directory has another number of brokers, or an explicit port is in use.
    """
    if previous is not None and len(previous.nodes) != brokers:
        raise ConfigError(
            f"the directory holds a cluster of {len(previous.nodes)} brokers, not of {brokers}; "
            "nothing was started. Choose another directory, or the number it was made with"
        )
    if port:
        ports = [port + index for index in range(brokers)]
        for each in ports:
            require_free(each, "or none for any free one")
    else:
        ports = _kept_or_free([node.port for node in previous.nodes] if previous else [], brokers)
    kept = [node.controller_port for node in previous.nodes] if previous else []
    controllers = _kept_or_free(kept, brokers, frozenset(ports))
    nodes = tuple(Node(index + 1, ports[index], controllers[index]) for index in range(brokers))
    return Plan(previous.cluster_id if previous else _new_cluster_id(), nodes)


def _kept_or_free(kept: list[int], count: int, avoid: frozenset[int] = frozenset()) -> list[int]:
    if kept and all(is_free(port) and port not in avoid for port in kept):
        return kept
    return free_ports(count, avoid)


def _new_cluster_id() -> str:
    # Kafka's own form: 16 random bytes in URL-safe base64 without padding. A leading hyphen would
    # look like an option to Kafka's storage tool, hence the letter.
    return "k" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[:21]
