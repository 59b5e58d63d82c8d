"""The page says what the files say, fetches nothing, runs nothing, and comes out the same every time."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic_run import CODE, HOSTILE, SOURCES, make_run, make_unfinished_run

from camelid.artifact import verify
from camelid.errors import UserError
from camelid.report.page import build_report, render_page
from camelid.report.settings import ReportSettings

VOID = {"meta", "link", "br"}


class Outline(HTMLParser):
    """Collects text and attributes, and insists that every element is closed in its turn."""

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.style = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["style"]:
            self.style += data
        else:
            self.text += data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "python-stdlib")


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return render_page(run)


@pytest.mark.parametrize(
    "expected",
    [
        "python-stdlib",
        "A LLaMA model of 6.29 M parameters trained on 655 k tokens of novels, stdlib and wikipedia",
        "2 threads of Imaginary CPU @ 2.60GHz",
        "1.424",  # held-out bits per byte
        "gzip -9 2.12 · xz -9 1.87 · xz -9 after the training text 1.52",
        "It beats every compressor here, with 6.6% fewer bits than xz -9 after the training text, the nearest.",
        "271,829",  # tokens of a held-out source
        "1.482",
        "40 steps of 16,384 tokens each",
        "0.38 to 2.31 epochs",
        "48.1 MB",  # corpus in
        "added by cutting",
        "redirect",
        "48.5%",  # of the wikipedia documents
        "2.7 M",  # tokens of a source
        "wikipedia is small.",
        "3.871",  # bytes per token
        "0.12%",  # byte fallback
        "1.73 GB",  # peak memory
        "660 G FLOP/s",
        "Temperature 0.7.",
        "model.num_kv_heads",
        "sources.0.kind",
    ],
)
def test_page_says_what_the_files_say(page: str, expected: str) -> None:
    assert expected in Outline(page).text


def test_page_has_every_digest_and_finds_that_the_inputs_fit(run: Path, page: str) -> None:
    text = Outline(page).text
    for stage in ("corpus", "tokenizer", "dataset", "train", "evaluation"):
        digest = json.loads((run / stage / "manifest.json").read_text(encoding="utf-8"))["digest"]
        assert digest[:12] in text
    assert "is another now" not in text


def test_an_input_that_was_replaced_is_told(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    manifest = run / "corpus" / "manifest.json"
    tree = json.loads(manifest.read_text(encoding="utf-8"))
    manifest.write_text(json.dumps({**tree, "digest": "0" * 64}), encoding="utf-8")
    assert Outline(render_page(run)).text.count("is another now") == 3  # tokenizer, dataset, evaluation


def test_samples_are_shown_letter_for_letter_and_never_run(page: str) -> None:
    outline = Outline(page)
    assert "script" not in outline.tags
    assert "img" not in outline.tags
    assert not [name for name, _ in outline.attributes if name.startswith("on")]
    assert HOSTILE.replace("\x00", "\ufffd").replace("\ud800", "\ufffd") in outline.text
    assert f"def {CODE[4:]}" in outline.text
    assert '<span class="prompt">def </span>read_header' in page


def test_hostile_names_are_escaped(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    page = render_page(run, ReportSettings(title="</title><script>alert(1)</script>"))
    outline = Outline(page)
    assert "script" not in outline.tags
    assert outline.tags.count("title") == render_page(run).count("<title>")


def test_page_fetches_nothing(page: str) -> None:
    outline = Outline(page)
    links = [value for name, value in outline.attributes if name in {"href", "xlink:href", "src", "srcset", "data"}]
    assert links
    assert [link for link in links if not link.startswith(("#", "data:"))] == []
    styles = outline.style + "".join(value for name, value in outline.attributes if name in {"style", "clip-path"})
    assert "@import" not in styles
    assert styles.count("url(") == styles.count("url(#")
    assert "http" not in page.replace("http-equiv", "")


def test_ids_are_unique_and_links_within_the_page_lead_somewhere(page: str) -> None:
    outline = Outline(page)
    ids = [value for name, value in outline.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    targets = {value[1:] for name, value in outline.attributes if name == "href" and value.startswith("#")}
    assert targets <= set(ids)


def test_colours_follow_the_page(page: str) -> None:
    figures = page[page.index("<body>") : page.index("</main>")]
    assert "var(--accent)" in figures
    assert "#fe01" not in figures  # the stand-ins that matplotlib draws in


def test_report_is_the_same_every_time(run: Path, tmp_path: Path) -> None:
    first, second = (
        build_report(run, tmp_path / name, ReportSettings(), inputs={"train": "ab" * 32}, seed=3) for name in "ab"
    )
    assert first.digest == second.digest
    assert (first.kind, first.seed, first.inputs) == ("report", 3, {"train": "ab" * 32})
    verify(tmp_path / "a", "report")
    assert (tmp_path / "a" / "index.html").read_text(encoding="utf-8") == render_page(run)


def test_unfinished_run_shows_what_is_there_and_says_what_is_not(tmp_path: Path) -> None:
    outline = Outline(render_page(make_unfinished_run(tmp_path / "run")))
    assert "The training is not finished: it has come to step 20 of 40 (50%)." in outline.text
    assert "Not there yet: evaluation." in outline.text
    assert "The evaluation is not there yet." in outline.text
    assert "Loss, nats per token" in outline.text
    assert "Step 20" in outline.text


def test_every_beginning_of_a_run_renders(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for stage in ("evaluation", "train", "dataset", "tokenizer"):
        (run / stage).rename(tmp_path / stage)
        text = Outline(render_page(run)).text
        assert "Not there yet" in text
        assert stage in text
    assert all(source in text for source in SOURCES)


def test_training_that_has_just_begun_or_diverged_renders(tmp_path: Path) -> None:
    train = tmp_path / "run" / "train.partial"
    train.mkdir(parents=True)
    text = Outline(render_page(tmp_path / "run")).text
    assert "no numbers yet" in text
    assert "The model has written nothing yet." in text
    assert "The beginning that was given" not in text
    record = {"kind": "train", "step": 1, "loss": 8.3, "learning_rate": 1e-4, "grad_norm": 1.0, "num_tokens": 512}
    record |= {"tokens_per_second": 900.0, "flops_per_second": 9e9, "utilisation": 0.4, "seconds": 0.5}
    lost = {**record, "step": 2, "num_tokens": 1024, "loss": float("nan"), "grad_norm": float("inf")}
    lines = [json.dumps(record), json.dumps(lost)]
    (train / "metrics.jsonl").write_text("\n".join(lines) + '\n{"kind": "tr', encoding="utf-8")
    assert "In 1 of 2 steps the loss was not a finite number." in Outline(render_page(tmp_path / "run")).text
    (train / "metrics.jsonl").write_text(lines[1] + "\n", encoding="utf-8")
    Outline(render_page(tmp_path / "run"))


def test_missing_empty_and_damaged_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        render_page(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds nothing of a run"):
        render_page(tmp_path / "empty")
    unfinished = make_unfinished_run(tmp_path / "unfinished")
    (unfinished / "train.partial" / "metrics.jsonl").write_text("loss\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 1 is damaged"):
        render_page(unfinished)
    run = make_run(tmp_path / "run")
    results = run / "evaluation" / "results.json"
    results.write_text("x" * results.stat().st_size, encoding="utf-8")
    with pytest.raises(UserError, match=r"results\.json is damaged"):
        render_page(run)
