"""Rows of Parquet files, of which one that is damaged costs itself alone."""

from typing import Any, cast

import pyarrow as pa


def decode_rows(batch: pa.RecordBatch) -> list[dict[str, Any] | UnicodeDecodeError]:
    """The rows of a batch; in the place of one with a text that is not UTF-8, what is wrong."""
    try:
        return cast(list[dict[str, Any] | UnicodeDecodeError], batch.to_pylist())
    except UnicodeDecodeError as error:
        if batch.num_rows == 1:
            return [error]
        return [row for number in range(batch.num_rows) for row in decode_rows(batch.slice(number, 1))]
