from clusters.caller import line, parse
from clusters.load import Outcome


def test_what_is_printed_is_read_again():
    sent = [Outcome(1.5, 1.75, "east"), Outcome(2.0, 2.5, "", "OSError: no\nroute\tto it")]
    assert parse("\n".join(map(line, sent))) == [sent[0], Outcome(2.0, 2.5, "", "OSError: no route to it")]


def test_lines_that_are_cut_or_of_others_are_left_out():
    assert parse("") == []
    assert parse("Traceback (most recent call last):\n1.0\t2.0\teast\t\n1.0\t2.") == [Outcome(1.0, 2.0, "east")]
