r"""TinyStories for comparisons on small machines: windows of 256 tokens, four a step, and 50,000 tokens to choose by.

resprout compare one_way --model hf:../shared/data/stories260k \
    --task benchmarks/language_task.py:stories --data ../shared/data/tinystories
"""

import dataclasses
from pathlib import Path

from resprout.core.task import Task
from resprout.tasks.text import text

CHOOSE = 50_000


def stories(data: str | Path) -> Task:
    """Return the task; the tokenizer is that of the folder `stories260k` beside the data."""
    whole = text(data, tokenizer=str(Path(data).parent / "stories260k"), window=256, batch_size=4)
    return dataclasses.replace(
        whole, validation=whole.validation[:CHOOSE], name=f"{whole.name}, first {CHOOSE:,} to choose by"
    )
