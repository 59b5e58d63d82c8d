"""Stop texts: found whatever the pieces, and never shown in part."""

import random

from camelid.inference.answer import StopFinder


def cut_slowly(text: str, stops: list[str]) -> str:
    """What stands before the stop text that is complete first, the longest of those that are so at once."""
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))]
    return text


def test_text_is_cut_where_the_first_stop_begins() -> None:
    # Stops that begin within themselves, and texts that almost complete them, are what is hard: chance makes many.
    rng = random.Random(1)

    def letters(shortest: int, longest: int) -> str:
        return "".join(rng.choices("ab", k=rng.randint(shortest, longest)))

    for _ in range(4000):
        pieces = [letters(0, 12) for _ in range(rng.randint(0, 6))]
        check_cut(pieces, [letters(1, 7) for _ in range(rng.randint(0, 4))])


def check_cut(pieces: list[str], stops: list[str]) -> None:
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
        held = text[len(shown) :]
        longest = max((n for stop in stops for n in range(len(stop)) if text.endswith(stop[:n])), default=0)
        assert len(held) == longest, "more or less was held back than may begin a stop"
        shown += finder.flush()
    assert shown == expected


def test_no_more_is_held_back_than_must_be() -> None:
    finder = StopFinder(["###", "\nUser:"])
    assert finder.push("one\nUs") == "one"
    assert finder.push("ual #") == "\nUsual "
    assert finder.push("# two") == "## two"
    assert finder.push("\nUser: three") == ""
    assert finder.has_found()
