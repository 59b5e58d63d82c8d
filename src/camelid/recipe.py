"""A recipe: one TOML file that says everything about a run, and the rooms' settings put together from it."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from camelid.corpus.settings import CorpusSettings
from camelid.dataset.settings import DatasetSettings
from camelid.errors import UserError
from camelid.evaluation.settings import EvaluationSettings
from camelid.model.config import ModelConfig, ModelSettings
from camelid.parallel.settings import refuse_unfit
from camelid.report.settings import ReportSettings
from camelid.settings import Settings, apply_overrides, read_toml, validate
from camelid.tokenizer.settings import TokenizerSettings
from camelid.training.settings import InstructSettings, TrainSettings


class Recipe(Settings):
    """Everything that a run needs, stage by stage."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    """Name of the run; its products lie in runs/<name> unless --out says otherwise."""
    seed: int = Field(0, ge=0)
    """Start of all random choices: sample of the tokenizer, first weights, order of the data, samples of text."""
    corpus: CorpusSettings
    """Raw text becomes documents."""
    tokenizer: TokenizerSettings
    """Documents become a vocabulary."""
    dataset: DatasetSettings = DatasetSettings()
    """Documents become tokens."""
    model: ModelSettings
    """The shape of the model."""
    train: TrainSettings
    """Tokens become weights."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """Weights are measured."""
    report: ReportSettings = ReportSettings()
    """Files become a page."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        config = self.model_config_for_training()
        refuse_unfit(self.train.mesh, config, self.train.sequence_length)
        context = config.max_sequence_length
        if self.train.sequence_length > context:
            raise ValueError(
                f"train.sequence_length {self.train.sequence_length:,} is beyond the model's max_sequence_length "
                f"{context:,}; lower the one or raise the other"
            )
        return self

    def model_config_for_training(self) -> ModelConfig:
        """The model's complete configuration."""
        return self.model.resolve(self.tokenizer.vocab_size)


class InstructRecipe(Settings):
    """Everything that fine-tuning on instructions needs."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    """Name of the run; its products lie in runs/<name> unless --out says otherwise."""
    seed: int = Field(0, ge=0)
    """Start of all random choices: order of the chats."""
    instruct: InstructSettings
    """The model and the chats."""
    train: TrainSettings
    """Chats become other weights."""


def is_instruct_recipe(name_or_path: str) -> bool:
    """Whether a recipe fine-tunes a model on chats, told by its table [instruct].

    Raises:
        UserError: there is no such recipe.
    """
    return "instruct" in read_toml(_find_recipe(name_or_path)[0])


def load_instruct_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> tuple[InstructRecipe, Path]:
    """As `load_recipe`."""
    path, base = _find_recipe(name_or_path)
    return validate(InstructRecipe, apply_overrides(read_toml(path), overrides), str(path)), base


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> tuple[Recipe, Path]:
    """Reads a recipe by path, or one of Camelid's own by name.

    Returns:
        The recipe, and the folder that its relative paths start from.

    Raises:
        UserError: there is no such recipe, or something in it is wrong.
    """
    path, base = _find_recipe(name_or_path)
    tree = apply_overrides(read_toml(path), overrides)
    return validate(Recipe, tree, str(path)), base


def own_recipes() -> list[str]:
    """Names of the recipes that come with Camelid."""
    return sorted(path.name.removesuffix(".toml") for path in _folder().iterdir() if path.name.endswith(".toml"))


def _find_recipe(name_or_path: str) -> tuple[Path, Path]:
    # A folder or file of that name that lies here does not stand in the way; it is called ./demo.
    if name_or_path in own_recipes():
        return _folder() / f"{name_or_path}.toml", Path.cwd()
    path = Path(name_or_path)
    if not path.suffix and not path.is_file():
        raise UserError(f"there is no recipe {name_or_path!r}; name a .toml file or one of {', '.join(own_recipes())}")
    return path, path.parent


def _folder() -> Path:
    return Path(str(resources.files("camelid") / "recipes"))
