"""resprout: cut a network past its cliff, and regrow it to the budget of its device."""

from .activations.sparsify import sparsify_activations
from .api import attention_similarity, prune, regrow
from .core.budget import All, Budget, Nonzero, Sparsity
from .core.errors import BudgetError, CheckpointError, LayerDied, ResproutError
from .core.hold import hold
from .core.masks import Masks
from .core.probe import Probe
from .core.task import Task
from .deploy.bytes import Bytes
from .deploy.file import load, save
from .deploy.flash import Flash
from .deploy.gain import Gain, gain
from .deploy.huggingface import load_pretrained, save_pretrained
from .deploy.latency import Latency
from .deploy.macs import Macs
from .deploy.ram import Ram
from .deploy.runtime import Runtime
from .deploy.target import Target
from .deploy.trace import lower
from .evaluate.perplexity import perplexity
from .fit import Arrival, Result, fit
from .graph.shrink import expand, shrink
from .graph.structure import Structure
from .graph.trace import trace
from .layerwise.prune import prune_blocks, prune_folder
from .tasks.arrays import Arrays

__version__ = "0.1.0"
__all__ = [
    "All",
    "Arrays",
    "Arrival",
    "Budget",
    "BudgetError",
    "Bytes",
    "CheckpointError",
    "Flash",
    "Gain",
    "Latency",
    "LayerDied",
    "Macs",
    "Masks",
    "Nonzero",
    "Probe",
    "Ram",
    "ResproutError",
    "Result",
    "Runtime",
    "Sparsity",
    "Structure",
    "Target",
    "Task",
    "attention_similarity",
    "expand",
    "fit",
    "gain",
    "hold",
    "load",
    "load_pretrained",
    "lower",
    "perplexity",
    "prune",
    "prune_blocks",
    "prune_folder",
    "regrow",
    "save",
    "save_pretrained",
    "shrink",
    "sparsify_activations",
    "trace",
]
