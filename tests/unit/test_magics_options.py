from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faas_magics.errors import OptionError
from faas_magics.options import OPTIONS, Options, parse


def test_all_options_are_understood():
    line = "--env python-ai --name train --timeout 2.5 --memory 512 --cpus 1.5 --in a,b --out c --fresh"
    assert parse(line) == Options("python-ai", "train", 2.5, 512, 1.5, ("a", "b"), ("c",), True)


def test_an_empty_line_is_the_default_session():
    assert parse("  ") == Options(name="default")


@pytest.mark.parametrize("line", ["--in a,b", "--in=a,b", "--in a, b", "--in 'a, b'", "--in a,b,a", "--in=a, b"])
def test_lists_of_names_may_have_spaces_after_commas(line: str):
    assert parse(line).inputs == ("a", "b")


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("--evn x", ["unknown option '--evn'", "did you mean --env?", "--memory"]),
        ("--environment x", ["'--environment'", "did you mean --env?"]),
        ("-timeout 3", ["'-timeout'", "did you mean --timeout?"]),
        ("--time 3", ["'--time'", "did you mean --timeout?"]),
        ("--xyzzy", ["'--xyzzy'", "allowed", "--fresh"]),
        ("python-ai", ["unexpected 'python-ai'", "--env"]),
        ("fresh", ["unexpected 'fresh'", "did you mean --fresh?"]),
        ("--memory 2GB", ["--memory", "a whole number of MB from 32", "'2GB'"]),
        ("--memory 8", ["--memory", "from 32"]),
        ("--timeout 0", ["--timeout", "seconds above 0"]),
        ("--timeout nan", ["--timeout", "seconds above 0"]),
        ("--timeout -5", ["--timeout", "'-5'"]),
        ("--cpus many", ["--cpus", "number of cores"]),
        ("--name a/b", ["--name", "letters, digits"]),
        ("--in 1a", ["--in", "names of variables", "'1a'"]),
        ("--in a,class", ["--in", "names of variables"]),
        ("--out ,", ["--out", "names of variables"]),
        ("--env", ["--env needs a value", "python-ai"]),
        ("--env --fresh", ["--env needs a value"]),
        ("--fresh=yes", ["--fresh takes no value"]),
        ("--env a --env b", ["--env is given twice"]),
        ("--env 'x", ["no closing quotation"]),
    ],
)
def test_a_bad_option_gives_one_line_that_names_it(line: str, parts: list[str]):
    with pytest.raises(OptionError) as caught:
        parse(line)
    message = str(caught.value)
    assert all(part in message for part in parts), message
    assert "\n" not in message
    assert len(caught.value._render_traceback_()) == 1


@given(st.text(max_size=60))
def test_any_line_is_understood_or_refused_in_one_line(line: str):
    refused = ""
    try:
        parse(line)
    except OptionError as exc:
        refused = str(exc)
    assert len(refused.splitlines()) <= 1


def test_every_option_says_what_it_takes():
    assert all(option.takes and option.help for option in OPTIONS.values())
