"""From words on the command line to networks, weights, tasks and methods."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import inspect
import keyword
import pkgutil
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from . import catalog, models, tasks
from .core.errors import CheckpointError, ResproutError, nearest
from .core.kinds import Method
from .core.store import read_safetensors
from .core.task import Task
from .deploy.encoding import FORMAT
from .deploy.file import load
from .deploy.huggingface import SIDE, load_pretrained
from .tasks import hub

HUB = "hf:"  # begins the name of a network of Hugging Face
T = TypeVar("T")


def task_makers() -> dict[str, Callable[..., Task]]:
    """Return name -> function, for every file of `tasks/` that holds a function of its own name."""
    found = {}
    for info in pkgutil.iter_modules(tasks.__path__):
        maker = getattr(importlib.import_module(f"{tasks.__name__}.{info.name}"), info.name, None)
        if inspect.isfunction(maker):
            found[info.name] = maker
    return found


def task(name: str, data: Path | None, model: str) -> Task:
    """Return the task `name`, its inputs normalised, or its text cut into tokens, as `model` (a name) was trained with.

    A name such as "my_task.py:make" or "package.module:make" is a function of your own.

    Raises:
        ResproutError: an unknown name, or data that is not there.
    """
    if ":" in name:
        return _own(name, "task", Task, () if data is None else (str(data),))
    known = task_makers()
    if name not in known:
        raise nearest(name, known, "task")
    given: dict[str, Any] = {} if data is None else {"data": str(data)}
    takes = inspect.signature(known[name]).parameters
    if "normalise" in takes:
        given["normalise"] = next((family for family in ("vgg", "vit") if model.startswith(family)), "resnet")
    if model.startswith(HUB):
        if "tokenizer" not in takes:
            able = [task for task, maker in known.items() if "tokenizer" in inspect.signature(maker).parameters]
            raise ResproutError(
                f"{model} reads tokens of its own tokenizer; of the tasks that is {', '.join(able)}, not {name}"
            )
        given["tokenizer"] = model.removeprefix(HUB)
    return known[name](**given)


def some_task(name: str | None, data: Path | None, model: str) -> Task | None:
    """Return the task `name`, or None without one.

    Raises:
        ResproutError: as `task`; or data of no task.
    """
    if name is None and data is not None:
        raise ResproutError("--data is the folder of a task's data: name the task with --task")
    return None if name is None else task(name, data, model)


def _own(name: str, what: str, kind: type[T], given: tuple[str, ...] = ()) -> T:
    """Call the function of the user's that `name` says.

    Raises:
        ResproutError: there is none, or it returns something else.
    """
    place, _, function = name.rpartition(":")
    try:
        if place.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(place).stem, place)
            if spec is None or spec.loader is None:
                raise ImportError(f"{place} is no Python file")
            module = importlib.util.module_from_spec(spec)
            sys.modules.setdefault(spec.name, module)  # dataclasses look for their module
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
        maker = getattr(module, function)
    except (ImportError, OSError, AttributeError, SyntaxError) as error:
        raise ResproutError(
            f"{what} {name!r}: {error}; write 'file.py:function' or 'package.module:function'"
        ) from error
    made = maker(*given)
    if not isinstance(made, kind):
        raise ResproutError(f"{what} {name!r} returned {type(made).__name__}, not {kind.__name__}")
    return made


def network(name: str, weights: Path | None, seed: int = 0) -> nn.Module:
    """Return the network `name`, with random weights of `seed` or those of a file.

    A name such as "my_net.py:build" or "package.module:build" is a function of your own; "hf:FOLDER" or "hf:NAME" is a model
    of Hugging Face with the weights it has there.

    Raises:
        ResproutError: an unknown name, or a file that does not fit.
    """
    torch.manual_seed(seed)
    if name.startswith(HUB):
        place = name.removeprefix(HUB)
        model = load_pretrained(place).float() if (Path(place) / SIDE).exists() else hub.network(place)
    else:
        model = _own(name, "model", nn.Module) if ":" in name else models.build(name)
    if weights is not None:
        read_weights(model, weights)
    return model


def read_weights(model: nn.Module, file: Path) -> None:
    """Load a safetensors `state_dict`, or a file made by `resprout.save`, into `model`.

    Raises:
        CheckpointError: a pickle, a damaged or foreign file, or names and shapes that differ; `model` is untouched.
    """
    if file.suffix in (".pt", ".pth", ".bin", ".ckpt", ".th", ".pkl"):
        raise CheckpointError(
            f"{file} is a pickle, which can run code when it is read; convert it once, where you trust it: "
            'python -c "import torch; from safetensors.torch import save_file; '
            f"save_file(torch.load('{file.name}', weights_only=True), '{file.stem}.safetensors')\""
        )
    meta, found = read_safetensors(file)
    if meta.get("format") == FORMAT:
        load(file, model)
        return
    model.load_state_dict(_fitting(model, found, file), strict=False)


def _fitting(model: nn.Module, found: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    own, what = model.state_dict(), f"{file} does not fit {type(model).__name__}"
    params = dict(model.named_parameters(remove_duplicate=False))
    filled = {id(params[n]) for n in found if n in params}  # of tied weights a file may hold one name only
    absent = [n for n in own if n not in found and not n.endswith("num_batches_tracked")]
    missing = [n for n in absent if n not in params or id(params[n]) not in filled]
    foreign = [n for n in found if n not in own]
    odd = [n for n in own if n in found and own[n].shape != found[n].shape]
    if missing or foreign:
        hint = "; strip the prefix 'module.' of its names" if any(n.startswith("module.") for n in foreign) else ""
        sides = [f"{word} {', '.join(names[:3])}{' …' if len(names) > 3 else ''} ({len(names)} in all)"
                 for word, names in (("it lacks", missing), ("it has foreign", foreign)) if names]  # fmt: skip
        raise CheckpointError(f"{what}: {'; '.join(sides)}{hint}")
    if odd:
        shapes = f"{tuple(found[odd[0]].shape)}, not {tuple(own[odd[0]].shape)}"
        raise CheckpointError(f"{what}: {odd[0]!r} is of shape {shapes} ({len(odd)} such tensors)")
    cast = {n: t.to(own[n].dtype) for n, t in found.items()}
    for name, tensor in cast.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(f"{file}: {name!r} holds NaN or infinity")
    return cast


def method(kind: str, text: str) -> Method:
    """Return the method that `text` says: a name, or a name with arguments such as "one_way(lr=0.05, score=taylor)".

    Raises:
        ResproutError: an unknown name or argument (with the nearest ones), or a text that cannot be read.
    """
    python = re.sub(  # "global" is a name here
        r"""'[^']*'|"[^"]*"|\b[a-z]+\b""", lambda m: m[0] + "_" * keyword.iskeyword(m[0]), text.strip()
    )
    try:
        return _method(kind, ast.parse(python, mode="eval").body)
    except ResproutError:
        raise
    except (SyntaxError, ValueError):
        name = re.match(r"\s*\w*", text)
        shape = f"{name[0].strip()}(field=value, ...)" if name and name[0].strip() else "a name, or name(field=value)"
        raise ResproutError(
            f"cannot read {kind} {text!r}; write {shape} with plain values or names of methods"
        ) from None


def several(kind: str, text: str) -> list[Any]:
    """Return the methods that `text` says, with commas between them: "robustness(steps=20), privacy".

    Raises:
        ResproutError: as `method`.
    """
    parts = [""]
    for character in text:
        if character == "," and parts[-1].count("(") == parts[-1].count(")"):
            parts.append("")
        else:
            parts[-1] += character
    return [method(kind, part) for part in parts if part.strip()]


def _method(kind: str, node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        return catalog.make(kind, node.id.rstrip("_"))
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
        raise ValueError("plain fields are needed")
    name = node.func.id.rstrip("_")
    cls = catalog.find(kind, name)
    fields, types, given = [f.name for f in dataclasses.fields(cls) if f.init], get_type_hints(cls), {}
    for argument in node.keywords:
        if argument.arg not in fields:
            raise nearest(str(argument.arg), fields, f"field of {kind} {name}")
        wanted = [t for t in (types[argument.arg], *get_args(types[argument.arg])) if inspect.isclass(t)]
        methods = [t for t in wanted if issubclass(t, Method)]
        parts = [t for t in wanted if dataclasses.is_dataclass(t) and not issubclass(t, Method)]
        words = str in wanted or get_origin(types[argument.arg]) is Literal
        if methods and isinstance(argument.value, ast.Name | ast.Call):
            kinds = [c.kind for c in catalog.cards() if issubclass(c.method, tuple(methods))]
            given[argument.arg] = _method(kinds[0], argument.value)
        elif parts and isinstance(argument.value, ast.Name | ast.Call):
            given[argument.arg] = _part(parts[0], argument.value)
        else:
            given[argument.arg] = _plain(argument.value, words)
    try:
        return cls(**given)
    except TypeError as error:
        raise ResproutError(f"{kind} {name!r}: {error}") from error


def _plain(node: ast.expr, words: bool = True) -> Any:
    """A number, a string, or (`words`) a word without quotation marks."""
    return node.id.rstrip("_") if words and isinstance(node, ast.Name) else ast.literal_eval(node)


def _part(cls: Callable[..., T], node: ast.Name | ast.Call) -> T:
    """What is no method of its own, such as an optimizer: "adamw", its first field, or "optimizer(kind=adamw, decay=0.1)".

    Raises:
        ResproutError: an unknown field.
    """
    if isinstance(node, ast.Name):
        return cls(_plain(node))
    if node.args:
        raise ValueError("fields by name are needed")
    fields = [f.name for f in dataclasses.fields(cls)]  # pyright: ignore[reportArgumentType]
    for argument in node.keywords:
        if argument.arg not in fields:
            raise nearest(str(argument.arg), fields, f"field of {cls.__name__.lower()}")
    return cls(**{str(a.arg): _plain(a.value) for a in node.keywords})


def methods(given: dict[str, Any]) -> dict[str, Any]:
    """Return flags with the names of scores, allocations and fills replaced by objects."""
    kinds = ("score", "allocate", "fill")
    return {k: method(k, v) if k in kinds and isinstance(v, str) else v for k, v in given.items()}
