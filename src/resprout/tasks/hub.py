"""Models and tokenizers of Hugging Face `transformers`: local folders first, weights as safetensors only.

What this file does not do: write such folders.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..core import extras
from ..core.errors import CheckpointError, ResproutError


def network(where: str | Path) -> nn.Module:
    """Return a causal language model, or a sequence classifier where its configuration says so, in float32.

    Code that lies beside the weights is never run, and its cache of keys and values is off.

    Args:
        where: a folder with `config.json` and `*.safetensors`, or the name of a model on the hub (or in its cache).

    Raises:
        ResproutError: transformers is missing, no such folder or model, or one of another kind.
        CheckpointError: pickled weights, or a file that is damaged or does not fill the model.
    """
    library, local = extras.transformers(), _local(where)
    if local:
        _check(Path(where))
    try:
        with extras.without_bars():
            config = library.AutoConfig.from_pretrained(where, local_files_only=local)
            classifies = any(a.endswith("ForSequenceClassification") for a in config.architectures or ())
            kind = library.AutoModelForSequenceClassification if classifies else library.AutoModelForCausalLM
            model, info = kind.from_pretrained(
                where, config=config, use_safetensors=True, local_files_only=local, dtype=torch.float32, output_loading_info=True
            )  # fmt: skip
    except (OSError, ValueError, KeyError) as error:
        raise ResproutError(f"transformers cannot load {str(where)!r}: {error}") from error
    except Exception as error:  # safetensors and transformers have errors of their own for damaged files
        raise CheckpointError(f"the weights of {str(where)!r} cannot be read: {error}") from error
    lacking = sorted(info["missing_keys"])
    if lacking:  # transformers fills them with random numbers and a warning
        raise CheckpointError(f"the weights of {str(where)!r} lack {lacking[0]!r} ({len(lacking)} such tensors)")
    model.config.use_cache = False
    return model.eval()


def tokenizer(where: str | Path) -> Any:
    """Return the tokenizer of a model's folder or name.

    Raises:
        ResproutError: transformers is missing, or there is no tokenizer there.
    """
    library, local = extras.transformers(), _local(where)
    try:
        own = local and "auto_map" in json.loads(
            (Path(where) / "config.json").read_text()
        )  # it would ask to run its code
        kind = library.PreTrainedTokenizerFast if own else library.AutoTokenizer
        return kind.from_pretrained(where, local_files_only=local)
    except Exception as error:  # of many kinds, down to plain Exception from the parser of tokenizer.json
        raise ResproutError(f"there is no tokenizer that transformers can load in {str(where)!r}: {error}") from error


def _local(where: str | Path) -> bool:
    """Whether it is a folder.

    Raises:
        ResproutError: it looks like one, and is not there.
    """
    path = Path(where)
    if path.is_dir():
        return True
    if isinstance(where, Path) or path.is_absolute() or str(where).startswith((".", "~")) or str(where).count("/") > 1:
        raise ResproutError(
            f"there is no folder {path.absolute()}; give the folder of a model as transformers saves it"
        )
    return False


def _check(folder: Path) -> None:
    """Refuse a folder without safetensors, before transformers does it in other words."""
    if not (folder / "config.json").is_file():
        raise ResproutError(f"{folder} holds no config.json; give the folder of a model as transformers saves it")
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(p.name for end in ("bin", "pt", "pth", "ckpt") for p in folder.glob(f"*.{end}"))
    if pickles:
        raise CheckpointError(
            f"{folder} holds its weights only as {pickles[0]}, a pickle, which can run code when it is read; convert it once, "
            "where you trust it: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW, safe_serialization=True)"
        )
    raise ResproutError(f"{folder} holds no *.safetensors, and so no weights")
