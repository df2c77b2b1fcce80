"""Zero-invariant groups: what must be zero together for a unit to be exactly zero; not a method."""

from collections.abc import Iterator, Mapping

from torch import Tensor

from ...core.errors import ResproutError
from ...core.masks import Masks
from ...core.roles import making
from ...core.run import Run
from ...core.units import Group, Slot, spread


def groups(run: Run) -> Iterator[tuple[Group, tuple[Slot, ...]]]:
    """Yield each group of the run with the slots that make its units.

    Raises:
        ResproutError: the run has none.
    """
    if not run.groups:
        raise ResproutError(
            "this rule removes units, and the run has no groups: ask for granularity='channel' or 'head'"
        )
    for group in run.groups:
        if slots := making(run.model, group):
            yield group, slots


def close(run: Run, alive: Mapping[str, Tensor]) -> None:
    """Put masks in force without the units that are not in `alive` (group name -> bool (units,))."""
    shapes = {n: tuple(m.shape) for n, m in run.masks.items()}
    chosen = [g for g in run.groups if g.name in alive]
    gone = spread(chosen, {n: a.cpu() for n, a in alive.items()}, shapes)
    run.set_masks(run.masks & Masks({n: m.to(run.masks[n].device) for n, m in gone.items()}))
