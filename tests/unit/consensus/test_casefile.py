"""The reader of text cases: what it accepts, and that it refuses the rest."""

from __future__ import annotations

import pytest

from onceflow_consensus.errors import InvariantViolation
from onceflow_consensus.testing import casefile

CASE = """
# comment
say hello to=(a, b) empty=() loud=true
some
input
----
a line

quiet \\
  word
----
----
first

second
----
----

none
----
"""


def test_a_case_is_read_with_its_words_options_input_and_expected_output():
    first, second, third = casefile.parse(CASE)
    assert (first.command, first.line, first.words) == ("say", 3, ["hello"])
    assert first.options({"to", "empty", "loud"}) == {
        "to": ("a", "b"),
        "empty": (),
        "loud": ("true",),
    }
    assert (first.input_text, first.expected) == ("some\ninput", "a line")
    assert (second.words, second.expected) == (["word"], "first\n\nsecond")
    assert third.expected == ""


@pytest.mark.parametrize(
    "text", ["say\nno separator\n", "say\n----\n----\nopen\n", "say a=(b\n----\nok\n"]
)
def test_text_outside_the_format_is_refused(text):
    with pytest.raises(casefile.CaseUnreadable):
        casefile.parse(text)


def test_an_unknown_option_is_refused():
    (directive,) = casefile.parse("say x=1\n----\nok\n")
    with pytest.raises(casefile.CaseUnreadable, match="no argument 'x'"):
        directive.options({"y"})


def echo(directive):
    if directive.command == "stop":
        raise InvariantViolation("INV-TEST-1: broken")
    return directive.input_text


KIND = casefile.Kind("echo", lambda: echo, str.strip)


def test_the_run_goes_on_after_a_difference_and_ends_where_the_engine_stops():
    text = "a\nx\n----\ny\n\nb\nx\n----\nx\n\nstop\n----\nok\n\nc\n----\nnever reached\n"
    differences = casefile.run_text(KIND, text)
    assert [directive.command for directive, _ in differences] == ["a", "stop"]
    assert "-y" in differences[0][1]
    assert differences[1][1] == "the engine stopped: INV-TEST-1: broken"


def test_exit_codes_and_output_of_the_command(tmp_path, capsys):
    def write(name, text):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    good = write("good.txt", "a\nx\n----\nx\n")
    bad = write("bad.txt", "a\nx\n----\ny\n\nstop\n----\nok\n\nc\n----\nz\n")
    empty = write("empty.txt", "# nothing\n")
    assert casefile.main(KIND, [good]) == 0
    assert casefile.main(KIND, [good, bad]) == 1
    out = capsys.readouterr().out
    assert f"pass {good}:1 a\n" in out
    assert f"difference {bad}:1 a\n" in out
    assert "bad.txt:10" not in out
    assert casefile.main(KIND, [bad, empty]) == 2
    assert casefile.main(KIND, []) == 2
    assert "usage" in capsys.readouterr().err
