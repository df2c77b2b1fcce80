"""Where a network keeps its blocks: the list of equal modules that most of its parameters are in."""

from __future__ import annotations

from torch import nn

from .errors import ResproutError


def find_blocks(model: nn.Module, name: str | None = None) -> str:
    """Return the path of the list of blocks: of all `ModuleList`s whose modules are of one class, that with most parameters.

    Args:
        model: the network.
        name: the path, where it is known.

    Raises:
        ResproutError: there is none, or `name` is not one.
    """
    lists = {n: m for n, m in model.named_modules() if isinstance(m, nn.ModuleList | nn.Sequential) and len(m) > 0}
    if name is not None:
        if name not in lists:
            raise ResproutError(f"blocks={name!r} is no list of modules; there are: {', '.join(lists) or 'none'}")
        return name
    alike = {n: m for n, m in lists.items() if len(m) > 1 and len({type(block) for block in m}) == 1}
    sizes = {n: sum(p.numel() for p in m.parameters()) for n, m in alike.items()}
    if not sizes or max(sizes.values()) == 0:
        raise ResproutError(
            f"{type(model).__name__} has no list of equal blocks; name it with blocks='path.of.the.list', or use rs.prune"
        )
    return max(sizes, key=lambda n: sizes[n])
