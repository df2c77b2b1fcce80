"""What every method owes that prunes no part of a network: the form, and settings that the command line can write."""

import dataclasses
import inspect
import re
from typing import get_args

import pytest

from resprout import catalog, find
from resprout.core import kinds
from resprout.core.store import configuration

KINDS = [kind for folder, kind in catalog.PACKAGES.items() if folder != "studies"]
CARDS = [card for card in catalog.cards() if card.kind in KINDS]


@pytest.mark.parametrize("card", CARDS, ids=lambda card: f"{card.kind}/{card.name}")
def test_the_form_of_a_method(card):
    cls = card.method
    assert not inspect.isabstract(cls)
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen  # pyright: ignore[reportAttributeAccessIssue]
    assert cls.fidelity in get_args(kinds.Fidelity)
    assert re.search(r"arXiv|\d{4}|[Oo]urs", card.citation), f"no citation in {card.citation!r}"
    assert card.summary.endswith(".")
    assert cls.__doc__
    assert cls.__name__.lower() == card.name.replace("_", ""), "the file's path is the method's name"


@pytest.mark.parametrize("card", CARDS, ids=lambda card: f"{card.kind}/{card.name}")
def test_its_settings_can_be_written_on_the_command_line(card):
    made = find.method(card.kind, card.name)
    assert find.method(card.kind, f"{card.name}()") == made
    for field in dataclasses.fields(made):  # pyright: ignore[reportArgumentType]
        value = getattr(made, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, kinds.Method):
            continue
        text = type(value).__name__.lower() + "()" if isinstance(value, kinds.Method) else configuration(value)
        assert find.method(card.kind, f"{card.name}({field.name}={text})") == made
