"""Camelid: open and efficient foundation language models, end to end."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from camelid.inference.llama import Llama

__version__ = "0.1.0"
__all__ = ["Llama", "__version__"]


def __getattr__(name: str) -> Any:
    # Resolved on first use, so that `import camelid` loads neither torch nor numpy.
    if name == "Llama":
        from camelid.inference.llama import Llama

        return Llama
    raise AttributeError(f"module 'camelid' has no attribute {name!r}")
