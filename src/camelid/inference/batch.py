"""Pieces of sequences laid out as one `Step`."""

from array import array
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from camelid.inference.pages import NO_PAGE
from camelid.inference.step import Step


class Piece(NamedTuple):
    """The next tokens of one sequence."""

    tokens: Sequence[int]
    num_cached: int
    """Positions before them, whose keys and values are in the cache."""
    pages: "array[int]"
    num_outputs: int
    """For how many of them, from the last backwards, logits are wanted."""


class StepWriter:
    """Writes steps into arrays of its own, which the next step overwrites."""

    def __init__(self, max_tokens: int, max_sequences: int, max_pages: int):
        self._tokens = np.zeros(max_tokens, np.int32)
        self._outputs = np.zeros(max_tokens, np.int32)
        self._num_new = np.zeros(max_sequences, np.int32)
        self._num_cached = np.zeros(max_sequences, np.int32)
        self._page_tables = np.zeros(max_sequences * max_pages, np.int32)
        self._places = np.arange(max_tokens, dtype=np.int32)

    def write(self, pieces: Sequence[Piece]) -> Step:
        """The step that computes all pieces."""
        width = max(len(piece.pages) for piece in pieces)
        page_tables = self._page_tables[: len(pieces) * width].reshape(len(pieces), width)
        end = num_outputs = 0
        for row, piece in enumerate(pieces):
            start, end = end, end + len(piece.tokens)
            self._tokens[start:end] = piece.tokens
            self._num_new[row] = end - start
            self._num_cached[row] = piece.num_cached
            num_pages = len(piece.pages)
            page_tables[row, :num_pages] = piece.pages
            page_tables[row, num_pages:] = NO_PAGE
            if piece.num_outputs:
                places = self._places[end - piece.num_outputs : end]
                self._outputs[num_outputs : num_outputs + piece.num_outputs] = places
                num_outputs += piece.num_outputs
        return Step(
            tokens=self._tokens[:end],
            num_new=self._num_new[: len(pieces)],
            num_cached=self._num_cached[: len(pieces)],
            page_tables=page_tables,
            outputs=self._outputs[:num_outputs],
        )
