"""What sizes a configuration can say: found by making each of its fields smaller and looking at what changes.

A field is worth what it does: with one unit less of it, these dimensions of these tensors fall by so much. Narrower layers are
expressible where every dimension asks for the same number of units.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from ...graph.norms import counts
from ...graph.shape import Shape
from .net import Net, Sizes, build, sizes

INNER = ("intermediate_size", "ffn_dim", "n_inner", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim")
HEADS, SHARED, WIDTH = "num_attention_heads", "num_key_value_heads", "hidden_size"
EPS = ("rms_norm_eps", "layer_norm_epsilon", "norm_eps", "layernorm_epsilon")
At = tuple[str, int]  # a tensor and a dimension of it


@dataclass(frozen=True)
class Field:
    """A size that a configuration can say.

    Attributes:
        name: of the field, the first if several change together.
        values: each field that changes, or has to be said -> its value in the dense network.
        steps: each field that changes -> by how much it falls with each unit.
        falls: what depends on it -> by how much that falls with each unit.
    """

    name: str
    values: dict[str, int]
    steps: dict[str, int]
    falls: dict[At, int]

    @property
    def units(self) -> int:
        """How many there are in the dense network."""
        return min(self.values[n] // step for n, step in self.steps.items())

    def less(self, config: Any, units: int) -> Any:
        """Return a configuration with so many units less."""
        made = copy.deepcopy(config)
        for name, value in self.values.items():
            setattr(made, name, value - units * self.steps.get(name, 0))
        return made


def fields(cls: Any, config: Any) -> list[Field]:
    """Return the sizes that this configuration can say, of MLPs, heads and the width."""
    base, found = sizes(cls, config), []
    for values, steps in _candidates(config):
        one = Field(next(iter(steps)), values, steps, {})
        try:
            now = sizes(cls, one.less(config, 1))
            same = sizes(cls, one.less(config, 0)) == base
        except Exception:  # of any kind, for it runs the model's own code: no such size
            continue
        falls = {
            (n, d): a - b
            for n, shape in base.items()
            if len(now.get(n, ())) == len(shape)
            for d, (a, b) in enumerate(zip(shape, now[n], strict=True))
            if a != b
        }
        if same and falls and now.keys() == base.keys() and min(falls.values()) > 0:
            found.append(replace(one, falls=falls))
    return found


def _candidates(config: Any) -> list[tuple[dict[str, int], dict[str, int]]]:
    """Return the fields that may be sizes, with the values that have to be said along, and their steps."""

    def number(name: str) -> int | None:
        value = getattr(config, name, None)
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 1 else None

    width, heads, shared = number(WIDTH), number(HEADS), number(SHARED)
    inner = {n: number(n) for n in INNER if hasattr(config, n)}
    if width is not None:
        inner = {n: value or 4 * width for n, value in inner.items()}  # GPT-2's None
    each = number("head_dim") or (width // heads if width and heads else None)
    pinned = {} if each is None or hasattr(config, "d_kv") else {"head_dim": each}
    others = {n: value for n, value in inner.items() if value is not None}
    found: list[tuple[dict[str, int], dict[str, int]]] = []
    if width is not None:  # first, for it says the others as they were
        found.append(({WIDTH: width} | pinned | others, {WIDTH: 1}))
    found += [({n: value}, {n: 1}) for n, value in others.items()]
    if heads is not None and shared is not None and heads % shared == 0:
        found.append(({SHARED: shared, HEADS: heads} | pinned, {SHARED: 1, HEADS: heads // shared}))
    elif heads is not None:
        found.append(({HEADS: heads} | pinned, {HEADS: 1}))
    return found


def as_plain(net: Net) -> tuple[Net | None, str]:
    """Return the network with a configuration that says its sizes, or None and why there is none."""
    if net.shape.skipped:
        return None, f"{_left(net.shape)} left without the rest of a block"
    base, own = sizes(net.cls, net.config), net.sizes()
    if base == own and not net.norms and not net.shape.attributes:
        return net, ""
    config, known = net.config, fields(net.cls, net.config)
    for one in known:
        less = {at: _units(base, own, at, fall) for at, fall in one.falls.items()}
        if len(set(less.values())) > 1 or None in less.values():
            return None, _uneven(one, base, own)
        if units := next(iter(less.values())):
            config = one.less(config, units)
    said = {at for one in known for at in one.falls}
    for name, shape in base.items():
        for d, size in enumerate(shape):
            if own[name][d] != size and (name, d) not in said:
                return None, f"{type(net.config).__name__} has no field for dimension {d} of {name!r}"
    net = replace(net, config=config)
    if net.norms:
        scaled = _plain_norms(net)
        if scaled is None:
            return None, f"{next(iter(net.norms))!r} counts channels that have left, which a plain norm cannot"
        net = scaled
    if why := refused(net.config) or _odd(net):
        return None, why
    return replace(net, shape=Shape(), norms={}), ""


def refused(config: Any) -> str:
    """Why a configuration cannot be read again; or nothing."""
    try:
        type(config).from_dict(config.to_dict())
    except Exception as error:  # each version of transformers has its own
        return f"{type(config).__name__} refuses: {str(error).strip().splitlines()[-1].strip()}"
    return ""


def _odd(net: Net) -> str:
    """Why the network that the configuration says is another one; or nothing."""
    try:
        made = build(net.cls, net.config)
    except Exception as error:  # of any kind, for it runs the model's own code
        return f"{net.cls.__name__} refuses these sizes: {error}"
    own = net.sizes()
    for name, tensor in made.state_dict().items():
        if own.get(name) != tuple(tensor.shape):
            return f"no configuration says {own.get(name)} for {name!r}"
    for name, value in net.shape.attributes.items():
        path, _, leaf = name.rpartition(".")
        if getattr(made.get_submodule(path), leaf) != value:
            return f"no configuration says {value} for {name!r}"
    return ""


def _units(base: Sizes, own: Sizes, at: At, fall: int) -> int | None:
    """How many units less a dimension has, or None where that is no whole number."""
    lost = base[at[0]][at[1]] - own[at[0]][at[1]]
    return None if lost % fall else lost // fall


def _uneven(one: Field, base: Sizes, own: Sizes) -> str:
    """Say which layers have how much of a size."""
    found: dict[int, str] = {}
    step = next(iter(one.steps.values()))
    for (name, d), fall in one.falls.items():
        lost = base[name][d] - own[name][d]
        if lost % fall:
            return f"{name!r} has lost {lost} of dimension {d}, not whole units of {fall} ({one.name})"
        found.setdefault(one.values[one.name] - step * (lost // fall), where(name))
    sizes_of = [f"{size} in {place}" for size, place in list(found.items())[:2]]
    return f"{one.name} differs: {', '.join(sizes_of)}" + (f" ({len(found)} sizes in all)" if len(found) > 2 else "")


def where(name: str) -> str:
    """Return the block that a tensor is in: "model.layers.0" of "model.layers.0.mlp.up_proj.weight"."""
    match = re.match(r".*?\.\d+(?=\.)", name)
    return match[0] if match else name.rpartition(".")[0]


def _left(shape: Shape) -> str:
    """Say which branches have left, by the modules at their ends."""
    ends = [p for p, kind in shape.skipped.items() if kind.startswith("end")]
    more = f" and {len(ends) - 3} more" if len(ends) > 3 else ""
    return f"{', '.join(ends[:3])}{more} {'has' if len(ends) == 1 else 'have'}"


def _plain_norms(net: Net) -> Net | None:
    """Return the network with plain norms instead of those that count, or None where these cannot be.

    x / sqrt(sum(x^2) / of + eps) w is, for n channels, x / sqrt(sum(x^2) / n + eps of / n) w sqrt(of / n). A layer norm takes a
    mean off, which no factor makes good.
    """
    modules: Mapping[str, nn.Module] = dict(build(net.cls, net.config).named_modules())
    width = {(n["of"], net.state[f"{path}.weight"].numel()) for path, n in net.norms.items()}
    names = [n for n in EPS if isinstance(getattr(net.config, n, None), float)]
    norms = {p for p, m in modules.items() if "Norm" in type(m).__name__}
    alike = len(width) == len(names) == 1 and norms == set(net.norms)  # others would get the new epsilon too
    if not alike or not all(counts(modules[p], "rms") for p in norms):
        return None
    (of, channels), config = width.pop(), copy.deepcopy(net.config)
    setattr(config, names[0], getattr(config, names[0]) * of / channels)
    factor = (of / channels) ** 0.5
    state: dict[str, Tensor] = net.state | {f"{p}.weight": net.state[f"{p}.weight"] * factor for p in net.norms}
    return replace(net, config=config, state=state)
