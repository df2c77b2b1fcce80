"""What a study is and what it finds; not a study."""

from __future__ import annotations

import dataclasses
import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..core import store
from ..core.errors import CheckpointError
from ..core.kinds import Method
from ..report.figure import Figure

Tell = Callable[[str, float], None]


def silent(what: str, share: float) -> None:
    """Tell nothing."""


@dataclass(frozen=True)
class Finding:
    """What came out; kept as `finding.json` in the study's folder.

    Attributes:
        verdict: one sentence with its interval.
        holds: whether the published claim held here; None where the data do not say.
        tables: title -> tidy rows of JSON-able values.
        figures: what to look at.
        seconds: wall time.
    """

    verdict: str
    holds: bool | None
    tables: Mapping[str, Sequence[Mapping[str, Any]]]
    figures: Sequence[Figure] = ()
    seconds: float = 0.0

    def write(self, file: Path, **facts: Any) -> None:
        """Write it with further facts: the study's name, configuration, command."""
        store.write(file, json.dumps(dataclasses.asdict(self) | facts, indent=1).encode())

    @classmethod
    def read(cls, file: Path) -> Finding:
        """Read what `write` wrote.

        Raises:
            CheckpointError: it is not there, or damaged.
        """
        try:
            facts = json.loads(file.read_text())
            known: dict[str, Any] = {f.name: facts[f.name] for f in dataclasses.fields(cls)}
            known["figures"] = tuple(Figure(**f) for f in facts["figures"])
            return cls(**known)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{file} holds no finding ({error!r}); run the study again") from error


class Study(Method):
    """A published question as a frozen dataclass: its fields say what is run, its file's docstring what was claimed."""

    claim: ClassVar[str]  # the published claim in one sentence

    @abstractmethod
    def __call__(self, folder: Path, tell: Tell = silent) -> Finding:
        """Run it, and return what was found.

        Args:
            folder: where everything is kept; started again there, the study goes on.
            tell: called with (what is under way, share done in [0, 1]).
        """
