"""Run cells on many machines through Ray (extra `ray`); all must see the folder of the comparison and have resprout."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..core.errors import ResproutError
from .engine import Engine


class Cluster(Engine):
    """A Ray cluster: the one at `address` (default the environment variable RAY_ADDRESS), or one on this machine.

    Args:
        address: of the cluster.
        threads: processors of each cell.

    Raises:
        ResproutError: Ray is not installed.
    """

    def __init__(self, address: str | None = None, threads: int = 1):
        try:
            import ray
        except ImportError as error:
            raise ResproutError("engine 'ray' needs Ray: pip install 'resprout[ray]'") from error
        self._ray, self._threads = ray, threads
        if not ray.is_initialized():
            ray.init(address=address or os.environ.get("RAY_ADDRESS"), include_dashboard=False, log_to_driver=False)
        # A cell that is killed with its machine is tried again elsewhere, and goes on from its checkpoint.
        self._remote = ray.remote(num_cpus=threads, max_retries=2)(_run)

    @property
    def slots(self) -> int:
        """As many as the cluster has processors for, now."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)) // self._threads)

    def start(self, file: Path) -> Any:
        """As a task of the cluster."""
        return self._remote.remote(str(file.resolve()), self._threads)

    def ended(self, handle: Any) -> str | None:
        """By the task's result."""
        done, _ = self._ray.wait([handle], timeout=0)
        if not done:
            return None
        try:
            return self._ray.get(handle)
        except self._ray.exceptions.RayError as error:
            return str(error).strip().splitlines()[-1]

    def stop(self, handle: Any) -> None:
        """Cancel it."""
        self._ray.cancel(handle, force=True)


def _run(file: str, threads: int) -> str:
    """Run one cell in a worker; returns "" or what went wrong."""
    import torch

    from .cell import Cell
    from .run import run

    torch.set_num_threads(threads)
    try:
        run(Cell.read(Path(file)), Path(file).parents[2])
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""
