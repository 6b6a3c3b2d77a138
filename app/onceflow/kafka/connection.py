"""What a client says about its connections, so that a timeout can be explained.

librdkafka repeats requests silently until their bound and tells only its error callback why nobody
answers. Decides which of that is final (wrong credentials) and how it is put into the message of
an error. A client without an error callback would hand these errors out among its records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from confluent_kafka import KafkaError

from onceflow.errors import OnceflowError, Unreachable
from onceflow.kafka.errors import classify

if TYPE_CHECKING:
    from collections.abc import Callable

_REFUSED: frozenset[int] = frozenset(
    {
        KafkaError._AUTHENTICATION,  # noqa: SLF001 - librdkafka's own codes begin so
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
    }
)


class Connection:
    """Error callback of one client.

    Attributes:
        count: errors told so far; only the thread that polls the client adds.
        last: the latest of them.
    """

    def __init__(self, then: Callable[[KafkaError], object] | None = None) -> None:
        self.count = 0
        self.last: KafkaError | None = None
        self._then = then

    def __call__(self, error: KafkaError) -> None:
        """Take one error; librdkafka calls this."""
        self.count += 1
        self.last = error
        if self._then is not None:
            self._then(error)

    def refusal(self, doing: str) -> OnceflowError | None:
        """Return the error of refused credentials, or None: then repeating makes sense."""
        if self.last is not None and self.last.code() in _REFUSED:
            return classify(self.last, doing)
        return None

    def silence(self, doing: str, bound_s: float) -> OnceflowError:
        """Make the error for an answer that did not come within ``bound_s``."""
        refused = self.refusal(doing)
        if refused is not None:
            return refused
        said = f" The client said last: {self.last.str()}." if self.last is not None else ""
        return Unreachable(
            f"{doing}: no answer within {bound_s:g} s; nothing is lost, work waits.{said} Check"
            " that the brokers run, that the bootstrap and the brokers' advertised addresses can"
            " be reached from here, and that security.protocol fits"
        )
