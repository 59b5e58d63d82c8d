"""The chain of a recipe: corpus, tokenizer, dataset, training, evaluation, report. What is finished is skipped."""

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camelid import artifact
from camelid.artifact import Manifest
from camelid.errors import UserError
from camelid.parallel.settings import refuse_wrong_count
from camelid.progress import format_duration
from camelid.recipe import Recipe
from camelid.report.sentences import describe_product
from camelid.settings import Settings

if TYPE_CHECKING:
    from camelid.parallel.processes import Processes


@dataclass(frozen=True)
class Run:
    """A recipe and the folder of its products."""

    recipe: Recipe
    directory: Path
    base: Path
    """Where the recipe's relative paths start."""
    compared_tokenizers: Mapping[str, Path]
    """Other tokenizers to measure beside the trained one."""
    processes: "Processes | None" = None
    """Those that train together; each of them runs this chain, and the first one does alone all but the training."""

    def path(self, stage: str) -> Path:
        """The folder of one stage's product."""
        return self.directory / stage

    def digest(self, stage: str) -> str:
        """Content of a finished stage."""
        return artifact.read_manifest(self.path(stage)).digest

    @property
    def num_processes(self) -> int:
        """Processes that train together."""
        return self.processes.place.num_processes if self.processes else 1

    def first_does(self, work: Callable[[], Any]) -> Any:
        """Lets the first process do something while the others wait; gives its result to all."""
        return self.processes.first_does(work) if self.processes else work()


@dataclass(frozen=True)
class Stage:
    """One arrow of the chain: from the products named as inputs to one product."""

    name: str
    settings: Callable[[Run], Settings | Mapping[str, Any]]
    inputs: Callable[[Run], dict[str, str]]
    build: Callable[[Run, dict[str, str]], Manifest]
    is_seeded: bool = False
    """Whether the product depends on the recipe's seed."""
    is_built_together: bool = False
    """Whether all processes take part where there are several."""


def run_chain(run: Run, last_stage: str, is_rebuilt: bool = False) -> None:
    """Builds the products up to `last_stage`, skipping those that are there and were made from the same things.

    Args:
        is_rebuilt: whether products that were made otherwise are moved aside, with all that follows, and made again.

    Raises:
        UserError: a product was made otherwise and is not to be rebuilt, or a stage refuses its input.
    """
    run.first_does(lambda: _prepare(run, last_stage))
    for stage in STAGES:
        _bring_up_to_date(run, stage, is_rebuilt)
        if stage.name == last_stage:
            return
    raise AssertionError(f"there is no stage {last_stage}")


def _prepare(run: Run, last_stage: str) -> None:
    names = [stage.name for stage in STAGES]
    if names.index(last_stage) >= names.index("train") and not run.path("train").exists():
        # Now rather than after hours of work on what training needs.
        refuse_wrong_count(run.recipe.train.mesh, run.num_processes)
    run.directory.mkdir(parents=True, exist_ok=True)


def is_finished(run: Run, stage_name: str) -> bool:
    """Whether a stage's product is there and was made from what the recipe says now."""
    for stage in STAGES:
        path = run.path(stage.name)
        if not path.exists() or _difference(run, stage):
            return False
        if stage.name == stage_name:
            return True
    raise AssertionError(f"there is no stage {stage_name}")


def _difference(run: Run, stage: Stage) -> str:
    manifest = artifact.read_manifest(run.path(stage.name))
    seed = run.recipe.seed if stage.is_seeded else None
    return artifact.find_difference(manifest, stage.settings(run), stage.inputs(run), seed)


def _bring_up_to_date(run: Run, stage: Stage, is_rebuilt: bool) -> None:
    if not run.first_does(lambda: _is_due(run, stage, is_rebuilt)):
        return
    start = time.monotonic()
    _say(f"{stage.name}: building {run.path(stage.name)}")
    if stage.is_built_together:
        stage.build(run, stage.inputs(run))
    else:
        run.first_does(lambda: stage.build(run, stage.inputs(run)) and None)
    manifest = artifact.read_manifest(run.path(stage.name))
    _say_done(stage, manifest, f"done in {format_duration(time.monotonic() - start)}")


def _is_due(run: Run, stage: Stage, is_rebuilt: bool) -> bool:
    """Whether a product is to be built; one that was made otherwise is moved aside or refused."""
    path = run.path(stage.name)
    if path.exists():
        difference = _difference(run, stage)
        if not difference:
            _say_done(stage, artifact.read_manifest(path), "finished already")
            return False
        if not is_rebuilt:
            raise UserError(
                f"{path} was made otherwise: {difference}; make a new run with --out, or replace this and what follows "
                "with --rebuild (the old products are kept beside it)"
            )
        _move_aside(path)
    if is_rebuilt and artifact.partial_path(path).exists():
        _move_aside(artifact.partial_path(path))
    return True


def _move_aside(path: Path) -> None:
    superseded = path.parent / "superseded"
    superseded.mkdir(exist_ok=True)
    target = next(place for n in count(1) if not (place := superseded / f"{path.name}-{n}").exists())
    shutil.move(path, target)
    _say(f"moved {path} to {target}")


def _build_corpus(run: Run, _inputs: dict[str, str]) -> Manifest:
    from camelid.corpus.build import build_corpus

    return build_corpus(run.recipe.corpus, run.path("corpus"), seed=run.recipe.seed, base=run.base)


def _corpus_settings(run: Run) -> dict[str, Any]:
    from camelid.corpus.build import corpus_identity

    return corpus_identity(run.recipe.corpus)


def _corpus_inputs(run: Run) -> dict[str, str]:
    from camelid.corpus.build import fingerprint_sources

    return fingerprint_sources(run.recipe.corpus, run.base)


def _build_tokenizer(run: Run, inputs: dict[str, str]) -> Manifest:
    from camelid.corpus.document import read_documents
    from camelid.tokenizer.build import build_tokenizer

    def held_out() -> Iterator[tuple[str, str]]:
        return ((document.source, document.text) for document in read_documents(run.path("corpus"), "held_out"))

    return build_tokenizer(
        run.recipe.tokenizer,
        run.path("tokenizer"),
        train_texts=lambda: (document.text for document in read_documents(run.path("corpus"), "train")),
        held_out=held_out,
        inputs=inputs,
        seed=run.recipe.seed,
        compare=run.compared_tokenizers,
    )


def _build_dataset(run: Run, _inputs: dict[str, str]) -> Manifest:
    from camelid.dataset.tokenize import build_dataset

    return build_dataset(
        run.recipe.dataset, run.path("corpus"), run.path("tokenizer"), run.path("dataset"), seed=run.recipe.seed
    )


def _train_settings(run: Run) -> dict[str, Any]:
    recipe = run.recipe
    model = recipe.model_config_for_training()
    return {**recipe.train.identity(), "model": model.model_dump(mode="json")}


def _build_train(run: Run, inputs: dict[str, str]) -> Manifest:
    from camelid.dataset.loader import Loader
    from camelid.dataset.mixture import plan_mixture
    from camelid.dataset.shards import open_dataset
    from camelid.training.loop import train
    from camelid.training.trainer import Data
    from camelid.training.validate import choose_documents

    recipe = run.recipe
    settings = recipe.train
    if settings.is_data_verified:
        run.first_does(lambda: artifact.verify(run.path("dataset"), "dataset") and None)
    dataset = open_dataset(run.path("dataset"))
    mixture = plan_mixture(dataset, settings.steps * settings.batch_tokens)
    if run.processes is None or run.processes.place.rank == 0:
        for row in mixture:
            if row["warning"]:
                _say(f"train: {row['warning']}")
    rank, num_ranks = settings.mesh.data_share(run.processes.place.rank if run.processes else 0)
    data = Data(
        loader=Loader(
            dataset,
            settings.sequence_length,
            settings.batch_sequences,
            recipe.seed,
            rank=rank,
            world_size=num_ranks,
        ),
        held_out={
            source: choose_documents(dataset.read_held_out(source), settings.held_out_tokens)
            for source in dataset.held_out_sources
        },
        tokenizer=run.path("tokenizer") / "tokenizer.model",
        facts={"mixture": mixture},
    )
    return train(
        recipe.model_config_for_training(),
        settings,
        data,
        run.path("train"),
        seed=recipe.seed,
        inputs=inputs,
        sample=_make_sampler(run) if settings.sample_prompts else None,
        processes=run.processes,
    )


def _make_sampler(run: Run) -> Callable[[Any], list[dict[str, Any]]]:
    from camelid.inference.llama import Llama
    from camelid.tokenizer.load import load_tokenizer

    settings = run.recipe.train
    tokenizer = load_tokenizer(run.path("tokenizer"))

    def sample(model: Any) -> list[dict[str, Any]]:
        llama = Llama.from_model(model, tokenizer)
        return [
            {"prompt": prompt, "text": llama.generate(prompt, max_tokens=settings.sample_tokens, seed=run.recipe.seed)}
            for prompt in settings.sample_prompts
        ]

    return sample


def _build_evaluation(run: Run, inputs: dict[str, str]) -> Manifest:
    from camelid.dataset.shards import open_dataset
    from camelid.evaluation.held_out import build_evaluation

    return build_evaluation(
        run.recipe.evaluation,
        run.recipe.train,
        run.path("evaluation"),
        model=run.path("train"),
        corpus=run.path("corpus"),
        dataset=open_dataset(run.path("dataset")),
        inputs=inputs,
        seed=run.recipe.seed,
    )


def _build_report(run: Run, inputs: dict[str, str]) -> Manifest:
    from camelid.report.page import build_report

    return build_report(run.directory, run.path("report"), run.recipe.report, inputs=inputs, seed=run.recipe.seed)


def _inputs_from(*stages: str) -> Callable[[Run], dict[str, str]]:
    return lambda run: {stage: run.digest(stage) for stage in stages}


STAGES = (
    Stage("corpus", _corpus_settings, _corpus_inputs, _build_corpus),
    Stage("tokenizer", lambda run: run.recipe.tokenizer, _inputs_from("corpus"), _build_tokenizer, is_seeded=True),
    Stage("dataset", lambda run: run.recipe.dataset, _inputs_from("corpus", "tokenizer"), _build_dataset),
    Stage(
        "train",
        _train_settings,
        _inputs_from("dataset", "tokenizer"),
        _build_train,
        is_seeded=True,
        is_built_together=True,
    ),
    Stage(
        "evaluation",
        lambda run: run.recipe.evaluation,
        _inputs_from("corpus", "dataset", "train"),
        _build_evaluation,
        is_seeded=True,
    ),
    Stage(
        "report",
        lambda run: run.recipe.report,
        _inputs_from("corpus", "tokenizer", "dataset", "train", "evaluation"),
        _build_report,
    ),
)


def _say_done(stage: Stage, manifest: Manifest, how: str) -> None:
    numbers = describe_product(manifest)
    _say(f"{stage.name}: {how}{': ' if numbers else ''}{numbers}")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
