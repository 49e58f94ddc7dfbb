"""Shapes and types of sparseflex's signatures, checked in the suite by jaxtyping and beartype."""

from __future__ import annotations

import contextlib
import functools
import sys
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

# the numeric tower: an int is welcome where a float is asked for, as Python itself has it
checker = beartype(conf=BeartypeConf(is_pep484_tower=True))
_jaxtyped = jaxtyping.jaxtyped

ALL_OF_FIRST, ONE_IN = 200, 10
"""So many calls of each function are checked, then one in so many: checks of all calls took half the suite's time."""


def _own_errors_first(function: Any, checked: Any) -> Any:
    """checked, but where it complains the function's own validation speaks first.

    The boundary of the library answers bad input with a ValueError of its own, and tests want to read that one; the
    shape check is for what the code lets through.
    """

    n_calls = 0

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        if n_calls > ALL_OF_FIRST and n_calls % ONE_IN:
            return function(*args, **kwargs)
        try:
            return checked(*args, **kwargs)
        except jaxtyping.TypeCheckError as complaint:
            with contextlib.suppress(TypeError, RuntimeError, AttributeError, LookupError):
                function(*args, **kwargs)
            raise complaint from None

    return call


def _lenient_jaxtyped(target: Any = None, *, typechecker: Any) -> Any:
    if target is None:
        return functools.partial(_lenient_jaxtyped, typechecker=typechecker)
    if isinstance(target, type):
        original = target.__init__
        target = _jaxtyped(target, typechecker=typechecker)
        if target.__init__ is not original:
            target.__init__ = _own_errors_first(original, target.__init__)
        return target
    if "<locals>" in getattr(target, "__qualname__", ""):
        return target  # made anew by each call of the function around it, and its check would be, too
    checked = _jaxtyped(target, typechecker=typechecker)
    return _own_errors_first(target, checked) if callable(target) else checked


def install(package: str) -> None:
    """Checks every function and dataclass of the package from its first import on."""
    imported = [name for name in sys.modules if name.split(".")[0] == package]
    if imported:
        raise RuntimeError(f"{package} was imported before its type checks were installed: {imported[0]}")
    jaxtyping.jaxtyped = _lenient_jaxtyped
    jaxtyping.install_import_hook(package, "typecheck.checker")
