"""Pages of the reference that are made from the package itself: every command, every edit, every variant."""

import inspect
from collections.abc import Iterator

import click

import timm_backbones_ext as tbx
from timm_backbones_ext.catalog.costs import cost, named_base
from timm_backbones_ext.catalog.listing import listings
from timm_backbones_ext.catalog.page import Row, row_of
from timm_backbones_ext.cli.main import main
from timm_backbones_ext.edits import parse_edits
from timm_backbones_ext.registry import BUILT_IN

TITLES = {"resnet": "ResNet", "convnext": "ConvNeXt", "efficientnet": "EfficientNet", "vgg": "VGG"}
NOTE = "<!-- made by benchmarks/reference.py; `make figures` makes it anew -->"


def commands() -> str:
    """Every command with its options and examples."""
    head = [
        "# Command line",
        NOTE,
        "Every command has `--help` and `--debug`, which shows the traceback of an error. `NO_COLOR` switches colours "
        "off. `timm-ext completion bash`, `zsh` or `fish` prints a script that completes commands and options.",
        "| exit status | meaning |\n|---|---|\n| 0 | done |\n| 1 | a check failed: it differs, is damaged, or the Hub "
        "refuses |\n| 2 | wrong use: option, name or file |\n| 3 | a bug of timm-ext; `--debug` shows more |\n"
        "| 130 | interrupted |",
    ]
    return "\n\n".join([*head, *_commands(main, "timm-ext")])


def _commands(group: click.Group, name: str) -> Iterator[str]:
    for word, command in sorted(group.commands.items()):
        full = f"{name} {word}"
        if isinstance(command, click.Group):
            yield f"## {full}\n\n{_help(command)}"
            yield from _commands(command, full)
        elif not command.hidden:
            yield _command(command, full)


def _command(command: click.Command, name: str) -> str:
    context = click.Context(command, info_name=name)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    parts = [f"## {name}", _help(command), f"```text\n{usage}\n```"]
    rows = [record for param in command.get_params(context) if (record := param.get_help_record(context))]
    shown = [
        f"| `{_cell(option)}` | {_cell(text)} |"
        for option, text in rows
        if option not in ("--debug", "--help", "-h, --help")
    ]
    if shown:
        parts.append("\n".join(["| option | |", "|---|---|", *shown]))
    if examples := getattr(command, "examples", ()):
        parts.append("```bash\n" + "\n".join(examples) + "\n```")
    return "\n\n".join(parts)


def _help(command: click.Command) -> str:
    return inspect.cleandoc(command.help or "").replace("\b\n", "").replace("<", "&lt;")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def edits() -> str:
    """Every edit: what it does, arguments, where it is exact, what it costs, what was published."""
    head = [
        "# Every edit",
        NOTE,
        "Costs are those of the edit in its simplest form on a named base; [What edits cost](costs.md) has all bases, "
        "and [Edits and variants](../guides/edits.md) how edits are written and combined.",
    ]
    return "\n\n".join([*head, *(_edit(name) for name in tbx.list_edits())])


def _edit(name: str) -> str:
    kind = tbx.EDITS[name]
    (item,) = parse_edits(kind.example)
    found = cost(item, named_base(item))
    time = f", time {found.time_ratio:.2f}x" if found.time_ratio else ""
    arguments = str(inspect.signature(kind)).removesuffix(" -> None")
    rows = {
        "arguments": f"`{name}{arguments}`",
        "families": ", ".join(TITLES[family] for family in kind.families),
        "exact in": {"eval+train": "eval and train mode", "eval": "eval mode"}[kind.exact],
        "sides of images": f"multiples of {kind.multiple} px" if kind.multiple > 1 else "any",
        "cost": f"{found.params:+,} parameters, {found.gmacs:+.2f} GMACs{time}, on {found.base}",
        "merges": "yes, by `tbx.merge`" if found.merges else "no",
        "evidence": kind.evidence,
    }
    lines = [f"| {key} | {_cell(value)} |" for key, value in rows.items()]
    return "\n".join([f"## {name}", "", inspect.cleandoc(kind.__doc__ or ""), "", "| | |", "|---|---|", *lines])


def variants() -> str:
    """Every variant, a table per family."""
    rows = [row_of(found) for found in listings() if found.name in BUILT_IN]
    head = [
        "# Every variant",
        NOTE,
        "A variant is a base of timm with edits. Tags are those of the base, with the licence of their weights. Levels "
        "are channels at strides. Parameters and multiply-adds are worked out at the input size of the base.",
        "`timm-ext list --html FILE` writes these facts as one page with search and filters, which needs no network:",
        "![The page of models](../pictures/models-page.png)",
    ]
    tables = [_family(name, [row for row in rows if row.family == name]) for name in TITLES]
    return "\n\n".join([*head, *tables])


def _family(name: str, rows: list[Row]) -> str:
    lines = [
        f"| `{row.name}` | {row.base} | {', '.join(row.edits) or '-'} | {row.params / 1e6:.1f} M | {row.gmacs:.2f} | "
        f"{row.input_size[1]} | {', '.join(f'{level.channels} at {level.stride}' for level in row.levels)} | "
        f"{_cell(', '.join(f'{tag} ({licence})' for tag, licence in row.tags.items())) or '-'} |"
        for row in rows
    ]
    columns = ("variant", "base", "edits", "parameters", "GMACs", "side", "levels", "tags")
    return "\n".join([f"## {TITLES[name]}", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *lines])
