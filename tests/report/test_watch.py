"""The page that follows a run: it loads itself while the run goes on, and stops when the run does."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic_run import make_run, make_unfinished_run

from camelid.errors import UserError
from camelid.report import watch
from camelid.report.page import render_page

RELOAD = '<meta http-equiv="refresh" content="7">'


def _at_each_sleep(monkeypatch: pytest.MonkeyPatch, *events: Callable[[], None]) -> None:
    waiting = list(events)
    monkeypatch.setattr("camelid.report.watch.time.sleep", lambda seconds: waiting.pop(0)())


def test_page_loads_itself_until_the_run_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, page = make_unfinished_run(tmp_path / "run"), tmp_path / "page.html"
    finished = make_run(tmp_path / "finished")

    def is_followed() -> None:
        assert RELOAD in page.read_text(encoding="utf-8")
        assert "has come to step 20 of 40" in page.read_text(encoding="utf-8")

    def finish() -> None:
        is_followed()
        shutil.rmtree(run / "train.partial")
        for stage in ("train", "evaluation"):
            shutil.copytree(finished / stage, run / stage)

    _at_each_sleep(monkeypatch, is_followed, finish)
    watch.watch_run(run, page, 7)
    assert page.read_text(encoding="utf-8") == render_page(run)


def test_a_training_alone_ends_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, page = make_run(tmp_path / "run"), tmp_path / "page.html"
    shutil.rmtree(run / "evaluation")
    _at_each_sleep(monkeypatch, lambda: None)
    watch.watch_run(run, page, 7)
    assert RELOAD not in page.read_text(encoding="utf-8")


def test_an_interruption_leaves_a_page_that_stands_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, page = make_unfinished_run(tmp_path / "run"), tmp_path / "page.html"

    def interrupt() -> None:
        raise KeyboardInterrupt

    _at_each_sleep(monkeypatch, interrupt)
    watch.watch_run(run, page, 7)
    assert page.read_text(encoding="utf-8") == render_page(run)


def test_what_passes_is_waited_for_and_what_stays_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, page = make_unfinished_run(tmp_path / "run"), tmp_path / "page.html"
    metrics = run / "train.partial" / "metrics.jsonl"
    whole = metrics.read_bytes()
    metrics.write_bytes(b"damaged\n")

    def mend() -> None:
        metrics.write_bytes(whole)

    def damage() -> None:
        assert RELOAD in page.read_text(encoding="utf-8")
        metrics.write_bytes(b"damaged\n")

    _at_each_sleep(monkeypatch, mend, damage, lambda: None, lambda: None)
    with pytest.raises(UserError, match="line 1 is damaged"):
        watch.watch_run(run, page, 7)


def test_spikes_and_benchmarks_are_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    train = run / "train"
    assert "leapt" not in render_page(run)
    lines = [json.dumps({"kind": "spike", "step": step}) for step in (12, 31)]
    (train / "spikes.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    page = render_page(run)
    assert "The loss leapt at step 12, 31; that was rolled back" in page
    assert "Benchmarks" not in page
    metrics = train / "metrics.jsonl"
    scores = [{"kind": "benchmark", "step": s, "name": "hella", "score": s / 50} for s in (10, 20)]
    manifest = json.loads((train / "manifest.json").read_text("utf-8"))
    with metrics.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(score) + "\n" for score in scores)
    manifest["logs"]["metrics.jsonl"]["num_bytes"] = metrics.stat().st_size
    (train / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert "Benchmarks" in render_page(run)
    assert "hella" in render_page(run)
