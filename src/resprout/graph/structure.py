"""What `trace` finds in a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..core.units import Group
from .skip import Branch


@dataclass(frozen=True, eq=False)
class Structure:
    """What `trace` found; unpacks as `groups, kept_dense`.

    Attributes:
        groups: the coupled units.
        kept_dense: weight -> why its outputs cannot leave.
        norms: modules that count the channels of a group (see `norms.py`).
        attributes: group -> "module.attribute" -> by how much that number of the model's own code falls with each unit.
        unknown: operations without a rule -> where.
        literal: whether the model's code may name sizes.
        layers: the residual branches that can leave, where they have been looked for (see `layers.py`).
        kept_layers: residual branch -> why it cannot leave.
        example: what the branches are run on when they leave.
    """

    groups: tuple[Group, ...]
    kept_dense: dict[str, str]
    norms: tuple[str, ...] = ()
    attributes: dict[str, dict[str, int]] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    literal: bool = False
    layers: tuple[Branch, ...] = ()
    kept_layers: dict[str, str] = field(default_factory=dict)
    example: Any = None

    def __iter__(self) -> Iterator[Any]:
        return iter((self.groups, self.kept_dense))
