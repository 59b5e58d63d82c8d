"""Which requests compute what in the next step. A pure state machine over requests and pages.

One step is one forward pass over at most `max_step_tokens` rows. Requests are served in the order of their arrival:

- Every running request that writes gets a row, and rows for its draft where room is left.
- What is left of the rows goes to prompts, cut into chunks that end with a page where they do not end the prompt.
- A waiting request is let in when it is the first of those waiting, a place is free, and all its known tokens fit into
  free pages while every running request can still begin a page.
- When an older request needs a page and none is free, the youngest running one gives all its pages back and waits at
  the head of the queue; its tokens are kept, and what nobody has overwritten is found again. The oldest is never
  stopped, and a single request always fits, so every request comes to its end.
"""

from collections import deque
from collections.abc import Sequence
from itertools import chain

from camelid.errors import UserError
from camelid.inference.pages import Pages
from camelid.inference.request import Request, Status


class Scheduler:
    """Waiting and running requests over one pool of pages.

    Args:
        context: positions of one request at most.
        max_sequences: requests that run at once.
        max_step_tokens: rows of one step at most.

    Raises:
        UserError: the sizes contradict one another.
    """

    def __init__(self, pages: Pages, context: int, max_sequences: int, max_step_tokens: int):
        for name, value in (("max_sequences", max_sequences), ("context", context), ("cache pages", pages.num_pages)):
            if value < 1:
                raise UserError(f"{name} is {value}; it must be at least 1")
        if max_step_tokens < max_sequences:
            raise UserError(
                f"max_step_tokens is {max_step_tokens} and max_sequences is {max_sequences}: every running sequence "
                "needs a row of each step; raise the one or lower the other"
            )
        self.pages = pages
        self.context = context
        self.max_sequences = max_sequences
        self.max_step_tokens = max_step_tokens
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        """In the order of arrival, as `waiting`; everything that waits is younger than everything that runs."""
        self.num_preemptions = 0
        self.num_reused = 0
        """Positions that came from published pages."""
        self._num_free_when_refused = -1

    def check(self, request: Request) -> None:
        """Refuses what can never run.

        Raises:
            UserError: the prompt is empty or longer than the context, or the cache cannot hold the request.
        """
        if not request.num_prompt:
            raise UserError("the prompt is empty, and the model needs a token to begin with; give it a text")
        if request.num_prompt >= self.context:
            raise UserError(
                f"the prompt has {request.num_prompt:,} tokens and the model's context is {self.context:,}; shorten "
                f"it to {self.context - 1:,} at most"
            )
        # The last token is chosen and never computed.
        num_positions = request.max_length - 1
        num_needed = self.pages.num_pages_for(num_positions)
        if num_needed > self.pages.num_pages:
            size = self.pages.page_size
            raise UserError(
                f"the request may grow to {request.max_length:,} tokens, which takes {num_needed:,} pages of {size} "
                f"positions, and the cache has {self.pages.num_pages:,}; ask for at most "
                f"{self.pages.num_pages * size + 1:,} tokens with the prompt, or give the cache more room"
            )

    def add(self, request: Request) -> None:
        """Takes a request in that can run; it is younger than all before."""
        assert not self.waiting or request.id > self.waiting[-1].id
        self.waiting.append(request)

    def schedule(self) -> list[Request]:
        """Decides the next step, and sees to its pages.

        Returns:
            Requests in the order of arrival, their `num_scheduled` and `draft` set; empty where nothing is to be done.
        """
        num_rows = self.max_step_tokens
        num_reserved = self._trim_drafts()
        plan: list[Request] = []
        place = 0
        while place < len(self.running):  # it shrinks from its end when pages run out
            request = self.running[place]
            place += 1
            if request.num_uncomputed == 1:
                wanted = 1 + len(request.draft)
                num_reserved -= wanted
            else:
                wanted = self._choose_chunk(request, num_rows - num_reserved)
            if wanted:
                self._make_room(request)
                num_rows -= self._plan(request, wanted, plan)
        while self.waiting and num_rows > 0 and self._admit():
            request = self.running[-1]
            num_rows -= self._plan(request, self._choose_chunk(request, num_rows), plan)
        return plan

    def advance(self, request: Request, new_tokens: Sequence[int]) -> None:
        """Books what a step has computed for one request.

        Args:
            new_tokens: what was chosen after the last known token: the draft's tokens that were right, and one more;
                fewer where the request ends with them, none where its prompt is not read to the end.
        """
        assert bool(new_tokens) == request.is_at_end
        num_wrong = len(request.draft) + 1 - len(new_tokens) if new_tokens else 0
        request.num_computed += request.num_scheduled - num_wrong
        request.tokens.extend(new_tokens)
        request.num_scheduled = 0
        request.draft = ()
        request.table.publish(self.pages, request.tokens, request.num_computed)

    def finish(self, request: Request) -> None:
        """Lets a request go, at any time between two steps; its pages are given back."""
        if request.status is Status.RUNNING:
            self.running.remove(request)
        elif request.status is Status.WAITING:
            self.waiting.remove(request)
        self._give_back(request)
        request.status = Status.FINISHED

    def check_integrity(self) -> None:
        """Pages and requests are as they must be between two steps.

        Raises:
            AssertionError: they are not.
        """
        self.pages.check_integrity(request.table for request in self.running)
        order = [request.id for request in chain(self.running, self.waiting)]
        assert order == sorted(set(order)), "the order of arrival is broken"
        assert len(self.running) <= self.max_sequences
        assert all(not r.table.pages and r.status is Status.WAITING for r in self.waiting)
        for request in self.running:
            assert request.status is Status.RUNNING
            assert 0 <= request.num_computed < len(request.tokens) <= request.max_length
            assert request.num_computed <= len(request.table.pages) * self.pages.page_size
            assert request.table.num_published == request.num_computed // self.pages.page_size

    def _trim_drafts(self) -> int:
        """Cuts drafts to the rows that are left beside one for each request that writes and some for prompts.

        Returns:
            Rows of the requests that write, drafts included.
        """
        writing = [request for request in self.running if request.num_uncomputed == 1]
        is_reading = len(writing) < len(self.running) or bool(self.waiting)
        num_left = self.max_step_tokens - len(writing) - is_reading * self.pages.page_size
        num_draft_rows = 0
        for request in writing:
            # The last token of a request is chosen and never computed.
            length = min(num_left - num_draft_rows, request.max_length - len(request.tokens) - 1)
            request.draft = request.draft[: max(0, length)]
            num_draft_rows += len(request.draft)
        return len(writing) + num_draft_rows

    def _choose_chunk(self, request: Request, num_rows: int) -> int:
        """Rows to read of a prompt, of which pages that others have computed meanwhile need none."""
        self._count_reused(request, self._share(request))
        if request.num_uncomputed <= num_rows:
            return request.num_uncomputed
        size = self.pages.page_size
        rounded = (request.num_computed + num_rows) // size * size - request.num_computed
        return rounded if rounded > 0 else num_rows

    def _share(self, request: Request) -> int:
        if len(request.table.pages) * self.pages.page_size != request.num_computed:
            return 0
        # The last known token is computed in any case, for its logits.
        num_shared = request.table.share(self.pages, request.tokens, len(request.tokens) - 1)
        request.num_computed += num_shared
        return num_shared

    def _count_reused(self, request: Request, num_shared: int) -> None:
        self.num_reused += num_shared
        if not request.num_preemptions:
            request.num_reused += num_shared

    def _make_room(self, request: Request) -> None:
        """Takes pages from younger requests until `request` can compute a position, or is the youngest."""
        while self._num_positions_at_hand(request) < 1 and self.running[-1] is not request:
            self._preempt(self.running[-1])

    def _num_positions_at_hand(self, request: Request) -> int:
        num_pages = len(request.table.pages) + self.pages.num_free
        return num_pages * self.pages.page_size - request.num_computed

    def _plan(self, request: Request, wanted: int, plan: list[Request]) -> int:
        """Puts a request on the plan with as many rows as it has pages for.

        Returns:
            Those rows; none where the request must wait for pages.
        """
        num_rows = min(wanted, self._num_positions_at_hand(request))
        if num_rows < 1:
            request.draft = ()
            return 0
        request.draft = request.draft[: num_rows - 1]
        request.num_scheduled = num_rows
        request.table.grow(self.pages, request.num_computed + num_rows)
        plan.append(request)
        return num_rows

    def _admit(self) -> bool:
        """Lets the first waiting request in if it fits."""
        if len(self.running) >= self.max_sequences:
            return False
        if self.running and self.pages.num_free <= self._num_free_when_refused:
            return False  # nothing was given back since it did not fit
        request = self.waiting[0]
        num_shared = self._share(request)
        if self.running and self._num_unpromised() < self._num_missing(request):
            self._give_back(request)
            self._num_free_when_refused = self.pages.num_free
            return False
        self._num_free_when_refused = -1
        self._count_reused(request, num_shared)
        self.waiting.popleft()
        self.running.append(request)
        request.status = Status.RUNNING
        return True

    def _num_unpromised(self) -> int:
        """Free pages, less those that running requests still need for the tokens they have, and one for each."""
        promised = sum(self._num_missing(request) + 1 for request in self.running)
        return self.pages.num_free - promised

    def _num_missing(self, request: Request) -> int:
        return max(0, self.pages.num_pages_for(len(request.tokens)) - len(request.table.pages))

    def _preempt(self, request: Request) -> None:
        assert self.running[-1] is request
        self.running.pop()
        self._give_back(request)
        request.status = Status.WAITING
        request.num_preemptions += 1
        self.num_preemptions += 1
        self.waiting.appendleft(request)

    def _give_back(self, request: Request) -> None:
        request.table.release(self.pages)
        request.num_computed = 0
        request.num_scheduled = 0
        request.draft = ()
