"""Layers of unequal size: code that makes them, here and, as a file of its own, within a folder.

The functions `skip_branches`, `count_channels` and `narrow` are written into the folder as they stand here: they use torch alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from ...core import extras
from ...core.errors import CheckpointError
from ...graph.norms import LayerNorm, RMSNorm
from ...graph.shape import refit
from ...graph.skip import Pass, Skip, tensors_in
from .net import Net, class_named, sizes

FILE = "modeling_ragged.py"
KEY = "ragged"  # of config.json
PREFIX = "ragged_"  # of the model's type: without the code nothing may take the folder for a dense network


def skip_branches(model: nn.Module, skipped: Mapping[str, Mapping[str, int]]) -> None:
    """Put in the place of modules that have left what gives a constant (the end of a branch), or passes on what it is given."""
    for path, how in skipped.items():
        old = model.get_submodule(path)
        number = getattr(old, "layer_idx", None)
        index = number if isinstance(number, int) else None
        if "channels" in how:
            new = Skip(how["channels"], how["dim"], how.get("outputs", 0), index)
        else:
            new = Pass(how.get("outputs", 0), index)
        owner: Any = model.get_submodule(path.rpartition(".")[0])
        setattr(owner, path.rpartition(".")[2], new)
        owner._is_hf_initialized = True  # else transformers would initialise what has left


def count_channels(model: nn.Module, norms: Mapping[str, Mapping[str, int]]) -> None:
    """Put norms that go on counting channels that have left in the place of plain ones."""
    for path, how in norms.items():
        old: Any = model.get_submodule(path)
        eps = getattr(old, "variance_epsilon", None) or old.eps
        if isinstance(old, nn.LayerNorm):
            new: nn.Module = LayerNorm(len(old.weight), how["of"], eps, old.bias is not None, how["dim"])
        else:
            new = RMSNorm(old.weight.detach(), how["of"], eps)
        parent, _, leaf = path.rpartition(".")
        setattr(model.get_submodule(parent), leaf, new)


def narrow(model: nn.Module, shapes: Mapping[str, list[int]], numbers: Mapping[str, int]) -> None:
    """Give parameters smaller shapes, tied ones together, and modules the numbers that go with them."""
    made: dict[int, nn.Parameter] = {}
    owners: dict[str, nn.Module] = {}
    tensors = dict(model.named_parameters(remove_duplicate=False))
    wanted = {id(tensors[name]): shape for name, shape in shapes.items()}
    for name, old in tensors.items():
        if id(old) not in wanted:
            continue
        if id(old) not in made:
            small = old.detach()[tuple(slice(size) for size in wanted[id(old)])].clone()
            made[id(old)] = nn.Parameter(small, old.requires_grad)
        path, _, leaf = name.rpartition(".")
        owners[path] = model.get_submodule(path)
        setattr(owners[path], leaf, made[id(old)])
    for owner in owners.values():
        refit(owner)
    for name, value in numbers.items():
        path, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(path), leaf, value)


def facts(net: Net) -> dict[str, Any]:
    """Return what the configuration cannot say, for config.json."""
    base, own = sizes(net.cls, net.config), net.sizes()
    return {
        "class": net.cls.__name__,
        "skipped": {path: _stands_in(kind) for path, kind in net.shape.skipped.items()},
        "norms": net.norms,
        "shapes": {n: list(own[n]) for n in base if n in own and own[n] != base[n]},
        "numbers": net.shape.attributes,
    }


def _stands_in(kind: str) -> dict[str, int]:
    """Return the arguments of `Skip` or `Pass` for a word of `kind_of`."""
    word, *numbers = kind.partition("@")[0].split(":")
    return dict(zip(("channels", "dim", "outputs") if word == "end" else ("outputs",), map(int, numbers), strict=False))


def code(net: Net, ragged: Mapping[str, Any]) -> str:
    """Return the text of the file of code that makes this network with transformers and torch alone."""
    config, cls = type(net.config).__name__, net.cls.__name__
    steps, parts = [], []
    if ragged["skipped"]:
        parts += [tensors_in, Pass, Skip, skip_branches]
        steps += ['skip_branches(self, config.ragged["skipped"])']
    if ragged["norms"]:
        parts += [LayerNorm, RMSNorm, count_channels]
        steps += ['count_channels(self, config.ragged["norms"])']
    parts += [refit, narrow]
    steps += ['narrow(self, config.ragged["shapes"], config.ragged["numbers"])']
    body = "\n\n".join(inspect.getsource(part) for part in parts)
    return HEAD.format(config=config, cls=cls) + body + TAIL.format(
        config=config, cls=cls, type=f"{PREFIX}{net.config.model_type}", steps="\n        ".join(steps)
    )  # fmt: skip


HEAD = '''"""{cls} with layers of unequal size: `config.ragged` says which sizes, and which branches have left.

Written by resprout; needs transformers and torch alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import {config}, {cls}


'''
TAIL = '''

class Ragged{config}({config}):
    """The configuration of the dense network, and `ragged`."""

    model_type = "{type}"


class Ragged{cls}({cls}):
    """The dense network, narrowed to the sizes that are stored."""

    config_class = Ragged{config}

    def __init__(self, config: Ragged{config}, *args: Any, **kwargs: Any):
        super().__init__(config, *args, **kwargs)
        {steps}
'''


def described(net: Net, ragged: Mapping[str, Any]) -> dict[str, Any]:
    """Return config.json for a network that needs the code."""
    config = type(net.config).__name__
    made = net.config.to_diff_dict()
    return made | {
        "model_type": f"{PREFIX}{net.config.model_type}",
        "architectures": [f"Ragged{net.cls.__name__}"],
        "auto_map": {"AutoConfig": f"{FILE[:-3]}.Ragged{config}"}
        | dict.fromkeys(auto_classes(net), f"{FILE[:-3]}.Ragged{net.cls.__name__}"),
        KEY: dict(ragged),
    }


def auto_classes(net: Net) -> list[str]:
    """Return the names of the auto classes that make this class of such a configuration."""
    auto = extras.transformers().models.auto.modeling_auto
    found = []
    for name, made in sorted(vars(auto).items()):
        mapping = getattr(made, "_model_mapping", None)
        if name.startswith("AutoModel") and mapping is not None and type(net.config) in mapping:
            classes = mapping[type(net.config)]
            if net.cls in (classes if isinstance(classes, tuple | list) else (classes,)):
                found.append(name)
    return found


def class_for(folder: Any, config: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return a class and a configuration that make the network that config.json of a folder with code describes.

    No code of the folder is run.

    Raises:
        CheckpointError: the description is damaged.
    """
    ragged = config[KEY]
    try:
        cls = class_named(ragged["class"])
        skipped = {str(p): {str(k): int(v) for k, v in how.items()} for p, how in ragged["skipped"].items()}
        norms = {str(p): {str(k): int(v) for k, v in how.items()} for p, how in ragged["norms"].items()}
        shapes = {str(n): [int(size) for size in shape] for n, shape in ragged["shapes"].items()}
        numbers = {str(n): int(value) for n, value in ragged["numbers"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder}/config.json is damaged: {KEY!r} cannot be read ({error!r})") from error
    plain = {k: v for k, v in config.items() if k not in (KEY, "auto_map")}
    plain |= {"model_type": cls.config_class.model_type, "architectures": [cls.__name__]}

    def init(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        cls.__init__(self, config, *args, **kwargs)
        try:
            for name in (*shapes, *(f"{p}." for p in (*skipped, *norms)), *numbers):
                self.get_submodule(name.rpartition(".")[0])
            odd = [
                n
                for n in numbers
                if type(getattr(self.get_submodule(n.rpartition(".")[0]), n.rpartition(".")[2])) is not int
            ]
            if odd:
                raise TypeError(f"{odd[0]!r} is no number")
            skip_branches(self, skipped)
            count_channels(self, norms)
            narrow(self, shapes, numbers)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            raise CheckpointError(
                f"{folder}/config.json is damaged: {KEY!r} belongs to another network ({error})"
            ) from error

    made = type(cls.__name__, (cls,), {"__init__": init, "__module__": cls.__module__})
    return made, cls.config_class.from_dict(plain)
