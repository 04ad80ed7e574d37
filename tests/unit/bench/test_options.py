"""Options of benches: every mistake is one line that names the option."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from acceerl.bench.options import describe, option, parse


@dataclass(frozen=True)
class Options:
    seconds: float = option(5.0, "how long", least=0.5)
    clients: int = option(6, "how many", least=1)
    regimes: tuple[str, ...] = option(("a", "b"), "which", choices=("a", "b", "c"))
    suite: str = option("x", "whose", choices=("x", "y"))


def test_defaults_hold_where_nothing_is_said():
    assert parse(Options, "bench toy", []) == Options(5.0, 6, ("a", "b"), "x")


def test_words_become_values_of_their_kinds():
    words = ["seconds=2", "clients=3", "regimes=c,a", "suite=y"]
    assert parse(Options, "bench toy", words) == Options(2.0, 3, ("c", "a"), "y")


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("second=2", "unknown option second of bench toy: did you mean seconds?"),
        ("zzz=2", "unknown option zzz of bench toy: choose from clients, json, regimes, seconds, suite"),
        ("seconds=fast", "toy's seconds must be a number, got 'fast'"),
        ("seconds=nan", "toy's seconds must be a finite number, got nan"),
        ("seconds=inf", "toy's seconds must be a finite number, got inf"),
        ("seconds=0.1", "toy's seconds must be at least 0.5, got 0.1"),
        ("clients=1.5", "toy's clients must be a whole number, got '1.5'"),
        ("clients=", "toy's clients must be a whole number, got ''"),
        ("regimes=a,d", "toy's regimes cannot be 'd': choose from a, b, c"),
        ("regimes=", "toy's regimes cannot be '': choose from a, b, c"),
        ("suite=z", "toy's suite cannot be 'z': choose from x, y"),
    ],
)
def test_a_mistake_names_the_option(word: str, says: str):
    with pytest.raises(ValueError) as error:
        parse(Options, "bench toy", [word])
    assert str(error.value) == says


def test_an_option_is_given_once():
    with pytest.raises(ValueError, match=r"^seconds is given twice: keep one seconds=$"):
        parse(Options, "bench toy", ["seconds=2", "clients=3", "seconds=2"])


def test_help_shows_defaults():
    lines = describe(Options)
    assert lines[0].split() == ["seconds=5.0", "how", "long"]
    assert lines[2].split()[0] == "regimes=a,b"
