"""What can be compared: recipes; single scores, allocations and rules in the recipe where they are at home; controls.

A control takes what another arm has found, and asks what of it was worth the trouble (Liu, Sun, Zhou, Huang, Darrell:
"Rethinking the Value of Network Pruning", ICLR 2019, arXiv:1810.05270).
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

from .. import catalog, find
from ..core.errors import ResproutError, nearest
from ..core.kinds import Recipe
from ..core.store import configuration

CONTROLS = {
    "scratch": "the found masks, trained from new random weights for as many steps",
    "scratch_compute": "the same, for as many multiply-adds as the dense network would have taken",
    "shuffled": "as many weights in each layer, at random places, from new random weights",
    "small": "a dense network of the same kind with as many parameters, all layers narrower, from new random weights",
}
DENSE = "dense"


@dataclass(frozen=True)
class Arm:
    """One line of the comparison: what was asked, and what is run.

    Attributes:
        label: as it was asked for.
        config: what is run, canonically: equal configurations are one arm. Of a control its name.
        control: whether it is a control, and then
        of: the arm whose result it takes.
    """

    label: str
    config: str
    of: Arm | None = None

    @property
    def control(self) -> bool:
        """Whether it starts from what another arm has found."""
        return self.of is not None

    @property
    def recipe(self) -> Recipe:
        """The recipe of an arm that is no control."""
        return parse_recipe(self.label)


def parse(text: str) -> Arm:
    """Read "one_way", "one_way(lr=0.05)", "lamp", "rigl", or a control such as "scratch(one_way)".

    A score or an allocation stands for `one_way` with it, a rule for `sparse_training` with it.

    Raises:
        ResproutError: nothing has that name (with the nearest), or the text cannot be read.
    """
    text = text.strip()
    if (match := re.fullmatch(r"(\w+)\s*\((.*)\)", text, re.S)) and match[1] in CONTROLS:
        inner = parse(match[2])
        if inner.control:
            raise ResproutError(f"{text!r}: a control of a control tells nothing; name the recipe itself")
        return Arm(f"{match[1]}({inner.label})", match[1], inner)
    if text in CONTROLS:
        raise ResproutError(f"{text!r} is a control: say of which arm, as in '{text}(one_way)', or use --controls")
    recipe = parse_recipe(text)
    if getattr(recipe, "epochs", None) != getattr(type(recipe), "epochs", None):
        raise ResproutError(f"{text!r}: all arms have the same training budget, which is --epochs")
    return Arm(text, configuration(recipe))


def parse_recipe(text: str) -> Recipe:
    """Return the recipe that an arm stands for.

    Raises:
        ResproutError: as `parse`.
    """
    name = re.split(r"\W", text.strip(), maxsplit=1)[0]
    homes = {"recipe": None, "score": "one_way", "allocate": "one_way", "rule": "sparse_training"}
    for kind, home in homes.items():
        if name in catalog.names(kind):
            if home is None:
                made = find.method("recipe", text)
                assert isinstance(made, Recipe)
                return made
            return dataclasses.replace(catalog.make("recipe", home), **{kind: find.method(kind, text)})
    known = [n for kind in homes for n in catalog.names(kind)] + list(CONTROLS)
    raise nearest(name, known, "arm")
