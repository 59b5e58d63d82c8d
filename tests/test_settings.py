"""Settings: what is wrong is said in one sentence, with the way out."""

import contextlib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from camelid.errors import UserError
from camelid.settings import Settings, apply_overrides, read_toml, validate


class Folder(Settings):
    kind: Literal["folder"] = "folder"
    path: Path
    patterns: tuple[str, ...] = ("*.txt",)


class Synthetic(Settings):
    kind: Literal["synthetic"] = "synthetic"
    num_documents: int = Field(1, gt=0)


class Corpus(Settings):
    sources: tuple[Annotated[Folder | Synthetic, Field(discriminator="kind")], ...] = ()
    weights: dict[str, float] = Field(default_factory=dict)
    by_name: dict[str, Synthetic] = Field(default_factory=dict)
    fallback: Folder | None = None


class Train(Settings):
    steps: int = Field(10, gt=0, le=1000)
    learning_rate: float = 1e-3
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Literal["auto"] | int = "auto"
    is_compiled: bool = False


class Recipe(Settings):
    name: str = Field("demo", pattern=r"^[a-z]+$")
    corpus: Corpus = Corpus()
    train: Train = Train()


class Strict(Settings):
    first: int
    second: int


FOLDER = {"kind": "folder", "path": "books"}

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"trian": {}}, "unknown key 'trian'; did you mean 'train'?"),
    ({"train": {"step": 3}}, "unknown key 'train.step'; did you mean 'steps'?"),
    ({"steps": 3}, "unknown key 'steps'; did you mean 'train.steps'?"),
    ({"train": {"zzz": 3}}, "known are device, is_compiled, learning_rate, steps, threads"),
    ({"corpus": {"sources": [FOLDER, {**FOLDER, "pth": 1}]}}, "'corpus.sources.1.pth'; did you mean 'path'?"),
    ({"corpus": {"sources": [{"kind": "synthetic", "num_document": 1}]}}, "did you mean 'num_documents'?"),
    ({"corpus": {"fallback": {"path": "x", "patern": []}}}, "'corpus.fallback.patern'; did you mean 'patterns'?"),
    (
        {"corpus": {"by_name": {"x": {"num_document": 1}}}},
        "unknown key 'corpus.by_name.x.num_document'; did you mean 'num_documents'?",
    ),
    ({"corpus": {"sources": [{"kind": "fold"}]}}, "corpus.sources.0.kind must be one of 'folder', 'synthetic', not"),
    ({"corpus": {"sources": [{"path": "x"}]}}, "corpus.sources.0.kind is missing; add it"),
    ({"corpus": {"sources": [{"kind": "folder"}]}}, "corpus.sources.0.path is missing; add it"),
    ({"corpus": {"sources": [{**FOLDER, "path": 3}]}}, "corpus.sources.0.path must be text, not 3"),
    ({"corpus": {"sources": FOLDER}}, "corpus.sources must be a list, not a table"),
    ({"corpus": {"sources": ["books"]}}, 'corpus.sources.0 must be a table, not "books"'),
    ({"corpus": {"weights": {"books": "many"}}}, 'corpus.weights.books must be a number, not "many"'),
    ({"corpus": 3}, "corpus must be a table, not 3"),
    ({"train": {"steps": "3"}}, 'train.steps must be a whole number, not "3"'),
    ({"train": {"steps": True}}, "train.steps must be a whole number, not true"),
    ({"train": {"steps": 2.5}}, "train.steps must be a whole number, not 2.5"),
    ({"train": {"steps": 0}}, "train.steps must be greater than 0, not 0"),
    ({"train": {"steps": 1001}}, "train.steps must be at most 1000, not 1001"),
    ({"train": {"learning_rate": float("inf")}}, "train.learning_rate must be a finite number, not Infinity"),
    ({"train": {"is_compiled": "yes"}}, 'train.is_compiled must be true or false, not "yes"'),
    ({"train": {"device": "gpu"}}, "train.device must be 'auto', 'cpu' or 'cuda', not \"gpu\""),
    ({"train": {"threads": "all"}}, "train.threads must be 'auto' or a whole number, not \"all\""),
    ({"name": "Demo"}, 'name must be text that matches ^[a-z]+$, not "Demo"'),
    ({"name": "Z" * 500}, "ZZZ..."),
]


@pytest.mark.parametrize(("tree", "expected"), REFUSED, ids=[str(tree)[:60] for tree, _ in REFUSED])
def test_what_is_wrong_is_one_sentence_without_pydantic(tree: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError) as caught:
        validate(Recipe, tree, "recipe.toml")
    message = str(caught.value)
    assert message.startswith("recipe.toml: ")
    assert expected in message
    assert "\n" not in message
    assert len(message) < 200
    assert "pydantic" not in message


def test_unknown_key_is_told_first_and_its_consequence_not_at_all() -> None:
    with pytest.raises(UserError) as caught:
        validate(Strict, {"frist": 1, "second": "x"}, "f")
    assert str(caught.value) == "f: unknown key 'frist'; did you mean 'first'?; also wrong: second"


def test_a_list_is_not_too_short_because_of_what_is_wrong_in_it() -> None:
    class Full(Settings):
        items: tuple[Train, ...] = Field(min_length=1)

    with pytest.raises(UserError, match=r"^f: unknown key 'items.0.stepps'; did you mean 'steps'\?$"):
        validate(Full, {"items": [{"stepps": 1}]}, "f")
    with pytest.raises(UserError, match=r"^f: items must be a list of at least 1"):
        validate(Full, {"items": []}, "f")


def test_several_errors_name_every_place() -> None:
    with pytest.raises(UserError, match=r"^f: train.steps must be .*; also wrong: train.device$"):
        validate(Recipe, {"train": {"steps": 0, "device": "x"}}, "f")


def test_tree_that_is_no_table() -> None:
    with pytest.raises(UserError, match=r"^f: it must be a table, not \[1\]$"):
        validate(Recipe, [1], "f")  # type: ignore[arg-type]


def test_right_tree_is_taken_with_paths_and_tuples() -> None:
    recipe = validate(Recipe, {"corpus": {"sources": [FOLDER]}, "train": {"learning_rate": 1}}, "f")
    assert recipe.corpus.sources == (Folder(path=Path("books")),)
    assert recipe.train.learning_rate == 1.0


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Train().steps = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.steps=3", {"train": {"steps": 3}}),
        ("train.steps = 3", {"train": {"steps": 3}}),
        ("train.rate=1e-3", {"train": {"rate": 1e-3}}),
        ("train.ok=true", {"train": {"ok": True}}),
        ("name=plain words", {"name": "plain words"}),
        ('name="3"', {"name": "3"}),
        ("name=", {"name": ""}),
        ("name=a=b", {"name": "a=b"}),
        ("name=3\nother = 4", {"name": "3\nother = 4"}),
        ("patterns=['*.md', '*.txt']", {"patterns": ["*.md", "*.txt"]}),
        ("source={kind = 'folder'}", {"source": {"kind": "folder"}}),
    ],
)
def test_override_values(override: str, expected: dict[str, Any]) -> None:
    assert apply_overrides({}, [override]) == expected


def test_overrides_reach_into_lists_and_leave_the_original_alone() -> None:
    tree = {"corpus": {"sources": [{"path": "a"}, {"path": "b"}]}}
    changed = apply_overrides(tree, ["corpus.sources.1.path=c", "corpus.sources.0={path = 'd'}"])
    assert changed == {"corpus": {"sources": [{"path": "d"}, {"path": "c"}]}}
    assert tree == {"corpus": {"sources": [{"path": "a"}, {"path": "b"}]}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps", "not of the form"),
        ("=3", "not of the form"),
        ("train..steps=3", "not of the form"),
        ("name.steps=3", "name is a value and has no keys below it"),
        ("list.2=x", "'2' is not a place in a list of 2"),
        ("list.-1=x", "'-1' is not a place"),
        ("list.²=x", "is not a place"),
        ("list.0.a=x", "list.0 is a value and has no keys below it"),
    ],
)
def test_wrong_overrides_are_refused(override: str, message: str) -> None:
    with pytest.raises(UserError, match="--set ") as caught:
        apply_overrides({"name": "demo", "list": [1, 2]}, [override])
    assert message in str(caught.value)


_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
_keys = st.sampled_from(["name", "train", "steps", "corpus", "sources", "0", "kind", "folder", "path"])
_trees = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=4), max_leaves=12
)


@given(st.dictionaries(_keys, _trees, max_size=4), st.lists(st.text(max_size=20), max_size=3))
def test_no_tree_and_no_override_raises_anything_else(tree: dict[str, Any], overrides: list[str]) -> None:
    with contextlib.suppress(UserError):
        validate(Recipe, apply_overrides(tree, overrides), "f")


@given(st.lists(_keys, min_size=1, max_size=4), st.integers(-(2**63), 2**63 - 1) | st.booleans())
def test_an_override_is_what_toml_says(keys: list[str], value: int | bool) -> None:
    override = f"{'.'.join(keys)}={str(value).lower()}"
    assert apply_overrides({}, [override]) == tomllib.loads(override)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a = ", "is not valid TOML"),
        (b"a = 1\na = 2", "is not valid TOML"),
        (b"a = " + b"9" * 5000, "is not valid TOML"),
        (b"a = 0x" + b"f" * 9000, "is not valid TOML"),
        (b"a = \xff", "is not UTF-8 text"),
        (b"a = " + b"[" * 5000, "nested too deeply"),
        (b"a" + b".a" * 5000 + b" = 1", "nested too deeply"),
    ],
)
def test_damaged_toml(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_toml(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        read_toml(tmp_path / "none.toml")
    with pytest.raises(UserError, match="is a folder; name a TOML file"):
        read_toml(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be read: Not a directory"):
        read_toml(tmp_path / "file" / "recipe.toml")


def test_toml_of_a_windows_editor(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(b"\xef\xbb\xbfname = 'demo'\r\nday = 2024-01-31\r\n")
    assert read_toml(path) == {"name": "demo", "day": "2024-01-31"}
