"""The pickle inside a file of torch.save, read and written as data: a table of tensors, and where their bytes lie.

A pickle is a program. This reader runs the few of its instructions that build dictionaries, tuples and tensors, and
imports and calls nothing; whatever else a file asks for is refused by name.
"""

import pickletools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from camelid.checkpoint.bounded import show
from camelid.encoding import ENCODINGS, Encoding

STORAGES = {"f32": "FloatStorage", "f16": "HalfStorage", "bf16": "BFloat16Storage"}
"""torch's name for each encoding that is read and written."""

_ENCODINGS = {storage: ENCODINGS[name] for name, storage in STORAGES.items()}
_STORAGE = re.compile(r"[A-Z]\w{2,30}Storage")
_MAX_DIMENSIONS = 8


class PickleError(ValueError):
    """The pickle is damaged, or asks for something that is no table of tensors; the message says what."""


@dataclass(frozen=True)
class SavedTensor:
    """A tensor of a pickle: a view of a storage, all in elements."""

    storage: str
    """Name of the record that holds the bytes."""
    encoding: Encoding
    num_elements: int
    """Size of the storage."""
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class _Global:
    module: str
    name: str


@dataclass(frozen=True)
class _Storage:
    kind: str
    key: str
    num_elements: int


class _Table(dict[Any, Any]):
    """A dictionary of the pickle, an OrderedDict too."""


_ORDERED_DICT = _Global("collections", "OrderedDict")
_REBUILD_TENSOR = _Global("torch._utils", "_rebuild_tensor_v2")
_REBUILD_PARAMETER = _Global("torch._utils", "_rebuild_parameter")
_KNOWN_GLOBALS = (_ORDERED_DICT, _REBUILD_TENSOR, _REBUILD_PARAMETER)
_MARK = object()


def read_tensors(pickle: bytes) -> dict[str, SavedTensor]:
    """The tensors by name, in the order of the pickle.

    Raises:
        PickleError: it is damaged, holds code, or something other than tensors of float32, float16 and bfloat16.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(pickle):
            machine.run(opcode.name, argument)
    except PickleError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise PickleError(f"its pickle is damaged ({str(error)[:100]})") from error
    table = machine.result
    if not isinstance(table, _Table):
        raise PickleError("it holds no table of tensors")
    for name, value in table.items():
        if not (isinstance(name, str) and isinstance(value, SavedTensor)):
            raise PickleError(f"its entry {show(name)} is no tensor")
    return dict(table)


class _Machine:
    """Stack and memory of the pickle's program."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.result: Any = None

    def run(self, name: str, argument: Any) -> None:
        match name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                (self.result,) = self.stack
            case "MARK":
                self.stack.append(_MARK)
            case "EMPTY_DICT":
                self.stack.append(_Table())
            case "EMPTY_LIST" | "EMPTY_TUPLE":
                self.stack.append(() if name == "EMPTY_TUPLE" else [])
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                self.stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                self.stack.append(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE":
                self.stack.append(argument)
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.stack.append(tuple(self._pop_to_mark() if name == "TUPLE" else self._pop(int(name[-1]))))
            case "GLOBAL" | "STACK_GLOBAL":
                module, attribute = argument.split(" ", 1) if name == "GLOBAL" else self._pop(2)
                self.stack.append(_find_global(module, attribute))
            case "BINPERSID":
                self.stack.append(_find_storage(self.stack.pop()))
            case "REDUCE":
                function, arguments = self._pop(2)
                self.stack.append(_call(function, arguments))
            case "SETITEM" | "SETITEMS":
                items = self._pop(2) if name == "SETITEM" else self._pop_to_mark()
                self._fill(items)
            case "BUILD":
                self.stack.pop()  # attributes of a state dictionary: versions of its modules
                if not isinstance(self.stack[-1], _Table):
                    raise PickleError("its pickle builds an object, which is code")
            case _:
                raise PickleError(f"its pickle has an instruction {name}, which a table of tensors does not need")

    def _pop(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise PickleError("its pickle is damaged (it takes more from its stack than is there)")
        popped = self.stack[-count:]
        del self.stack[-count:]
        return popped

    def _pop_to_mark(self) -> list[Any]:
        popped = []
        while (value := self.stack.pop()) is not _MARK:
            popped.append(value)
        return popped[::-1]

    def _fill(self, items: list[Any]) -> None:
        table = self.stack[-1]
        if not isinstance(table, _Table) or len(items) % 2 or not all(isinstance(key, str) for key in items[::2]):
            raise PickleError("its pickle is damaged (it fills what is no table of names)")
        table.update(zip(items[::2], items[1::2], strict=True))


def _find_global(module: Any, name: Any) -> _Global:
    if not (isinstance(module, str) and isinstance(name, str)):
        raise PickleError("its pickle is damaged (it imports what is no name)")
    found = _Global(module, name)
    is_storage = module == "torch" and _STORAGE.fullmatch(name)
    if not is_storage and found not in _KNOWN_GLOBALS:
        raise PickleError(f"its pickle calls {show(f'{module}.{name}')}, which is code; it was not run")
    return found


def _find_storage(identifier: Any) -> _Storage:
    match identifier:
        case ("storage", _Global("torch", kind), str(key), str(), int(num_elements)) if num_elements >= 0:
            return _Storage(kind, key, num_elements)
    raise PickleError("its pickle is damaged (a storage has no name or size)")


def _call(function: Any, arguments: Any) -> Any:
    if not isinstance(arguments, tuple):
        raise PickleError("its pickle is damaged (a call without arguments)")
    if function == _ORDERED_DICT and arguments == ():
        return _Table()
    if function == _REBUILD_PARAMETER and arguments and isinstance(arguments[0], SavedTensor):
        return arguments[0]
    if function == _REBUILD_TENSOR and len(arguments) >= 4:
        return _rebuild_tensor(*arguments[:4])
    raise PickleError("its pickle calls something that it did not name")


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> SavedTensor:
    if not (
        isinstance(storage, _Storage) and _are_sizes((offset,)) and _are_sizes(shape) and _are_sizes(strides)
    ) or len(shape) != len(strides):
        raise PickleError("its pickle is damaged (a tensor has no shape)")
    if storage.kind not in _ENCODINGS:
        raise PickleError(
            f"it holds a tensor of torch.{storage.kind}, and Camelid reads {', '.join(STORAGES.values())}; save the "
            "weights in float16, bfloat16 or float32"
        )
    return SavedTensor(storage.key, _ENCODINGS[storage.kind], storage.num_elements, offset, shape, strides)


def _are_sizes(values: Any) -> bool:
    return (
        isinstance(values, tuple)
        and len(values) <= _MAX_DIMENSIONS
        and all(isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63 for value in values)
    )


def write_tensors(tensors: Iterable[tuple[str, SavedTensor]]) -> bytes:
    """A pickle of protocol 2, such as torch.save writes: a dictionary of tensors on the CPU."""
    parts = [b"\x80\x02}("]
    for name, tensor in tensors:
        storage = b"".join(
            (_text("storage"), _global("torch", STORAGES[tensor.encoding.name]), _text(tensor.storage), _text("cpu"))
        )
        identifier = b"(" + storage + _number(tensor.num_elements) + b"tQ"
        view = _number(tensor.offset) + _numbers(tensor.shape) + _numbers(tensor.strides)
        hooks = _global("collections", "OrderedDict") + b")R"
        parts.append(_text(name) + _global("torch._utils", "_rebuild_tensor_v2"))
        parts.append(b"(" + identifier + view + b"\x89" + hooks + b"tR")  # \x89: requires no gradient
    return b"".join([*parts, b"u."])


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _number(value: int) -> bytes:
    if value < 1 << 31:
        return b"J" + value.to_bytes(4, "little")
    data = value.to_bytes(8, "little", signed=True)
    return b"\x8a" + len(data).to_bytes(1, "little") + data


def _numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_number, values)) + b"t"
