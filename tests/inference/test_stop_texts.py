"""Stop texts: found whatever the pieces, and never shown in part."""

from hypothesis import given
from hypothesis import strategies as st

from camelid.inference.answer import StopFinder

letters = st.text("ab", max_size=30)


def cut_slowly(text: str, stops: list[str]) -> str:
    """What stands before the stop text that is complete first, the longest of those that are so at once."""
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))]
    return text


@given(st.lists(letters, max_size=8), st.lists(st.text("ab", min_size=1, max_size=6), max_size=4))
def test_text_is_cut_where_the_first_stop_begins(pieces: list[str], stops: list[str]) -> None:
    finder = StopFinder(stops)
    text = "".join(pieces)
    shown = ""
    for piece in pieces:
        shown += finder.push(piece)
        assert text.startswith(shown)
        if finder.has_found():
            break
    expected = cut_slowly(text, stops)
    assert finder.has_found() == (expected != text)
    if not finder.has_found():
        for stop in stops:
            for length in range(1, len(stop)):
                assert not (shown.endswith(stop[:length]) and shown == text), "the beginning of a stop was shown"
        shown += finder.flush()
    assert shown == expected


def test_no_more_is_held_back_than_must_be() -> None:
    finder = StopFinder(["###", "\nUser:"])
    assert finder.push("one\nUs") == "one"
    assert finder.push("ual #") == "\nUsual "
    assert finder.push("# two") == "## two"
    assert finder.push("\nUser: three") == ""
    assert finder.has_found()
