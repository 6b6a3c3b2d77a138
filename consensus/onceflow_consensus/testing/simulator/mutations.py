"""Known bugs put back one by one: the proof that the simulator would have found them.

A mutation changes the text of one function, which is compiled again and put in place of the
original, for everybody who has it imported. What it replaces must stand in the function
exactly once: a mutation that no longer fits the code is an error, never a silent pass.
"""

from __future__ import annotations

import importlib
import inspect
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, cast

from onceflow_consensus.errors import ConsensusError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

PACKAGE = "onceflow_consensus"


class MutationStale(ConsensusError):  # noqa: N818 - named by what is wrong, as its siblings
    """What a mutation replaces does not stand where it says. Reaction: write it anew."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """A bug that somebody shipped, or could have.

    name: what the command line calls it. engine: whose bug it is; storage is everybody's.
    function: ``module:qualified.name`` below the package. before, after: the changed text.
    """

    name: str
    engine: str
    function: str
    before: str
    after: str


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def _resolved(module: object, qualname: str) -> FunctionType:
    found: object = module
    for part in qualname.split("."):
        found = inspect.getattr_static(found, part)
    if isinstance(found, property):
        found = found.fget
    return cast("FunctionType", found)


def _mutated_code(mutation: Mutation) -> tuple[FunctionType, CodeType]:
    module_name, qualname = mutation.function.split(":")
    module = importlib.import_module(f"{PACKAGE}.{module_name}")
    function = _resolved(module, qualname)
    text = inspect.getsource(function)
    if text.count(mutation.before) != 1:
        raise MutationStale(
            f"{mutation.name}: its text stands {text.count(mutation.before)} times in "
            f"{mutation.function}; nothing was changed, and nothing is proven by it"
        )
    whole = inspect.getsource(module)
    changed = whole.replace(text, text.replace(mutation.before, mutation.after))
    # The package's own source, changed as listed.
    compiled = compile(changed, module.__name__, "exec", dont_inherit=True)
    return function, next(item for item in _codes(compiled) if item.co_qualname == qualname)


@contextmanager
def mutated(mutation: Mutation) -> Generator[None]:
    """Run with a bug.

    Raises:
        MutationStale: it does not fit the code.
    """
    function, code = _mutated_code(mutation)
    original = function.__code__
    function.__code__ = code
    try:
        yield
    finally:
        function.__code__ = original


def put_in(mutation: Mutation) -> None:
    """Put a bug in until the process ends.

    Raises:
        MutationStale: it does not fit the code.
    """
    function, code = _mutated_code(mutation)
    function.__code__ = code
