"""Answers that are kept as JSON under a name made of the question, so that a study that was stopped goes on; not a study."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..core import store
from ..core.errors import CheckpointError


def kept(folder: Path, question: Mapping[str, Any], answer: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the answer to `question`, from its file in `folder` if it has been found before.

    Args:
        folder: of all such files.
        question: all that decides the answer, JSON-able.
        answer: finds it: JSON-able facts.

    Raises:
        CheckpointError: the file is damaged.
    """
    text = json.dumps(question, sort_keys=True)
    file = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
    if not file.exists():
        facts = json.loads(json.dumps(answer()))  # as it will be read again
        store.write(file, json.dumps({"question": json.loads(text), "answer": facts}, indent=1).encode())
        return facts
    try:
        return json.loads(file.read_text())["answer"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is damaged ({error!r}); delete it to find it again") from error
