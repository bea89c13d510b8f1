"""Calls of public functions, whose errors name the call and say which arguments do not fit; and of the user's code."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from numbers import Integral
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar, get_args

from zprime import memory
from zprime.errors import UsageError, ZprimeError

P = ParamSpec("P")
R = TypeVar("R")
Types = Mapping[str, Any]
WORDS: Mapping[type, str] = {Integral: "a whole number", Mapping: "a mapping", type(None): "None"}
LONGEST = 60
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def called(
    name: str, *, instead: str = "", like: Callable[..., Any] | None = None, types: Types = MappingProxyType({})
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let the errors of a function begin with its name: `bring.modules: gives: expected ...`.

    Arguments that do not fit its signature are refused by a `UsageError`, which names the nearest one.

    Args:
        name: as users write it.
        instead: what else they may have wanted to write.
        like: the function that takes the keywords which this one takes as `**`.
        types: argument -> class or union of classes that it has to be of, where that is to be checked here.
    """

    def decorate(f: Callable[P, R]) -> Callable[P, R]:
        checked = _checked(f, name, instead=instead, like=like, types=types)

        @functools.wraps(f)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return checked(*args, **kwargs)
            except ZprimeError as error:
                error.call = name  # of the outermost, where one public function calls another
                raise

        return call

    return decorate


def taken(
    name: str, *, instead: str = "", types: Types = MappingProxyType({})
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """The same for the arguments alone: other errors stay as they are, e.g. of a verb that is also a command."""
    return functools.partial(_checked, name=name, instead=instead, like=None, types=types)


def _checked(
    f: Callable[P, R], name: str, *, instead: str, like: Callable[..., Any] | None, types: Types
) -> Callable[P, R]:
    takes = _signature(f, like)

    @functools.wraps(f)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        _check(name, takes, args, kwargs, instead)
        _check_types(takes, types, args, kwargs, instead)
        return f(*args, **kwargs)

    return call


@contextlib.contextmanager
def theirs(
    says: Callable[[BaseException], str], *, kinds: tuple[type[BaseException], ...] = (Exception,)
) -> Iterator[None]:
    """Run code that is not ours: of what it raises a `UsageError` is made, with the error as its cause.

    Errors of zprime go through as they are, and so does an error that says that memory ran out.

    Args:
        says: the text, of the error.
        kinds: of errors that are turned into one; others go through, too.

    Raises:
        UsageError: the block raised an error.
    """
    try:
        yield
    except kinds as error:
        if isinstance(error, ZprimeError) or memory.ran_out(error) is not None:
            raise
        raise UsageError(says(error)) from error


def _signature(f: Callable[..., Any], like: Callable[..., Any] | None) -> inspect.Signature:
    own = inspect.signature(f)
    if like is None:
        return own
    kept = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
    others = [p for p in inspect.signature(like).parameters.values() if p.kind is p.KEYWORD_ONLY]
    return own.replace(parameters=[*kept, *others])


def _check(name: str, takes: inspect.Signature, args: Sequence[object], kwargs: dict[str, Any], instead: str) -> None:
    """Raise `UsageError` for arguments that a function does not take, or for want of one that it needs."""
    try:
        takes.bind(*args, **kwargs)
        return
    except TypeError as error:
        reason = str(error)
    known = [n for n, p in takes.parameters.items() if p.kind in NAMED and n != "self"]
    unknown = next((n for n in kwargs if n not in known), None)
    if unknown is not None:
        near = get_close_matches(unknown.lower(), known, 1)
        what = f"{unknown}: expected one of the arguments {', '.join(known)}, got this name"
        way = f"write {near[0]}=" if near else instead
    else:
        what = f"expected other arguments: {reason}"
        way = "; ".join(part for part in (f"write {name}({_written(takes)})", instead) if part)
    refusal = UsageError(f"{what}; {way}" if way else what)
    refusal.call = name
    raise refusal


def _check_types(
    takes: inspect.Signature, types: Types, args: Sequence[object], kwargs: dict[str, Any], instead: str
) -> None:
    """Raise `UsageError` for an argument of another type than it has to be of."""
    given = takes.bind(*args, **kwargs).arguments
    for name, kind in types.items():
        value = given.get(name)
        flag = kind is Integral and isinstance(value, bool)
        if name in given and (flag or not isinstance(value, kind)):
            kinds = get_args(kind) or (kind,)
            wanted = " or ".join(WORDS.get(k, k.__name__) for k in kinds)
            got = repr(value) if isinstance(value, int | float | str | None) else type(value).__name__
            raise UsageError(f"{name}: expected {wanted}, got {got[:LONGEST]}{f'; {instead}' if instead else ''}")


def _written(takes: inspect.Signature) -> str:
    """The arguments that have to be given, as they are written in a call."""
    parts = [p for n, p in takes.parameters.items() if n != "self"]
    needed = [p.name if p.kind is not p.KEYWORD_ONLY else f"{p.name}=..." for p in parts if p.default is p.empty]
    return ", ".join([*needed, *(["..."] if len(needed) < len(parts) else [])])
