"""Options that several commands share, declared once as a dataclass.

``@with_options(Group)`` gives a command the fields of a dataclass as options of its own; the
command gets them as one object, its first argument.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

if TYPE_CHECKING:
    from collections.abc import Callable

Group = TypeVar("Group")
Result = TypeVar("Result")


def with_options(
    group: type[Group],
) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Return a decorator for a command whose first argument is a ``group``.

    Args:
        group: a dataclass whose fields are annotated as Typer's parameters are.
    """
    hints = get_type_hints(group, include_extras=True)
    options = {
        each.name: Parameter(
            each.name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if each.default is MISSING else each.default,
            annotation=hints[each.name],
        )
        for each in fields(group)  # pyright: ignore[reportArgumentType] - a dataclass, see above
    }

    def decorate(
        function: Callable[..., Result],
    ) -> Callable[..., Result]:
        own = list(signature(function, eval_str=True).parameters.values())[1:]

        def command(**values: Any) -> Result:
            chosen = group(**{name: values.pop(name) for name in options})
            return function(chosen, **values)

        described: Any = command
        described.__doc__ = function.__doc__
        described.__name__ = function.__name__
        described.__signature__ = Signature(
            [*(each.replace(kind=Parameter.KEYWORD_ONLY) for each in own), *options.values()]
        )
        described.__annotations__ = {
            each.name: each.annotation for each in (*own, *options.values())
        }
        return command

    return decorate
