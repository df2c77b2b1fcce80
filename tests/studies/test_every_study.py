"""What is asked of every study the moment its file exists."""

import dataclasses

import pytest

from resprout import catalog, find
from resprout.core.store import configuration
from resprout.studies._study import Finding, Study

STUDIES = [card for card in catalog.cards() if card.kind == "study"]


@pytest.mark.parametrize("card", STUDIES, ids=lambda card: card.name)
def test_a_study_says_what_it_asks_and_from_where(card):
    assert issubclass(card.method, Study)
    assert dataclasses.is_dataclass(card.method)
    assert card.method.__dataclass_params__.frozen  # pyright: ignore[reportAttributeAccessIssue]
    assert card.summary.endswith((".", "?"))
    assert "arXiv" in card.citation
    assert card.key
    assert len(card.method.claim) > 20  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("card", STUDIES, ids=lambda card: card.name)
def test_its_settings_can_be_written_on_the_command_line(card):
    made = find.method("study", card.name)
    assert find.method("study", f"{card.name}()") == made
    for field in dataclasses.fields(made):  # pyright: ignore[reportArgumentType]
        value = getattr(made, field.name)
        again = find.method("study", f"{card.name}({field.name}={configuration(value)})") if value != () else made
        assert again == made


def test_findings_are_read_back(tmp_path):
    found = Finding("a is +1.0 [0.5, 1.5] better", True, {"rows": [{"arm": "a", "x": 1.5}]}, seconds=2.0)
    found.write(tmp_path / "finding.json", name="x")
    assert Finding.read(tmp_path / "finding.json") == found
