"""resprout: cut a network past its cliff, and regrow it to the budget of its device."""

from .api import attention_similarity, prune, regrow
from .core.budget import Budget, Nonzero, Sparsity
from .core.errors import BudgetError, CheckpointError, LayerDied, ResproutError
from .core.hold import hold
from .core.masks import Masks
from .core.probe import Probe
from .core.task import Task
from .deploy.bytes import Bytes
from .deploy.file import load, save
from .fit import Arrival, Result, fit
from .tasks.arrays import Arrays

__version__ = "0.1.0"
__all__ = [
    "Arrays",
    "Arrival",
    "Budget",
    "BudgetError",
    "Bytes",
    "CheckpointError",
    "LayerDied",
    "Masks",
    "Nonzero",
    "Probe",
    "ResproutError",
    "Result",
    "Sparsity",
    "Task",
    "attention_similarity",
    "fit",
    "hold",
    "load",
    "prune",
    "regrow",
    "save",
]
