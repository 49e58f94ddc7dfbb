"""The operations and functions of expressions: on floats as floats do, without ever raising."""

from __future__ import annotations

import dataclasses
import math
import operator
import statistics
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Now(NamedTuple):
    """What an expression is worked out of: the present scalars, and those of the iterations before, by name."""

    scalars: Mapping[str, float]
    earlier: Callable[[str], np.ndarray]


def number_of(value: Any) -> float:
    """A scalar as a float, whatever a run of one's own gives; NaN where it is no number."""
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        return math.nan


def divided(a: float, b: float) -> float:
    """As floats of other languages do: by zero infinity, or NaN for 0 / 0."""
    try:
        return a / b
    except ZeroDivisionError:
        return math.nan if a == 0 or a != a else math.copysign(math.inf, a) * math.copysign(1.0, b)


def raised(a: float, b: float) -> float:
    """a to the power of b; NaN where that is no real number, infinity where it is too large."""
    try:
        found = a**b
    except ZeroDivisionError:
        return math.inf
    except OverflowError:
        return math.inf if a > 0 or b % 2 == 0 else -math.inf
    return math.nan if isinstance(found, complex) else found


OPERATIONS: dict[str, Callable[[float, float], float]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": divided, "**": raised,
}
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq,
    "!=": lambda a, b: a < b or a > b,
}
"""With NaN all of them are false, `!=` too."""


def compared(sign: str, a: Callable[[Now], float], b: Callable[[Now], float]) -> Callable[[Now], bool]:
    relation = COMPARISONS[sign]
    return lambda now: relation(a(now), b(now))


def smallest(*numbers: float) -> float:
    """NaN where any of them is."""
    return math.nan if any(number != number for number in numbers) else min(numbers)


def largest(*numbers: float) -> float:
    """NaN where any of them is."""
    return math.nan if any(number != number for number in numbers) else max(numbers)


def root(number: float) -> float:
    return math.sqrt(number) if number >= 0 else math.nan


# Windows: the present value and those of count - 1 iterations before; what is no number, or isn't there, is left out

def window(now: Now, name: str, count: int) -> list[float]:
    """The numbers of a window, the present one last."""
    values = now.earlier(name)[-(count - 1) :].tolist() if count > 1 else []
    values.append(number_of(now.scalars[name]))
    return [value for value in values if value == value]


def window_sum(now: Now, name: str, count: int) -> tuple[float, int]:
    """Sum and number of a window's values; in place, where all of them are numbers."""
    present = number_of(now.scalars[name])
    before = now.earlier(name)[-(count - 1) :] if count > 1 else ()
    total = float(np.add.reduce(before)) + present if len(before) else present
    if total == total:
        return total, len(before) + 1
    values = window(now, name, count)
    with np.errstate(all="ignore"):
        return float(np.sum(values)), len(values)


def mean(now: Now, name: str, count: int) -> float:
    with np.errstate(all="ignore"):
        total, number = window_sum(now, name, count)
    return divided(total, number)


def std(now: Now, name: str, count: int) -> float:
    """Of all values: the root of their mean squared distance from their mean."""
    values = window(now, name, count)
    if not values:
        return math.nan
    with np.errstate(all="ignore"):
        return float(np.std(values))


def median(now: Now, name: str, count: int) -> float:
    values = window(now, name, count)
    return float(statistics.median(values)) if values else math.nan


def lowest(now: Now, name: str, count: int) -> float:
    return min(window(now, name, count), default=math.nan)


def highest(now: Now, name: str, count: int) -> float:
    return max(window(now, name, count), default=math.nan)


def last(now: Now, name: str, count: int) -> float:
    """The value so many iterations before; NaN where there were none."""
    values = now.earlier(name)
    return float(values[-count]) if count <= len(values) else math.nan


def change(now: Now, name: str, _: int) -> float:
    """From the iteration before."""
    return number_of(now.scalars[name]) - last(now, name, 1)


@dataclasses.dataclass(frozen=True)
class Function:
    """form: as it is written; tip: what it gives; work takes floats, or for a window Now, name and count; fewest, most:
    how many arguments."""

    form: str
    tip: str
    work: Callable[..., Any]
    fewest: int = 1
    most: int = 1
    is_condition: bool = False


FUNCTIONS: dict[str, Function] = {
    "isnan": Function("isnan(x)", "x is no number", math.isnan, is_condition=True),
    "isinf": Function("isinf(x)", "x is infinite", math.isinf, is_condition=True),
    "abs": Function("abs(x)", "x without its sign", abs),
    "sqrt": Function("sqrt(x)", "the square root of x", root),
    "min": Function("min(x, y)", "the smallest of some numbers", smallest, 2, 8),
    "max": Function("max(x, y)", "the largest of some numbers", largest, 2, 8),
    "mean": Function("mean(loss, 50)", "the mean over so many iterations, the present one included", mean, 2, 2),
    "median": Function("median(loss, 50)", "the median over so many iterations", median, 2, 2),
    "std": Function("std(loss, 50)", "the standard deviation over so many iterations", std, 2, 2),
    "lowest": Function("lowest(loss, 50)", "the lowest value of so many iterations", lowest, 2, 2),
    "highest": Function("highest(loss, 50)", "the highest value of so many iterations", highest, 2, 2),
    "last": Function("last(loss, 1)", "the value so many iterations before", last, 2, 2),
    "change": Function("change(loss)", "the difference to the iteration before", change, 1, 1),
}
WINDOWED = ("mean", "median", "std", "lowest", "highest", "last", "change")
