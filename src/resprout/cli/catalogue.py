"""`resprout list` and `resprout show`: what methods there are, from their own files."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Annotated

import typer
from rich.table import Table

from .. import catalog
from ..catalog import Card
from ..core.errors import nearest
from ..deploy.devices import devices
from .flags import console, plain_errors

EXAMPLES = {
    "score": "resprout prune --model digits_cnn --sparsity 0.9 --score {} --task digits",
    "allocate": "resprout prune --model digits_cnn --sparsity 0.9 --allocate {}",
    "fill": "resprout regrow --model digits_cnn --weights sparse.safetensors --anchor dense.safetensors "
    "--sparsity 0.8 --fill {} --task digits",
    "recipe": "resprout fit --recipe {}",
    "federated": "resprout fit --recipe {} --budget 0.95 --no-curve",
    "reinforcement": "resprout fit --model cartpole_mlp --task cartpole --recipe {} --budget 0.9 --no-curve --dense-epochs 0",
}


def chosen(kind: str | None) -> list[Card]:
    """Return the cards of one kind, or all.

    Raises:
        ResproutError: an unknown kind.
    """
    kinds = sorted({card.kind for card in catalog.cards()})
    if kind is not None and kind not in kinds:
        raise nearest(kind, kinds, "kind")
    return [card for card in catalog.cards() if kind in (None, card.kind)]


def facts(card: Card) -> dict[str, str | None]:
    """Return what the list says of a method."""
    return {n: getattr(card, n) for n in ("name", "kind", "key", "fidelity", "citation")}


def fields(card: Card) -> list[tuple[str, str, str]]:
    """Return (name, type, default) of each hyperparameter; "required" where there is no default."""
    found = []
    for f in dataclasses.fields(card.method) if dataclasses.is_dataclass(card.method) else ():
        if f.init:
            factory = None if f.default_factory is dataclasses.MISSING else f.default_factory()
            default = factory if f.default is dataclasses.MISSING else f.default
            required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
            kind = f.type.__name__ if isinstance(f.type, type) else re.sub(r"\b[a-z_.]+\.(?=[A-Z])", "", str(f.type))
            found.append((f.name, kind, "required" if required else repr(default)))
    return found


def markdown() -> str:
    """Return the page of all methods, for `docs/methods.md`."""
    lines = [
        "# Methods",
        "",
        "Made by `make docs` (`resprout list --markdown`) from the files in `src/resprout/methods/`; do not edit.",
        "Fidelity: *paper-checked* – against numbers or formulas of the paper; *identity-checked* – against identities",
        "that it must fulfil; *smoke-tested* – it runs. `resprout show NAME` gives one card.",
    ]
    kind = None
    for card in catalog.cards():
        if card.kind != kind:
            kind = card.kind
            lines += ["", f"## {kind}", "", "| name | what | fidelity | key | source |", "|---|---|---|---|---|"]
        cells = (f"`{card.name}`", card.summary, card.fidelity, f"`{card.key}`" if card.key else "", card.citation)
        lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    return "\n".join(lines) + "\n"


def profiles() -> Table:
    """Return the table of device profiles."""
    table = Table(box=None, pad_edge=False)
    for column in ("device", "core", "MHz", "flash", "RAM", "source"):
        table.add_column(column, no_wrap=column != "source", style="bold" if column == "device" else None)
    for d in devices().values():
        sizes = ("no limit" if size is None else f"{size // 1024:,} KiB" for size in (d.flash, d.ram))
        table.add_row(d.name, d.core, f"{d.clock / 1e6:g}" if d.clock else "", *sizes, d.source)
    return table


@plain_errors
def listing(
    what: Annotated[str | None, typer.Argument(help='"devices" for the device profiles; default the methods.')] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON: name, kind, key, fidelity, citation.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="As the page docs/methods.md.")] = False,
    kind: Annotated[str | None, typer.Option(help="Only this kind: score, allocate, fill, ...")] = None,
) -> None:
    """List every method, by kind, or the devices."""
    if what not in (None, "methods", "devices"):
        raise nearest(what, ("devices", "methods"), "list")
    if what == "devices":
        console().print(profiles())
        return
    cards = chosen(kind)
    if as_json:
        typer.echo(json.dumps([facts(card) for card in cards], indent=1, ensure_ascii=False))
    elif as_markdown:
        typer.echo(markdown(), nl=False)
    else:
        table = Table(box=None, pad_edge=False)
        for column in ("kind", "name", "fidelity", "what"):
            table.add_column(column, no_wrap=column != "what", style="bold" if column == "name" else None)
        for card in cards:
            table.add_row(card.kind, card.name, card.fidelity, card.summary)
        console().print(table)


@plain_errors
def show(
    name: Annotated[str, typer.Argument(help="As in `resprout list`; kind/name where two kinds share a name.")],
) -> None:
    """Show one method: what it does, where it is from, how far it was checked, and its fields."""
    kind, _, stem = name.rpartition("/")
    cards = [card for card in chosen(kind or None) if card.name == stem]
    if not cards:
        raise nearest(stem, {card.name for card in chosen(kind or None)}, kind or "method")
    for card in cards:
        _card(card)


def _card(card: Card) -> None:
    out = console()
    out.print(f"[bold]{card.name}[/]  {card.kind}, {card.fidelity}" + (f", key {card.key}" if card.key else ""))
    for text in (card.summary, card.citation):
        out.print(text, markup=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("field", "default", "type"):
        table.add_column(column)
    rows = fields(card)
    for field, type_, default in rows:
        table.add_row(field, default, type_)
    if rows:
        out.print()
        out.print(table)
    out.print()
    out.print(f"file: {card.module.__file__}", markup=False)
    if card.kind in EXAMPLES:
        out.print("try:  " + EXAMPLES[card.kind].format(card.name), markup=False)
