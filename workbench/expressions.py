"""Expressions: conditions over a run's scalars and their history, such as `loss > 2 * mean(loss, 50)`.

A tokeniser, a recursive-descent parser that checks everything when the text is entered, and closures that are called
afterwards. Nothing of a text is ever executed as code: it can read numbers, and nothing else.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, NoReturn

import numpy as np

from workbench.expression_functions import (
    COMPARISONS,
    FUNCTIONS,
    OPERATIONS,
    WINDOWED,
    Now,
    compared,
    number_of,
)

MAX_LENGTH = 300
MAX_DEPTH = 30
"""Of parentheses, calls and signs within each other."""

MAX_WINDOW = 10_000
MAX_NAMES = 6

_TOKEN = re.compile(
    r"(?P<space>[ \t]+)|(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<quoted>`[^`]+`)|(?P<sign>\*\*|<=|>=|==|!=|&&|\|\||[-+*/()<>,=!^&|%])"
)
_INSTEAD = {"=": "==", "&&": "and", "&": "and", "||": "or", "|": "or", "!": "not", "^": "**"}
_WORDS = ("and", "or", "not")
Kind = Literal["number", "condition"]
Work = Callable[[Now], Any]


class ExpressionError(ValueError):
    """What is wrong with an expression, in one line; text is the expression, at the character, counted from 0."""

    def __init__(self, message: str, text: str, at: int) -> None:
        super().__init__(message)
        self.text, self.at = text, at

    @property
    def pointed(self) -> str:
        """Three lines: what is wrong, the expression, and a caret under the character."""
        shown = "".join(letter if letter.isprintable() else "?" for letter in self.text)
        return f"{self}\n  {shown}\n  {' ' * self.at}^"


@dataclasses.dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: int


@dataclasses.dataclass(frozen=True)
class _Part:
    """What a piece of the text came to: a number or a condition, where it begins, and what works it out."""

    kind: Kind
    at: int
    work: Work


@dataclasses.dataclass(frozen=True, eq=False)
class Expression:
    """A checked condition. names: the scalars that it reads, by first appearance; windowed: those of them that it reads
    at earlier iterations too."""

    text: str
    names: tuple[str, ...]
    windowed: frozenset[str]
    _work: Work

    def holds(self, scalars: Mapping[str, float], earlier: Callable[[str], np.ndarray]) -> bool:
        """Whether it is true of the present scalars, each of its names among them, and those of iterations before.

        earlier(name): (n,) float64, oldest first, without the present iteration. Never raises for any numbers: NaN
        compares false, division by zero gives infinity or NaN.
        """
        return self._work(Now(scalars, earlier))


def parse(text: str, names: Collection[str] | None = None) -> Expression:
    """The condition that a text states; raises ExpressionError where it isn't one.

    names: the scalars there are; a text that has another one is refused. None takes any name.
    """
    return _Parser(text, names).parse()


def complete(text: str, cursor: int, names: Collection[str]) -> list[str]:
    """Names and functions that the word before the cursor may become: those that begin with it, then those that have it
    within, if it is long enough to tell."""
    word = word_before(text, cursor).lower()
    known = [*sorted(names), *sorted(FUNCTIONS)]
    if not word or word in _WORDS:
        return []
    begins = [name for name in known if name.lower().startswith(word)]
    holds = [name for name in known if len(word) > 2 and word in name.lower() and name not in begins]
    return [name for name in begins + holds if name.lower() != word][:MAX_NAMES]


def completed(text: str, cursor: int, name: str) -> str:
    """The text with the word before the cursor replaced by a name; a function gets its parenthesis, odd names
    quotes."""
    start = cursor - len(word_before(text, cursor))
    written = name if name in FUNCTIONS or _is_plain(name) else f"`{name}`"
    opening = "(" if name in FUNCTIONS and not text[cursor:].lstrip().startswith("(") else ""
    return text[:start] + written + opening + text[cursor:]


def word_before(text: str, cursor: int) -> str:
    """The name that ends at the cursor, as far as it is there; of 1e3, there is none."""
    found = re.search(r"(?<![0-9A-Za-z_.])[A-Za-z_][A-Za-z0-9_]*$", text[:cursor])
    return found.group() if found else ""


def _is_plain(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) is not None and name not in _WORDS and name not in FUNCTIONS


class _Parser:
    """Goes through the tokens once; each method reads one kind of piece and gives what it came to."""

    def __init__(self, text: str, names: Collection[str] | None) -> None:
        self._text, self._known = text, names
        self._names: dict[str, None] = {}
        self._windowed: set[str] = set()
        self._depth = self._place = 0
        if len(text) > MAX_LENGTH:
            raise ExpressionError(f"an expression may have {MAX_LENGTH} characters, got {len(text):,}",
                                  text[: MAX_LENGTH + 1], MAX_LENGTH)
        self._tokens = self._split()

    def parse(self) -> Expression:
        if self._tokens[0].kind == "end":
            self._fail("an expression is wanted, such as faces == 0", self._tokens[0])
        whole = self._either()
        if self._next.kind != "end":
            self._fail_at_operator()
        if whole.kind != "condition":
            self._fail("a condition is wanted, such as loss > 1, this is a number", whole)
        return Expression(self._text, tuple(self._names), frozenset(self._windowed), whole.work)

    # Tokens

    def _split(self) -> list[_Token]:
        text, at, found = self._text, 0, []
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                token = _Token("bad", text[at], at)
                self._fail("a quoted name must end with `" if text[at] == "`" else
                           f"{text[at]!r} can't stand in an expression", token)
            if match.lastgroup != "space":
                found.append(_Token(match.lastgroup, match.group(), at))
            at = match.end()
        return [*found, _Token("end", "", len(text))]

    @property
    def _next(self) -> _Token:
        return self._tokens[self._place]

    def _take(self) -> _Token:
        self._place += 1
        return self._tokens[self._place - 1]

    def _taken(self, *texts: str) -> _Token | None:
        """The next token if it is one of these signs or words."""
        here = self._next
        return self._take() if here.kind in ("sign", "name") and here.text in texts else None

    def _fail(self, message: str, where: _Token | _Part) -> NoReturn:
        raise ExpressionError(message, self._text, where.at)

    def _fail_at_operator(self) -> NoReturn:
        """Something stands where an operator or the end should."""
        here = self._next
        if here.text in _INSTEAD:
            self._fail(f"{here.text!r} is written {_INSTEAD[here.text]!r} here", here)
        if here.text in COMPARISONS:
            self._fail("comparisons can't be chained: join two with 'and'", here)
        if here.text == ")":
            self._fail("there is no '(' for this ')'", here)
        self._fail(f"an operator such as > or 'and' is wanted before {here.text!r}", here)

    # Conditions

    def _either(self) -> _Part:
        return self._joined("or", self._both, lambda parts: lambda now: any(part(now) for part in parts))

    def _both(self) -> _Part:
        return self._joined("and", self._negation, lambda parts: lambda now: all(part(now) for part in parts))

    def _joined(self, word: str, read: Callable[[], _Part], joined: Callable[[list[Work]], Work]) -> _Part:
        first = read()
        parts = [first]
        while (token := self._taken(word)) is not None:
            self._want("condition", parts[-1], f"before {token.text!r}")
            parts.append(self._want("condition", read(), f"after {token.text!r}"))
        return first if len(parts) == 1 else _Part("condition", first.at, joined([part.work for part in parts]))

    def _negation(self) -> _Part:
        token = self._taken("not")
        if token is None:
            return self._comparison()
        with self._deeper(token):
            inner = self._want("condition", self._negation(), "after 'not'").work
        return _Part("condition", token.at, lambda now: not inner(now))

    def _comparison(self) -> _Part:
        left = self._sum()
        token = self._taken(*COMPARISONS)
        if token is None:
            return left
        a = self._want("number", left, f"before {token.text!r}").work
        b = self._want("number", self._sum(), f"after {token.text!r}").work
        return _Part("condition", left.at, compared(token.text, a, b))

    # Numbers

    def _sum(self) -> _Part:
        return self._chain(("+", "-"), self._product)

    def _product(self) -> _Part:
        return self._chain(("*", "/"), self._signed)

    def _chain(self, signs: tuple[str, ...], read: Callable[[], _Part]) -> _Part:
        """Operands from left to right: a loop and no recursion, however many there are."""
        first = read()
        rest: list[tuple[Callable, Work]] = []
        while (token := self._taken(*signs)) is not None:
            self._want("number", first, f"before {token.text!r}")
            rest.append((OPERATIONS[token.text], self._want("number", read(), f"after {token.text!r}").work))
        if not rest:
            return first
        start = first.work
        if len(rest) == 1:
            operation, work = rest[0]
            return _Part("number", first.at, lambda now: operation(start(now), work(now)))

        def chained(now: Now) -> float:
            value = start(now)
            for operation, work in rest:
                value = operation(value, work(now))
            return value

        return _Part("number", first.at, chained)

    def _signed(self) -> _Part:
        token = self._taken("-", "+")
        if token is None:
            return self._power()
        with self._deeper(token):
            inner = self._want("number", self._signed(), f"after {token.text!r}").work
        return _Part("number", token.at, inner if token.text == "+" else lambda now: -inner(now))

    def _power(self) -> _Part:
        base = self._atom()
        token = self._taken("**")
        if token is None:
            return base
        a, power = self._want("number", base, "before '**'").work, OPERATIONS["**"]
        with self._deeper(token):
            b = self._want("number", self._signed(), "after '**'").work
        return _Part("number", base.at, lambda now: power(a(now), b(now)))

    def _atom(self) -> _Part:
        token = self._take()
        if token.kind == "number":
            value = float(token.text)
            return _Part("number", token.at, lambda now: value)
        if token.kind == "quoted" or (token.kind == "name" and token.text not in _WORDS):
            if token.kind == "name" and self._next.text == "(":
                return self._call(token)
            name = self._scalar(token)
            return _Part("number", token.at, lambda now: number_of(now.scalars[name]))
        if token.text == "(":
            with self._deeper(token):
                inner = self._either()
                self._close(token)
            return dataclasses.replace(inner, at=token.at)
        if token.kind == "end":
            self._fail("something is wanted here: a name, a number or '('", token)
        if token.text in _INSTEAD:
            self._fail(f"{token.text!r} is written {_INSTEAD[token.text]!r} here", token)
        self._fail(f"a name, a number or '(' is wanted here, got {token.text!r}", token)

    def _call(self, token: _Token) -> _Part:
        function = FUNCTIONS.get(token.text)
        if function is None:
            near = _near(token.text, FUNCTIONS)
            self._fail(f"unknown function {token.text!r}{near or '; there are ' + ', '.join(FUNCTIONS)}", token)
        opening = self._take()
        with self._deeper(opening):
            work = self._window(token) if token.text in WINDOWED else self._arguments(token)
            self._close(opening)
        return _Part("condition" if function.is_condition else "number", token.at, work)

    def _arguments(self, token: _Token) -> Work:
        """Numbers, as many as the function takes."""
        function = FUNCTIONS[token.text]
        parts = [self._want("number", self._either(), f"in {token.text}()").work]
        while self._taken(","):
            parts.append(self._want("number", self._either(), f"in {token.text}()").work)
        if not function.fewest <= len(parts) <= function.most:
            numbers = f"{len(parts)} number{'s' * (len(parts) > 1)}"
            self._fail(f"{function.form} is what can be written, got {numbers}", token)
        work, first = function.work, parts[0]
        if len(parts) == 1:
            return lambda now: work(first(now))
        return lambda now: work(*[part(now) for part in parts])

    def _window(self, token: _Token) -> Work:
        """A scalar's name, and how many iterations where the function takes that: a constant."""
        function, named = FUNCTIONS[token.text], self._take()
        if named.kind not in ("name", "quoted") or named.text in _WORDS or named.text in FUNCTIONS:
            self._fail(f"{token.text}() takes the name of a scalar, as in {function.form}", named)
        name, count, work = self._scalar(named), 1, function.work
        self._windowed.add(name)
        if function.most == 2:
            comma = self._next
            if not self._taken(","):
                self._fail(f"{token.text}() wants how many iterations, as in {function.form}", comma)
            given = self._take()
            if given.kind != "number" or not given.text.isdigit() or not 1 <= int(given.text) <= MAX_WINDOW:
                self._fail(f"a whole number from 1 to {MAX_WINDOW:,} is wanted here, of iterations", given)
            count = int(given.text)
        return lambda now: work(now, name, count)

    def _scalar(self, token: _Token) -> str:
        """The name of a scalar; one that the run lacks is refused."""
        name = token.text.strip("`") if token.kind == "quoted" else token.text
        if self._known is not None and name not in self._known:
            if name in FUNCTIONS:
                self._fail(f"{name} is a function: {FUNCTIONS[name].form}", token)
            near = _near(name, self._known)
            some = "; the run has " + ", ".join(sorted(self._known)[:8]) + ("…" if len(self._known) > 8 else "")
            self._fail(f"unknown name {name!r}{near or (some if self._known else '; the run has no scalars')}", token)
        self._names[name] = None
        return name

    def _close(self, opening: _Token) -> None:
        here = self._next
        if self._taken(")") is None:
            if here.kind == "end":
                self._fail("this '(' is never closed", opening)
            if here.text == ",":
                self._fail("there is nothing here that takes another number", here)
            self._fail_at_operator()

    def _want(self, kind: Kind, part: _Part, where: str) -> _Part:
        if part.kind != kind:
            self._fail(f"a {kind} is wanted {where}, this is a {part.kind}", part)
        return part

    def _deeper(self, token: _Token) -> _Depth:
        if self._depth >= MAX_DEPTH:
            self._fail(f"parentheses and signs may go {MAX_DEPTH} deep", token)
        return _Depth(self)


class _Depth:
    """Counts how deep the parser is, while it reads what is inside."""

    def __init__(self, parser: _Parser) -> None:
        self._parser = parser

    def __enter__(self) -> None:
        self._parser._depth += 1

    def __exit__(self, *_: object) -> None:
        self._parser._depth -= 1


def _near(name: str, known: Collection[str]) -> str:
    """'; did you mean …?' where some known name is like this one."""
    found = difflib.get_close_matches(name.lower(), {one.lower(): one for one in known}, 2, 0.6)
    by_lower = {one.lower(): one for one in known}
    return f"; did you mean {' or '.join(repr(by_lower[one]) for one in found)}?" if found else ""

