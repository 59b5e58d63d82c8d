"""Which of several processes this is, as torchrun and `--processes` tell it. No torch here."""

import os
from dataclasses import dataclass

from camelid.errors import UserError


class RefusedByFirstError(UserError):
    """What the first process has refused, and tells itself."""


@dataclass(frozen=True)
class Place:
    """One process among those that train together."""

    rank: int = 0
    num_processes: int = 1
    local_rank: int = 0
    """Place among those of the same machine."""
    num_local_processes: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes, prints and decides for all."""
        return self.rank == 0


def find_place() -> Place:
    """The place that torchrun's variables name, or that of a process alone.

    Raises:
        UserError: a variable is no number.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return Place()
    num_processes = _read_number("WORLD_SIZE", 1)
    return Place(
        rank=_read_number("RANK", 0),
        num_processes=num_processes,
        local_rank=_read_number("LOCAL_RANK", 0),
        num_local_processes=_read_number("LOCAL_WORLD_SIZE", num_processes),
    )


def _read_number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdecimal()):
        raise UserError(
            f"the environment variable {name} is {text!r} and no number; start with torchrun or --processes"
        )
    return int(text)
