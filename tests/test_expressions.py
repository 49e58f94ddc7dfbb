"""The language of breakpoints: what it means against a slow twin, where its errors point; no text breaks it."""

from __future__ import annotations

import ast
import builtins
import math
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from workbench import expression_functions, expressions
from workbench.expression_functions import FUNCTIONS
from workbench.expressions import MAX_DEPTH, MAX_LENGTH, ExpressionError, complete, completed, parse

NAN, INF = math.nan, math.inf
SCALARS = {"loss": 3.0, "faces": 0.0, "active": 10.0, "voxels": 1000.0, "bad": NAN, "huge": INF, "loss/depth": 7.0}
PAST = {"loss": np.array([1.0, 2.0, 4.0]), "bad": np.array([1.0, NAN, 5.0]), "faces": np.zeros(0)}


def holds(text: str, scalars: dict = SCALARS) -> bool:
    return parse(text, scalars).holds(scalars, lambda name: PAST.get(name, np.zeros(0)))


@pytest.mark.parametrize(("text", "wanted"), [
    ("faces == 0", True), ("active / voxels < 0.02", True), ("active / voxels < 0.01", False), ("isnan(loss)", False),
    ("isnan(bad)", True), ("isinf(huge)", True), ("loss > 1e3", False), ("loss > .5", True), ("loss >= 3.", True),
    ("1 + 2 * 3 == 7", True), ("(1 + 2) * 3 == 9", True), ("10 - 4 - 3 == 3", True), ("16 / 4 / 2 == 2", True),
    ("2 ** 3 ** 2 == 512", True), ("-2 ** 2 == -4", True), ("2 ** -1 == .5", True), ("--loss == 3", True),
    ("+loss == 3", True), ("not loss > 5", True), ("not not loss > 5", False),
    ("loss > 5 or faces == 0 and active == 10", True), ("(loss > 5 or faces == 0) and active == 11", False),
    ("abs(-loss) == 3", True), ("min(loss, 50, 2) == 2", True), ("max(loss, 50) == 50", True), ("sqrt(9) == 3", True),
    ("`loss/depth` == 7", True), ("loss != 3", False), ("loss != 4", True), ("(loss > 1) and ((faces) == (0))", True),
])
def test_what_conditions_mean(text: str, wanted: bool) -> None:
    assert holds(text) is wanted


@pytest.mark.parametrize("sign", ["<", "<=", ">", ">=", "==", "!="])
def test_nan_compares_false(sign: str) -> None:
    assert not holds(f"bad {sign} 1") and not holds(f"1 {sign} bad") and not holds(f"bad {sign} bad")
    assert not holds(f"min(bad, 1) {sign} 1") and not holds(f"max(1, bad) {sign} 1")


@pytest.mark.parametrize("text", [
    "isinf(loss / faces)", "loss / faces > 1e300", "-loss / faces < -1e300", "isnan(faces / faces)",
    "isnan(bad / faces)", "isinf(1e999)", "isinf(10 ** 400)", "isinf(10 ** 400 * 10)",
    "(0 - 10) ** 401 < 0", "isnan((-8) ** (1 / 3))",
    "isinf(faces ** -1)", "isnan(sqrt(-1))", "isnan(huge - huge)", "isnan(sqrt(bad))",
])
def test_numbers_overflow_as_floats_do(text: str) -> None:
    assert holds(text)


@pytest.mark.parametrize(("text", "wanted"), [
    ("mean(loss, 1)", 3.0), ("mean(loss, 2)", 3.5), ("mean(loss, 4)", 2.5), ("mean(loss, 50)", 2.5),
    ("median(loss, 4)", 2.5), ("median(loss, 3)", 3.0), ("std(loss, 4)", np.std([1, 2, 4, 3])), ("std(faces, 9)", 0.0),
    ("lowest(loss, 50)", 1.0), ("lowest(loss, 2)", 3.0), ("highest(loss, 50)", 4.0), ("last(loss, 1)", 4.0),
    ("last(loss, 3)", 1.0), ("change(loss)", -1.0), ("mean(bad, 50)", 3.0), ("highest(bad, 50)", 5.0),
    ("mean(faces, 50)", 0.0),
])
def test_windows(text: str, wanted: float) -> None:
    """The present value and those before it; what is no number is left out."""
    assert holds(f"abs({text} - {wanted!r}) < 1e-12".replace("np.float64(", "(")), text
    assert not holds(f"{text} == {wanted + 1!r}".replace("np.float64(", "("))


@pytest.mark.parametrize("text", ["isnan(last(loss, 4))", "isnan(last(faces, 1))", "isnan(change(faces))",
                                  "isnan(last(bad, 2))", "isnan(mean(voxels, 1) - mean(bad, 1))"])
def test_windows_without_numbers(text: str) -> None:
    assert holds(text)


def test_names_are_known_and_windows_too() -> None:
    parsed = parse("loss > 2 * mean(loss, 50) and `loss/depth` > faces")
    assert parsed.names == ("loss", "loss/depth", "faces") and parsed.windowed == {"loss"}


@pytest.mark.parametrize(("text", "at", "said"), [
    ("los > 3", 0, "unknown name 'los'; did you mean 'loss'?"), ("faces == 0 and LOSS > 3", 15, "did you mean 'loss'?"),
    ("zzz > 1", 0, "the run has active, bad"), ("loss = 3", 5, "'=' is written '==' here"),
    ("loss > 1 && faces == 0", 9, "written 'and'"), ("loss > 1 || faces == 0", 9, "written 'or'"),
    ("!(loss > 1)", 0, "written 'not'"), ("loss ^ 2 > 1", 5, r"written '\*\*'"),
    ("1 < loss < 3", 9, "can't be chained: join two with 'and'"), ("loss", 0, "a condition is wanted"),
    ("loss + 1", 0, "a condition is wanted"), ("loss + (loss > 1) > 2", 7, "a number is wanted after '\\+'"),
    ("loss and faces > 1", 0, "a condition is wanted before 'and'"),
    ("not loss", 4, "a condition is wanted after"),
    ("-(loss > 1) > 2", 1, "a number is wanted"), ("(loss > 1", 0, "never closed"),
    ("loss > 1)", 8, "no '\\('"),
    ("", 0, "an expression is wanted"), ("   ", 3, "an expression is wanted"),
    ("loss >", 6, "something is wanted here"),
    ("loss > * 3", 7, "a name, a number"), ("loss 3", 5, "an operator"), ("loss $ 3", 5, "can't stand"),
    ("loss > 3;", 8, "can't stand"), ("loss.real > 3", 4, "can't stand"), ("loss[0] > 3", 4, "can't stand"),
    ("'loss' > 3", 0, "can't stand"), ("`loss > 3", 0, "quoted name must end"), ("loss > 3\n", 8, "can't stand"),
    ("mena(loss, 3) > 1", 0, "unknown function 'mena'; did you mean 'mean'"), ("eval(loss) > 1", 0, "unknown function"),
    ("mean(loss) > 1", 9, "wants how many iterations"), ("mean(3, 4) > 1", 5, "takes the name of a scalar"),
    ("mean(loss, 0) > 1", 11, "whole number from 1"), ("mean(loss, 2.5) > 1", 11, "whole number"),
    ("mean(loss, 99999) > 1", 11, "whole number"), ("mean(loss, active) > 1", 11, "whole number"),
    ("mean(los, 3) > 1", 5, "unknown name 'los'"), ("min(loss) > 1", 0, "what can be written, got 1 number"),
    ("isnan(loss, 3)", 0, "what can be written"), ("change(loss, 3) > 1", 11, "nothing here"),
    ("isnan > 1", 0, "isnan is a function"), ("isnan(loss > 1)", 6, "a number is wanted in isnan"),
    ("loss % 2 == 1", 5, "an operator"), ("loss // 2 == 1", 6, "a name, a number"),
    ("and loss > 1", 0, "a name, a number"),
    ("0x10 > loss", 1, "an operator"), ("1_000 > loss", 1, "an operator"), ("lambda: 1", 6, "can't stand"),
])
def test_errors_point_at_the_character(text: str, at: int, said: str) -> None:
    with pytest.raises(ExpressionError, match=said) as caught:
        parse(text, SCALARS)
    assert caught.value.at == at and caught.value.text == text and "\n" not in str(caught.value)
    first, second, third = caught.value.pointed.split("\n")
    assert first == str(caught.value) and third.index("^") == at + 2 and len(second) == len(text) + 2


def test_length_and_depth_are_bounded() -> None:
    longest = "loss" + "+1" * ((MAX_LENGTH - 6) // 2) + ">1"
    assert len(longest) == MAX_LENGTH and holds(longest)
    with pytest.raises(ExpressionError, match=f"{MAX_LENGTH} characters"):
        parse(longest + "0")
    for opening, closing in (("(", ")"), ("-", ""), ("abs(", ")"), ("2**", "")):
        assert parse(opening * MAX_DEPTH + "1" + closing * MAX_DEPTH + " > 0")
        with pytest.raises(ExpressionError, match="deep"):
            parse(opening * (MAX_DEPTH + 1) + "1" + closing * (MAX_DEPTH + 1) + " > 0")
    with pytest.raises(ExpressionError, match="deep"):
        parse("not " * (MAX_DEPTH + 1) + "loss > 1")


# the slow twin: trees are made at random, written as text, and worked out by recursion

def twin(tree: tuple) -> float | bool:
    kind, *rest = tree
    with np.errstate(all="ignore"):
        if kind == "number":
            return np.float64(rest[0])
        if kind == "name":
            return np.float64(SCALARS[rest[0]])
        if kind == "window":
            function, name, count = rest
            values = np.append(PAST.get(name, np.zeros(0)), SCALARS[name])[-count:]
            values = values[~np.isnan(values)]
            means = {"mean": np.mean, "std": np.std, "median": np.median, "lowest": np.min, "highest": np.max}
            return means[function](values) if len(values) else np.float64(NAN)
        parts = [twin(part) for part in rest]
        if kind in ("and", "or", "not"):
            return {"and": all, "or": any, "not": lambda p: not p[0]}[kind](parts)
        a, b = (*parts, np.float64(0))[:2]
        if kind == "!=":
            return bool(a != b) and not (np.isnan(a) or np.isnan(b))
        found = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide, "<": np.less, "<=": np.less_equal,
                 ">": np.greater, ">=": np.greater_equal, "==": np.equal, "minus": lambda x, _: -x}[kind](a, b)
        return bool(found) if isinstance(found, np.bool_) else found


def written(tree: tuple) -> str:
    kind, *rest = tree
    if kind == "number":
        return repr(rest[0])
    if kind == "name":
        return rest[0]
    if kind == "window":
        return f"{rest[0]}({rest[1]}, {rest[2]})"
    parts = [f"({written(part)})" for part in rest]
    sign = {"not": "not ", "minus": "-"}.get(kind)
    return sign + parts[0] if sign else f"{parts[0]} {kind} {parts[1]}"


_LEAVES = st.one_of(
    st.tuples(st.just("number"), st.sampled_from([0.0, 1.0, 2.5, 1e-3, 1e300])),
    st.tuples(st.just("name"), st.sampled_from(["loss", "faces", "active", "bad", "huge"])),
    st.tuples(st.just("window"), st.sampled_from(["mean", "median", "std", "lowest", "highest"]),
              st.sampled_from(["loss", "bad", "faces"]), st.integers(1, 6)),
)
_NUMBERS = st.recursive(_LEAVES, lambda inner: st.one_of(
    st.tuples(st.sampled_from("+-*/"), inner, inner), st.tuples(st.just("minus"), inner)), max_leaves=5)
_CONDITIONS = st.recursive(
    st.tuples(st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), _NUMBERS, _NUMBERS),
    lambda inner: st.one_of(st.tuples(st.sampled_from(["and", "or"]), inner, inner), st.tuples(st.just("not"), inner)),
    max_leaves=3)


@settings(max_examples=250, deadline=None)
@given(_CONDITIONS)
def test_equals_the_slow_twin(tree: tuple) -> None:
    text = written(tree)
    if len(text) <= MAX_LENGTH:
        assert holds(text) == twin(tree), text


# fuzz: any text is a condition that can be worked out, or an ExpressionError within the text

_PIECES = st.sampled_from([*SCALARS, *FUNCTIONS, "and", "or", "not", "(", ")", "+", "-", "*", "/", "**", "<", "==", ",",
                           "1", "50", "1e9", ".5", " ", "`", "=", "&&", "\t", "\n", "é", "__import__", "0" * 40, "^"])


@settings(max_examples=700, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(_PIECES, max_size=40).map("".join), st.lists(_PIECES, max_size=40).map(
    " ".join)))
@example("__import__('os').system('x')")
@example("().__class__.__bases__[0]")
@example("9" * 300)
@example("9**9**9**9**9 > 1")
@example("-" * 299 + "1")
@example("((((((" * 50)
@example("\x00")
@example("ſ > 1")
def test_no_text_breaks_it(text: str) -> None:
    try:
        parsed = parse(text, SCALARS)
    except ExpressionError as error:
        assert 0 <= error.at <= len(error.text) and str(error) and error.pointed.count("\n") == 2
        return
    assert isinstance(parsed.holds(SCALARS, lambda name: PAST.get(name, np.zeros(0))), bool | np.bool_)


CODE = ("__import__('os').system('id')", "eval('1') > 0", "exec(loss) > 0", "open(loss) > 0", "loss.__class__ > 0",
        "(lambda: 1)() > 0", "loss if loss else loss", "[x for x in loss]", "loss := 3", "f'{loss}' > 1",
        "abs(loss).__init__ > 1", "globals() > 1", "print(loss) > 1", "`__import__` > 1")


def test_nothing_is_ever_executed(monkeypatch) -> None:
    """Texts that would be code elsewhere are refused, nothing that could run one is called, or named in the source."""
    ran = []
    for owner, name in ((builtins, "eval"), (builtins, "exec"), (builtins, "compile"), (os, "system"),
                        (subprocess, "Popen")):
        monkeypatch.setattr(owner, name, lambda *_, name=name, **__: ran.append(name))
    for text in CODE:
        with pytest.raises(ExpressionError):
            parse(text, SCALARS)
    monkeypatch.undo()
    assert ran == []
    for module in (expressions, expression_functions):
        tree = ast.parse(Path(module.__file__).read_text("utf-8"))
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
        assert not names & {"eval", "exec", "compile", "getattr", "__import__", "globals", "open"}
        assert not imported & {"ast", "importlib", "os", "sys", "subprocess", "builtins", "pickle"}


def test_completion() -> None:
    names = ("loss", "loss_depth", "faces", "loss/mask", "grad_norm")
    assert complete("fa", 2, names) == ["faces"] and complete("faces > lo", 10, names)[:2] == ["loss", "loss/mask"]
    assert complete("norm", 4, names) == ["grad_norm"] and complete("LOSS_", 5, names) == ["loss_depth"]
    assert complete("fa > 1", 2, names) == ["faces"] and complete("", 0, names) == [] and complete("3e", 2, names) == []
    assert complete("x and", 5, ("land", "and_so")) == [] and complete("ss", 2, names) == []
    assert complete("loss > ", 7, names) == [] and "loss" not in complete("loss", 4, names)
    assert completed("2 * me + 1", 6, "mean") == "2 * mean( + 1" and completed("me(loss)", 2, "mean") == "mean(loss)"
    assert completed("lo > 1", 2, "loss/mask") == "`loss/mask` > 1" and completed("x > lo", 6, "loss") == "x > loss"
