import json
import math
from pathlib import Path

import pytest
from small_dataset import make_dataset

from camelid.dataset.mixture import check_mixture, plan_mixture, resolve_shares, tabulate_mixture
from camelid.errors import UserError

# Paper Table 1: sampling proportion, epochs over 1.4T tokens; and the unique tokens in billions that they imply.
TABLE_1 = {
    "common_crawl": (67.0, 1.10, 852.7),
    "c4": (15.0, 1.06, 198.1),
    "github": (4.5, 0.64, 98.4),
    "wikipedia": (4.5, 2.45, 25.7),
    "books": (4.5, 2.23, 28.3),
    "arxiv": (2.5, 1.06, 33.0),
    "stack_exchange": (2.0, 1.03, 27.2),
}
UNIQUE = {name: round(unique * 1e9) for name, (_, _, unique) in TABLE_1.items()}
SHARES = {name: share for name, (share, _, _) in TABLE_1.items()}


def test_the_table_is_the_papers() -> None:
    rows = tabulate_mixture(resolve_shares(SHARES, UNIQUE), UNIQUE, 1_400_000_000_000)
    assert [row["source"] for row in rows][:2] == ["common_crawl", "c4"]
    assert len(rows) == 7
    for row in rows:
        share, epochs, _ = TABLE_1[row["source"]]
        assert row["share"] == pytest.approx(share / 100)
        assert row["epochs"] == pytest.approx(epochs, abs=0.006)
        assert row["warning"] == ""
    assert math.fsum(row["tokens"] for row in rows) == pytest.approx(1.4e12)
    json.dumps(rows)


def test_without_shares_sources_count_by_their_tokens() -> None:
    rows = tabulate_mixture(resolve_shares({}, {"a": 300, "b": 100}), {"a": 300, "b": 100}, 800)
    assert [(row["source"], row["share"], row["tokens"], row["epochs"]) for row in rows] == [
        ("a", 0.75, 600, 2),
        ("b", 0.25, 200, 2),
    ]


def test_shares_are_scaled_and_zero_leaves_out() -> None:
    assert resolve_shares({"b": 1, "a": 3, "c": 0}, {"a": 1, "b": 1, "c": 1}) == {"a": 0.75, "b": 0.25}


def test_many_readings_are_warned_of() -> None:
    small, large = tabulate_mixture({"small": 0.5, "large": 0.5}, {"small": 12, "large": 1000}, 100)[::-1]
    assert small["epochs"] == pytest.approx(4.17, abs=0.01)
    assert small["warning"].startswith("small is read 4.2 times; beyond 4 readings")
    assert large["warning"] == ""


def test_names_of_the_mixture_are_held_against_the_corpus() -> None:
    sources = ["wikipedia", "github"]
    check_mixture({}, sources)
    check_mixture({"wikipedia": 1, "github": 0}, sources)
    with pytest.raises(
        UserError, match=r"names 'wikipedai', which has no training documents; did you mean 'wikipedia'"
    ):
        check_mixture({"wikipedai": 1, "github": 1}, sources)
    with pytest.raises(UserError, match=r"names 'zzz', .* the corpus has github, wikipedia"):
        check_mixture({"zzz": 1, "github": 1, "wikipedia": 1}, sources)
    with pytest.raises(UserError, match="does not name the source 'github'; give it a share, 0 to leave it out"):
        check_mixture({"wikipedia": 1}, sources)


def test_a_dataset_plans_by_its_own_settings(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, mixture={"books": 3, "code": 1, "wiki": 0})
    rows = plan_mixture(dataset, 10_000)
    assert [(row["source"], row["tokens"]) for row in rows] == [("books", 7500), ("code", 2500)]
    assert rows[0]["unique_tokens"] == dataset.num_tokens()["books"]
