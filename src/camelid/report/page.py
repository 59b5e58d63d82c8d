"""The report of a run: one HTML page that needs nothing but itself."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import camelid
from camelid import artifact
from camelid.artifact import Manifest
from camelid.report.curves import describe_training
from camelid.report.lineage import show_chain, show_settings
from camelid.report.markup import Html, element
from camelid.report.run import Run, read_run
from camelid.report.samples import show_samples
from camelid.report.settings import ReportSettings
from camelid.report.summary import compare_compressors, describe_run, describe_status, show_cards
from camelid.report.tables import describe_data

PAGE_NAME = "index.html"
# Should an escape ever be missing, the browser still neither runs nor fetches anything.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_LLAMA = element(
    "svg",
    Html(
        '<path d="M12 37c0-4 3-6 7-6h14c3 0 4.5-2 4.5-5V12c0-1.5.3-2.8 1-4L38 2.5c2 .6 3.3 2 3.7 4h1.3L44 '
        "2c1.8 1 2.7 2.7 2.7 4.8 4.3.4 7.8 1.8 9 3.7 1 1.6.2 3.5-1.7 3.9-1.9.5-4.5.6-7 .6v24c"
        "0 3.5-.8 6-2.5 8v13h-4.5V49.5h-2V60h-4.5V48.5H22V60h-4.5V49h-1.5V60h-4.5V45c.3-2 .5-5 .5-8z"
        'M13 38c-5 .6-7.5-2.5-6.5-7 2 2.6 5 3.3 8.5 2z"/><circle cx="46.5" cy="10" r="1.2"/>'
    ),
    viewBox="0 0 64 64",
    class_="mark",
    aria_hidden="true",
)
_PARTS = {
    "compression": "Compression",
    "training": "Training",
    "samples": "Samples",
    "data": "Data",
    "chain": "Provenance",
    "settings": "Settings",
}


def build_report(
    run: Path, directory: Path, settings: ReportSettings, *, inputs: Mapping[str, str], seed: int
) -> Manifest:
    """Publishes the page of a run as `index.html`; the same run gives the same bytes.

    Raises:
        UserError: as `render_page` and `artifact.publish`.
    """
    with artifact.publish(directory, kind="report", settings=settings, inputs=inputs, seed=seed) as draft:
        page = render_page(run, settings)
        (draft.path / PAGE_NAME).write_text(page, encoding="utf-8")
    return artifact.read_manifest(directory)


def render_page(run: Path, settings: ReportSettings | None = None) -> str:
    """The page of a run that is finished or under way: it shows what is there and says what is not.

    Raises:
        UserError: the folder is missing or holds nothing of a run, or a file in it is damaged.
    """
    return render_run(read_run(run), settings)


def render_run(read: Run, settings: ReportSettings | None = None, reload_seconds: int = 0) -> str:
    """The page of a run that was read.

    Args:
        reload_seconds: how often a browser loads the page anew, 0 for never.
    """
    settings = settings or ReportSettings()
    title = settings.title or read.name
    header = element(
        "header",
        _LLAMA,
        element("p", "Camelid training report", class_="eyebrow"),
        element("h1", title),
        describe_run(read),
        describe_status(read),
        element("nav", *(element("a", name, href=f"#{anchor}") for anchor, name in _PARTS.items())),
    )
    sections = (
        show_cards(read),
        compare_compressors(read),
        describe_training(read),
        show_samples(read, settings.num_sample_steps),
        describe_data(read),
        show_chain(read),
        show_settings(read),
    )
    footer = element("footer", f"Written by Camelid {camelid.__version__} from the files of the run, and nothing else.")
    body = element("body", header, element("main", *sections), footer)
    return f"<!doctype html>\n{element('html', _head(title, reload_seconds), body, lang='en')}\n"


def _head(title: str, reload_seconds: int) -> Html:
    style = resources.files("camelid.report").joinpath("style.css").read_text(encoding="utf-8")
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", http_equiv="refresh", content=str(reload_seconds)) if reload_seconds else Html(),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("link", rel="icon", href="data:,"),
        element("title", f"{title} · Camelid"),
        element("style", Html(style)),
    )
