"""Metrics survive kills and resumed runs."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camelid.errors import UserError
from camelid.metrics import MetricsWriter, read_metrics


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def write(path: Path, steps: range, keep_until_step: int | None = None) -> None:
    with MetricsWriter(path, keep_until_step) as metrics:
        for step in steps:
            metrics.write("train", step, loss=1 / (1 + step))


def test_records_come_back_by_kind(path: Path) -> None:
    with MetricsWriter(path) as metrics:
        metrics.write("train", 1, loss=2.5)
        metrics.write("held_out", 1, source="Bücher", bits_per_byte=1.5)
    assert [json.loads(line) for line in path.read_text("utf-8").splitlines()] == list(read_metrics(path))
    assert list(read_metrics(path, "held_out")) == [
        {"kind": "held_out", "step": 1, "source": "Bücher", "bits_per_byte": 1.5}
    ]


def test_each_record_is_on_disk_at_once(path: Path) -> None:
    with MetricsWriter(path) as metrics:
        metrics.write("train", 1, loss=2.5)
        assert len(list(read_metrics(path))) == 1


def test_a_resumed_run_leaves_the_bytes_of_an_undisturbed_one(path: Path, tmp_path: Path) -> None:
    undisturbed = tmp_path / "undisturbed.jsonl"
    write(undisturbed, range(1, 11))
    write(path, range(1, 8))
    path.write_bytes(path.read_bytes()[:-5])  # killed within the line of step 7; the checkpoint is of step 4
    write(path, range(5, 11), keep_until_step=4)
    assert path.read_bytes() == undisturbed.read_bytes()


@pytest.mark.parametrize("keep_until_step", [None, 3, 100])
def test_half_a_line_never_grows_into_a_wrong_one(path: Path, keep_until_step: int | None) -> None:
    write(path, range(1, 4))
    path.write_bytes(path.read_bytes() + b'{"kind": "train", "st')
    assert [record["step"] for record in read_metrics(path)] == [1, 2, 3]
    write(path, range(4, 5), keep_until_step)
    assert [record["step"] for record in read_metrics(path)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "line", [b"\0\0\0\n", b"[1]\n", b"3\n", b'{"kind": "train"}\n', b"\xff\n", b"[" * 9999 + b"\n"]
)
def test_a_damaged_line_is_named(path: Path, line: bytes) -> None:
    write(path, range(1, 3))
    path.write_bytes(path.read_bytes() + line + b'{"kind": "train", "step": 3}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 3 is "):
        list(read_metrics(path))


@given(content=st.binary(max_size=200))
def test_no_bytes_raise_anything_else(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("metrics") / "metrics.jsonl"
    path.write_bytes(content)
    with contextlib.suppress(UserError):
        list(read_metrics(path))
