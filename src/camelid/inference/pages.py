"""Pages of the key/value cache: who holds which, and which can be shared. A pure state machine.

A page holds the keys and values of `page_size` neighbouring positions of one sequence. Once it is full it never
changes again and is *published* under its content: the published page before it and its own tokens. Whoever asks for
the same content gets the same page. Pages that nobody holds stay published until somebody needs the room, the longest
unused first.

The dictionary compares contents and not only their hashes, and a page's predecessor is named by its place, which
cannot change its meaning meanwhile: who holds a page holds all pages before it, and pages are given back last one
first, so that a page is never forgotten before those that follow it. Hence no two contents can be mixed up.
"""

from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable

NO_PAGE = -1
"""What precedes a sequence's first page."""

Content = tuple[int, bytes]
"""The published page before, and the page's own tokens."""


class Pages:
    """All pages of a cache, numbered from 0."""

    def __init__(self, num_pages: int, page_size: int):
        self.num_pages = num_pages
        self.page_size = page_size
        self._num_holders = [0] * num_pages
        self._blank = list(range(num_pages - 1, -1, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()
        """Published pages that nobody holds, the longest unused first."""
        self._published: dict[Content, int] = {}
        self._contents: dict[int, Content] = {}

    @property
    def num_free(self) -> int:
        """Pages that can be taken: blank ones, and published ones that nobody holds."""
        return len(self._blank) + len(self._idle)

    @property
    def num_idle(self) -> int:
        """Published pages that nobody holds."""
        return len(self._idle)

    def num_pages_for(self, num_positions: int) -> int:
        """Pages that this many positions of one sequence fill or begin."""
        return -(-num_positions // self.page_size)

    def take(self) -> int:
        """A page to write to, held once; there must be a free one."""
        if self._blank:
            page = self._blank.pop()
        else:
            page, _ = self._idle.popitem(last=False)
            del self._published[self._contents.pop(page)]
        self._num_holders[page] = 1
        return page

    def share(self, before: int, tokens: bytes) -> int | None:
        """The published page with this content, held once more."""
        page = self._published.get((before, tokens))
        if page is not None:
            self._hold(page)
        return page

    def publish(self, page: int, before: int, tokens: bytes) -> int:
        """Makes a full page findable.

        Returns:
            The page that has this content from now on: another one, held in place of `page`, where somebody published
            the same before.
        """
        content = (before, tokens)
        found = self._published.setdefault(content, page)
        if found != page:
            self._hold(found)
            self._drop(page)
        else:
            self._contents[page] = content
        return found

    def release(self, pages: Iterable[int]) -> None:
        """Gives back one hold on each page; the pages of a sequence in the order of its positions."""
        for page in reversed(tuple(pages)):
            self._drop(page)

    def forget(self) -> None:
        """Makes all published pages unfindable, for the weights have changed; nobody may hold one."""
        assert len(self._idle) == len(self._published), "a published page is held"
        self._blank += self._idle
        self._idle.clear()
        self._published.clear()
        self._contents.clear()

    def _hold(self, page: int) -> None:
        if self._num_holders[page] == 0:
            del self._idle[page]
        self._num_holders[page] += 1

    def _drop(self, page: int) -> None:
        self._num_holders[page] -= 1
        assert self._num_holders[page] >= 0, f"page {page} was given back more often than it was taken"
        if self._num_holders[page] == 0:
            if page in self._contents:
                self._idle[page] = None
            else:
                self._blank.append(page)

    def check_integrity(self, tables: Iterable["PageTable"]) -> None:
        """Every page is held exactly by `tables`, idle or blank; what is published hangs together.

        Raises:
            AssertionError: it is not so.
        """
        tables = list(tables)
        holders = Counter(page for table in tables for page in table.pages)
        for table in tables:
            assert len(set(table.pages)) == len(table.pages), "a sequence holds a page twice"
            for place, page in enumerate(table.pages):
                is_published = place < table.num_published
                assert (page in self._contents) == is_published, "a sequence is wrong about what is published"
                assert is_published or holders[page] == 1, "a page is shared that is not full"
        assert self._num_holders == [holders[page] for page in range(self.num_pages)], "a hold was lost"
        held = {page for page, count in enumerate(self._num_holders) if count}
        assert sorted([*held, *self._idle, *self._blank]) == list(range(self.num_pages)), "a page was lost"
        assert self._published == {content: page for page, content in self._contents.items()}
        assert not any(page in self._contents for page in self._blank)
        age = {page: place for place, page in enumerate(self._idle)}
        for page, (before, _) in self._contents.items():
            if before == NO_PAGE:
                continue
            assert before in self._contents, "a page was forgotten before one that follows it"
            assert before in held or (page in age and age[page] < age[before]), "a page would be forgotten too early"


class PageTable:
    """The pages of one sequence in the order of its positions."""

    __slots__ = ("num_published", "pages")

    def __init__(self) -> None:
        self.pages = array("i")
        self.num_published = 0
        """How many of them, from the first, are full and published; the rest nobody else holds."""

    def share(self, pool: Pages, tokens: "array[int]", end: int) -> int:
        """Appends published pages that hold the sequence's next tokens; all pages so far must be published.

        Args:
            end: only pages that are full before this position.

        Returns:
            Positions that came with them.
        """
        size = pool.page_size
        num_before = self.num_published
        while (self.num_published + 1) * size <= end:
            found = pool.share(self._last_published(), _content(tokens, self.num_published, size))
            if found is None:
                break
            self.pages.append(found)
            self.num_published += 1
        return (self.num_published - num_before) * size

    def grow(self, pool: Pages, num_positions: int) -> None:
        """Takes the pages that this many positions need; they must be free."""
        for _ in range(pool.num_pages_for(num_positions) - len(self.pages)):
            self.pages.append(pool.take())

    def publish(self, pool: Pages, tokens: "array[int]", num_computed: int) -> None:
        """Publishes the pages that the first `num_computed` positions have filled."""
        size = pool.page_size
        while (self.num_published + 1) * size <= num_computed:
            place = self.num_published
            self.pages[place] = pool.publish(self.pages[place], self._last_published(), _content(tokens, place, size))
            self.num_published += 1

    def release(self, pool: Pages) -> None:
        """Gives all pages back."""
        pool.release(self.pages)
        del self.pages[:]
        self.num_published = 0

    def _last_published(self) -> int:
        return self.pages[self.num_published - 1] if self.num_published else NO_PAGE


def _content(tokens: "array[int]", place: int, page_size: int) -> bytes:
    return tokens[place * page_size : (place + 1) * page_size].tobytes()
