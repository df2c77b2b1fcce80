"""A model in eval mode as a graph of PyTorch's own operations (ATen), from one input to one output.

What this file does not do: know what the operations mean (see `trace.py`).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind, TensorArgument
from torch.fx import Node
from torch.fx.node import map_arg

from ..core.errors import TraceError
from ..core.probe import describe
from ..graph.tape import aside

HANDS_ON = {"dropout", "feature_dropout"}  # their result may be the operand itself, which their schemas do not say
BATCH = 2  # of the example: with one image, the batch could be mistaken for another axis


@dataclass(frozen=True)
class Constant:
    """A tensor that does not depend on the input, and the names in the `state_dict` of what it was made of."""

    tensor: Tensor
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Graph:
    """What the output depends on."""

    nodes: tuple[Node, ...]  # in the order of the work, without placeholders
    input: Node
    output: Node
    constants: dict[Node, Constant]


def export(model: nn.Module, example: Tensor) -> Graph:
    """Return the graph for a batch of inputs like `example`; the model is left as it was.

    Raises:
        TraceError: a model that torch cannot export, that keeps a state, or with several inputs or outputs.
    """
    exported = _exported(model, example)
    specs = exported.graph_signature.output_specs
    changed = [s.target for s in specs if s.kind == OutputKind.BUFFER_MUTATION]
    outputs = [s.arg for s in specs if s.kind == OutputKind.USER_OUTPUT]
    if changed:
        raise TraceError(f"the model changes {changed[0]!r} in eval mode; a device program keeps no state")
    if len(outputs) != 1 or not isinstance(outputs[0], TensorArgument):
        raise TraceError(f"{type(model).__name__} must return one tensor in eval mode, got {len(outputs)} things")
    nodes = list(exported.graph.nodes)
    output = next(n for n in nodes if n.name == outputs[0].name)
    live = _ancestors(output)
    stored, canonical = {**exported.constants, **exported.state_dict}, _canonical(model)
    placeholders = list(zip(nodes, exported.graph_signature.input_specs, strict=False))
    inputs = [node for node, spec in placeholders if spec.kind == InputKind.USER_INPUT]
    constants = {
        node: Constant(stored[spec.target].detach(), tuple(canonical[n] for n in [spec.target] if n in canonical))
        for node, spec in placeholders
        if spec.target is not None and node in live
    }
    if inputs[0] not in live:
        raise TraceError("the output does not depend on the input")
    work = tuple(n for n in nodes if n in live and n.op != "placeholder")
    return Graph(work, inputs[0], output, constants)


def _exported(model: nn.Module, example: Tensor) -> ExportedProgram:
    """What torch exports, without operations in place that anybody could notice."""
    with aside(model), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch about itself
        try:
            exported = torch.export.export(model, (batch_for(model, example),), strict=False)
            in_place = [n for n in exported.graph.nodes if _changes(n)]
            return exported if all(map(_unseen, in_place)) else exported.run_decompositions({})
        except Exception as error:  # of any kind, for it runs the model's own code
            reason = str(error).strip().partition("\n")[0]
            raise TraceError(f"{type(model).__name__} cannot be traced with {describe(example)}: {reason}") from error


def _changes(node: Node) -> bool:
    """Whether an operation works in place."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _unseen(node: Node) -> bool:
    """Whether what an operation overwrites is a tensor of its own that nobody else reads.

    It then computes what its sibling that is not in place computes; torch would rewrite it too, but takes seconds.
    """
    before = node.args[0]
    schema = getattr(before.target, "_schema", None) if isinstance(before, Node) else None
    if not isinstance(before, Node) or schema is None or set(before.users) != {node}:
        return False
    if _changes(before):
        return _unseen(before)
    return kind(before) not in HANDS_ON and all(r.alias_info is None for r in schema.returns)


def batch_for(model: nn.Module, example: Tensor) -> Tensor:
    """Return the first input of `example`, `BATCH` times, on the model's device and of its type."""
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return example[:1].detach().to(like).expand(BATCH, *example.shape[1:]).clone()


def _canonical(model: nn.Module) -> dict[str, str]:
    """Every name of a parameter or buffer -> the first name of the same tensor."""
    first: dict[int, str] = {}
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: first.setdefault(id(tensor), name) for name, tensor in named}


def _ancestors(output: Node) -> set[Node]:
    """The nodes that the output depends on, itself included."""
    live, ahead = {output}, [output]
    while ahead:
        new = [n for n in ahead.pop().all_input_nodes if n not in live]
        live.update(new)
        ahead += new
    return live


def kind(node: Node) -> str:
    """Return the name of an operation without namespace and overload: "conv2d"."""
    schema = getattr(node.target, "_schema", None)
    return schema.name.partition("::")[2] if schema else getattr(node.target, "__name__", str(node.target))


def arguments(node: Node, known: dict[Node, Any]) -> list[Any]:
    """Return all arguments in the order of the schema, defaults filled in, with what is `known` in place of nodes."""
    schema = getattr(node.target, "_schema", None)
    given = list(node.args)
    for parameter in schema.arguments[len(given) :] if schema else ():
        given.append(node.kwargs.get(parameter.name, parameter.default_value))
    return [map_arg(argument, known.__getitem__) for argument in given]


def location(node: Node) -> str:
    """Return the module that a node stands in: "'features.3' (Softplus)"."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path, module = stack[-1] if stack else ("", "the model")
    name = module if isinstance(module, str) else module.__name__
    return f"{path!r} ({name.rpartition('.')[2]})" if path else name.rpartition(".")[2]
