"""Where the run comes from: each product with its digest, what it was made from, and whether that still fits."""

import json
from typing import Any

from camelid.artifact import Manifest
from camelid.progress import format_count, format_duration
from camelid.report.markup import Html, element, note, section
from camelid.report.run import STAGES, Run

DIGEST_LENGTH = 12


def show_chain(run: Run) -> Html:
    """The products in the order in which they are made."""
    items = [_show_product(stage, run) if stage in run.manifests else _show_missing(stage, run) for stage in STAGES]
    return section(
        "chain",
        "Where it comes from",
        element(
            "p",
            "Each product names the SHA-256 of its content and of what it was made from, so every number on this page "
            "can be walked back to the raw text. Of raw files it is a hash over their names, sizes and times.",
        ),
        element("ol", *items, _show_page(run), class_="chain"),
    )


def show_settings(run: Run) -> Html:
    """Every setting of every finished stage, folded away."""
    trees = {stage: manifest.settings for stage, manifest in run.manifests.items()}
    if "train" not in trees and run.train_settings:
        trees["train"] = run.train_settings
    folded = [
        element("details", element("summary", stage), element("dl", *_list_settings(trees[stage]), class_="settings"))
        for stage in STAGES
        if stage in trees
    ]
    return section("settings", "Settings", *(folded or [note("No stage has stated its settings yet.")]))


def _show_product(stage: str, run: Run) -> Html:
    manifest = run.manifests[stage]
    sizes = [stored.num_bytes for stored in (*manifest.files.values(), *manifest.logs.values())]
    files = "1 file" if len(sizes) == 1 else f"{len(sizes):,} files"
    origins = [_show_input(name, digest, run) for name, digest in sorted(manifest.inputs.items())]
    facts = (
        ("finished", str(manifest.produced.get("finished", "–")).replace("T", " ").replace("Z", " UTC")),
        ("took", _took(manifest)),
        ("size", f"{format_count(sum(sizes), 'bytes')} in {files}"),
        ("seed", str(manifest.seed)),
        ("version", str(manifest.produced.get("camelid_version", "–"))),
    )
    return element(
        "li",
        element("h3", manifest.kind),
        element("code", manifest.digest[:DIGEST_LENGTH], title=manifest.digest, class_="digest"),
        element("ul", *origins, class_="inputs") if origins else Html(),
        element("dl", *(part for name, value in facts for part in (element("dt", name), element("dd", value)))),
        id=f"product-{stage}",
    )


def _show_page(run: Run) -> Html:
    origins = [_show_input(stage, manifest.digest, run) for stage, manifest in run.manifests.items()]
    return element("li", element("h3", "report"), "this page", element("ul", *origins, class_="inputs"), class_="page")


def _show_missing(stage: str, run: Run) -> Html:
    state = "begun, not finished" if stage in run.begun else "not there yet"
    return element("li", element("h3", stage), note(state), class_="missing")


def _show_input(name: str, digest: str, run: Run) -> Html:
    known = run.manifests.get(name)
    code = element("code", digest[:DIGEST_LENGTH], title=digest)
    if known is None:
        return element("li", f"from {name} ", code)
    fits = known.digest == digest
    link = element("a", name, href=f"#product-{name}")
    verdict = element("b", "✓" if fits else "is another now", class_="fits" if fits else "differs")
    return element("li", "from ", link, " ", code, " ", verdict)


def _took(manifest: Manifest) -> str:
    seconds = manifest.produced.get("seconds")
    return "–" if seconds is None else format_duration(seconds)


def _list_settings(tree: dict[str, Any], path: str = "") -> list[Html]:
    rows = []
    for name, value in sorted(tree.items()):
        full = f"{path}.{name}" if path else name
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = {str(index): item for index, item in enumerate(value)}
        if isinstance(value, dict) and value:
            rows += _list_settings(value, full)
        else:
            written = json.dumps(value, ensure_ascii=False)
            rows.append(element("div", element("dt", full), element("dd", element("code", written))))
    return rows
