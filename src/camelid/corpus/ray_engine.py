"""The same tasks on a Ray cluster, whose machines share the folders of the raw files and of the product.

Texts stay on that disk: what Ray carries is the description of a task and the few numbers that it returns.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Any

from camelid.corpus.engine import Engine, Result, Task
from camelid.errors import UserError

_RETRIES = 3


class RayEngine(Engine):
    """Workers of the cluster that RAY_ADDRESS names, of the one that runs on this machine, or of one begun here."""

    def __init__(self, num_workers: int) -> None:
        """
        Args:
            num_workers: tasks that run at once, 0 for one per processor of the cluster.

        Raises:
            UserError: Ray is not installed, or the cluster does not answer.
        """
        try:
            import ray
        except ImportError as error:
            raise UserError(
                "the engine 'ray' needs the package ray, which is not installed; run: pip install 'camelid[cluster]', "
                "or leave out --engine"
            ) from error
        self._ray: Any = ray
        self._is_begun_here = not ray.is_initialized()
        if self._is_begun_here:
            try:
                ray.init(log_to_driver=False, include_dashboard=False, configure_logging=False)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise UserError(f"no Ray cluster can be had: {error}; look at RAY_ADDRESS and ray status") from error
        super().__init__(num_workers or int(ray.cluster_resources().get("CPU", 1)))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_begun_here:
            self._ray.shutdown()

    def _is_here(self, num_tasks: int) -> bool:
        return False

    def _open(self, function: Callable[[Task], Result]) -> tuple[Callable[[Task], Any], Callable[[Any], Result]]:
        # A task may run again when its machine is lost: it writes the same files.
        remote = self._ray.remote(num_cpus=1, max_retries=_RETRIES)(lambda task: function(task))

        def collect(handle: Any) -> Any:
            try:
                return self._ray.get(handle)
            except self._ray.exceptions.RayTaskError as error:
                # Ray's own error prints the trace of the worker; a UserError is to stay one sentence.
                raise (error.cause if isinstance(error.cause, UserError) else error) from None
            except self._ray.exceptions.RayError as error:
                raise UserError(
                    f"a worker of the Ray cluster was lost: {str(error).splitlines()[0]}; mend the cluster and run it "
                    "again (what is finished is kept)"
                ) from error

        return remote.remote, collect
