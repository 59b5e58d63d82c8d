"""The state of a training written and read: on a mesh each process writes its own pieces, in the background.

torch.distributed.checkpoint plans who writes which piece of which tensor, and who reads which part of it, so that any
mesh reads what another one wrote. The files are safetensors beside an index in JSON (`shards`), where torch's own
storage would hold pickles; a checkpoint of one process is read in the same way.
"""

import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future as Background
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_loader import load as load_planned
from torch.distributed.checkpoint.state_dict_saver import save as save_planned
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.distributed.tensor import DTensor
from torch.futures import Future

from camelid import artifact
from camelid.artifact import Draft, StoredFile
from camelid.checkpoint import native, shards
from camelid.checkpoint.expected import say_shape
from camelid.checkpoint.native import About
from camelid.checkpoint.shards import Index, Piece, Pieces
from camelid.errors import UserError

_KINDS = ("weights", "optimizer")
_WHOLE_FILES = (native.WEIGHTS_NAME, native.OPTIMIZER_NAME)
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class ShardedSaver:
    """Writes checkpoints of a mesh while the training goes on, one at a time.

    Every process makes one, and calls its methods in the same order as the others.
    """

    def __init__(self) -> None:
        self._group: Any = None
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Background[None] | None = None

    def save(
        self, directory: Path, about: About, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]
    ) -> None:
        """Copies the state to the processor's memory and begins to write it; waits for the checkpoint before.

        Args:
            weights, optimizer: DTensors that lie on all processes, by name.

        Raises:
            UserError: as `wait`.
        """
        self.wait()
        # A group of its own: what the background says must not mix with what the training says.
        self._group = self._group or dist.new_group(backend="gloo")
        live = {
            f"{kind}/{name}": tensor
            for kind, tensors in zip(_KINDS, (weights, optimizer), strict=True)
            for name, tensor in tensors.items()
        }
        staged = {key: _copy(tensor) for key, tensor in live.items()}
        self._pending = self._thread.submit(self._write, directory, about, live, staged, _random_state())

    def wait(self) -> None:
        """Returns when the last checkpoint is published.

        Raises:
            UserError: to all processes, where one of them could not write its part, with a full disk for example.
        """
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        error = pending.exception()
        told: list[Any] = [None if error is None else str(error)]
        dist.broadcast_object_list(told, src=0, group=self._group)
        if told[0] is not None and dist.get_rank() != 0:
            raise UserError(told[0]) from error
        if error is not None:
            raise error

    def _write(
        self,
        directory: Path,
        about: About,
        live: Mapping[str, Tensor],
        staged: Mapping[str, Tensor],
        random: dict[str, Tensor],
    ) -> None:
        with ExitStack() as stack:
            draft, refused = None, None
            if dist.get_rank() == 0:
                try:
                    draft = stack.enter_context(native.publish_checkpoint(directory, about))
                except BaseException as error:
                    refused = error
            is_open = [refused is None]
            dist.broadcast_object_list(is_open, src=0, group=self._group)
            if refused is not None:
                raise refused
            if not is_open[0]:
                return
            writer = _Writer(artifact.partial_path(directory), random, draft)
            planner = _StagedPlanner(staged)
            try:
                save_planned(dict(live), storage_writer=writer, planner=planner, process_group=self._group)
            except CheckpointException as error:
                raise _root_of(error) from error


def load_state(checkpoint: Path, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> None:
    """Fills tensors, or this process's parts of DTensors, with what a checkpoint of any mesh holds.

    Raises:
        UserError: a file is damaged or missing, or a tensor is missing or of another shape.
    """
    wanted = {
        f"{kind}/{name}": tensor.detach()
        for kind, tensors in zip(_KINDS, (weights, optimizer), strict=True)
        for name, tensor in tensors.items()
    }
    stored = _find_stored(checkpoint)
    for key in sorted({*wanted, *stored}):
        found = stored[key].shape if key in stored else None
        needed = tuple(wanted[key].shape) if key in wanted else None
        if found != needed:
            raise UserError(
                f"{checkpoint}: {key.replace('/', ' ')} has shape {_say(found)}, but the model wants {_say(needed)}; "
                "go on from this model's own checkpoint"
            )
    with _damage_told(checkpoint), warnings.catch_warnings():
        # Each process reads for itself and need not ask the others, which torch warns of.
        warnings.filterwarnings("ignore", "torch.distributed is ")
        load_planned(wanted, storage_reader=_Reader(stored), no_dist=True)


def restore_random_state(checkpoint: Path, rank: int, num_processes: int) -> None:
    """Puts back the state of a process's random numbers, where as many processes wrote the checkpoint.

    Raises:
        UserError: its file is damaged.
    """
    if not shards.is_sharded(checkpoint) or shards.read_index(checkpoint).num_processes != num_processes:
        return
    with _damage_told(checkpoint):
        state = load_file(checkpoint / _file_name("random", rank))
        torch.set_rng_state(state["cpu"])
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda"])


def _random_state() -> dict[str, Tensor]:
    cuda = {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}
    return {"cpu": torch.get_rng_state(), **cuda}


def _copy(tensor: Tensor) -> Tensor:
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local.detach().to("cpu", copy=True).contiguous()


def _root_of(error: CheckpointException) -> BaseException:
    """What went wrong in the first of the processes that failed."""
    failure: BaseException = min(error.failures.items())[1][0]
    return failure


def _file_name(kind: str, rank: int) -> str:
    return f"{kind}-{rank:05d}.safetensors"


class _StagedPlanner(DefaultSavePlanner):
    """Plans by where the tensors lie, and writes the copies."""

    def __init__(self, staged: Mapping[str, Tensor]):
        super().__init__()
        self._staged = staged

    def lookup_object(self, index: MetadataIndex) -> Tensor:
        return self._staged[index.fqn]


@dataclass(frozen=True)
class _Told:
    """What the first process is told of a file that another one wrote."""

    name: str
    file: StoredFile
    pieces: dict[str, list[tuple[str, Piece, str]]]
    """By kind: name of the tensor, piece and type."""


class _Writer(StorageWriter):
    """Writes this process's pieces; in the first process the index too."""

    def __init__(self, folder: Path, random: dict[str, Tensor], draft: Draft | None):
        self._folder = folder
        self._random = random
        self._draft = draft

    def reset(self, checkpoint_id: Any = None) -> None:
        pass

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        pass

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return plans

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return False

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        told = [self._write_file("random", self._random, [])]
        for kind in _KINDS:
            tensors: dict[str, Tensor] = {}
            pieces = []
            file = _file_name(kind, dist.get_rank())
            for item in plan.items:
                data = planner.resolve_data(item)
                of, name = item.index.fqn.split("/", 1)
                if of != kind or not isinstance(data, Tensor) or not data.numel():
                    continue
                offset = tuple(item.index.offset or [0] * data.dim())
                tensors[shards.piece_key(name, offset)] = data
                piece = Piece(file=file, offset=offset, shape=tuple(data.shape))
                pieces.append((name, piece, _DTYPE_NAMES[data.dtype]))
            told.append(self._write_file(kind, tensors, pieces))
        future: Future[list[WriteResult]] = Future()
        future.set_result([WriteResult(MetadataIndex(one.name), one.file.num_bytes, one) for one in told])
        return future

    def _write_file(self, kind: str, tensors: dict[str, Tensor], pieces: list[tuple[str, Piece, str]]) -> _Told:
        name = _file_name(kind, dist.get_rank())
        path = self._folder / name
        save_file(tensors, path)
        artifact.sync_path(path)
        return _Told(name, StoredFile(path.stat().st_size, artifact.hash_file(path)), {kind: pieces})

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        assert self._draft is not None
        tree: dict[str, dict[str, Pieces]] = {kind: {} for kind in _KINDS}
        found: dict[tuple[str, str], list[tuple[Piece, str]]] = {}
        for told in (result.storage_data for of_rank in results for result in of_rank):
            self._draft.hashed[told.name] = told.file
            for kind, pieces in told.pieces.items():
                for name, piece, dtype in pieces:
                    found.setdefault((kind, name), []).append((piece, dtype))
        for (kind, name), parts in sorted(found.items()):
            size = tuple(metadata.state_dict_metadata[f"{kind}/{name}"].size)  # type: ignore[union-attr]
            boxes = tuple(sorted((piece for piece, _ in parts), key=lambda piece: piece.offset))
            tree[kind][name] = Pieces(dtype=parts[0][1], shape=size, pieces=boxes)
        index = Index(num_processes=len(results), **tree)
        (self._draft.path / shards.INDEX_NAME).write_text(index.model_dump_json(indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class _Box:
    """A piece in a file, under a name."""

    path: Path
    key: str
    offset: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _StoredPieces:
    """A tensor as it lies in the files of a checkpoint."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    boxes: tuple[_Box, ...]


def _find_stored(checkpoint: Path) -> dict[str, _StoredPieces]:
    """All tensors of a checkpoint, as `weights/<name>` and `optimizer/<name>`."""
    if not shards.is_sharded(checkpoint):
        return dict(_find_whole(checkpoint))
    index = shards.read_index(checkpoint)
    return {
        f"{kind}/{name}": _StoredPieces(
            _dtype_of(pieces.dtype, checkpoint),
            pieces.shape,
            tuple(
                _Box(checkpoint / piece.file, shards.piece_key(name, piece.offset), piece.offset, piece.shape)
                for piece in pieces.pieces
            ),
        )
        for kind, tensors in zip(_KINDS, (index.weights, index.optimizer), strict=True)
        for name, pieces in tensors.items()
    }


def _find_whole(checkpoint: Path) -> Iterator[tuple[str, _StoredPieces]]:
    for kind, name in zip(_KINDS, _WHOLE_FILES, strict=True):
        path = checkpoint / name
        with _damage_told(checkpoint), safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118
                part = file.get_slice(key)
                shape = tuple(part.get_shape())
                dtype = _dtype_of(part.get_dtype(), checkpoint)
                yield f"{kind}/{key}", _StoredPieces(dtype, shape, (_Box(path, key, (0,) * len(shape), shape),))


def _dtype_of(name: str, checkpoint: Path) -> torch.dtype:
    if name not in _DTYPES:
        raise UserError(f"{checkpoint} holds tensors of type {name}, and a training has {', '.join(_DTYPES)}")
    return _DTYPES[name]


class _Reader(StorageReader):
    """Reads the parts of pieces that this process needs."""

    def __init__(self, stored: Mapping[str, _StoredPieces]):
        self._stored = stored

    def reset(self, checkpoint_id: Any = None) -> None:
        pass

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return Metadata(
            {
                key: TensorStorageMetadata(
                    TensorProperties(dtype=pieces.dtype),
                    torch.Size(pieces.shape),
                    [ChunkStorageMetadata(torch.Size(b.offset), torch.Size(b.shape)) for b in pieces.boxes],
                )
                for key, pieces in self._stored.items()
            }
        )

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        pass

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return False

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        boxes = {
            MetadataIndex(key, torch.Size(box.offset)): box
            for key, pieces in self._stored.items()
            for box in pieces.boxes
        }
        by_path: dict[Path, list[Any]] = {}
        for item in plan.items:
            by_path.setdefault(boxes[item.storage_index].path, []).append(item)
        for path, items in by_path.items():
            with safe_open(path, "pt") as file:
                for item in items:
                    part = file.get_slice(boxes[item.storage_index].key)
                    if tuple(part.get_shape()) != boxes[item.storage_index].shape:
                        raise UserError(f"{path} does not hold the pieces that its index says; restore the checkpoint")
                    begins = zip(item.storage_offsets, item.lengths, strict=True)
                    planner.resolve_tensor(item).copy_(part[tuple(slice(b, b + size) for b, size in begins)])
        future: Future[None] = Future()
        future.set_result(None)
        return future


@contextmanager
def _damage_told(checkpoint: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, FileNotFoundError, CheckpointException) as error:
        cause = _root_of(error) if isinstance(error, CheckpointException) else error
        if isinstance(cause, UserError):
            raise cause from error
        if isinstance(cause, SafetensorError | FileNotFoundError):
            raise UserError(
                f"{checkpoint} is damaged ({cause}); restore it or go on from an earlier checkpoint"
            ) from error
        raise


def _say(shape: tuple[int, ...] | None) -> str:
    return "nothing" if shape is None else say_shape(shape)
