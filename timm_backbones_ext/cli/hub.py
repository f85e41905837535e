"""The commands of `timm-ext` that move models: save, push, pull, verify, lock, hub."""

import contextlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..console import print_json, table
from ..names import HUB, create, find_folder, find_source, saved_folder
from .convert import load_weights, weights_option
from .options import (
    announce,
    as_json,
    edits_option,
    overwrite_option,
    pretrained_option,
    repo_argument,
    revision_option,
    token_option,
)
from .verb import FAILED, Verb, verb

if TYPE_CHECKING:
    from ..fingerprints import Report
    from ..hub.plan import Plan

__all__ = ["COMMANDS"]


delta_option = click.option("--delta", is_flag=True, help="Only the tensors that differ from those of the base.")
base_option = click.option("--base", default=None, help="Base of --delta on the Hub; by default that of the model.")


@verb("save", examples=['timm-ext save ext_resnet50.a1_in1k backbone --edits "dcn(stages=[4])" --pretrained'])
@click.argument("source")
@click.argument("folder", type=click.Path(file_okay=False))
@overwrite_option
@click.option("--as", "kind", type=click.Choice(["timm"]), help="Plain timm, for people without this package.")
@delta_option
@base_option
@weights_option
@edits_option
@pretrained_option
@as_json
def save_command(
    source: str,
    folder: str,
    overwrite: bool,
    kind: str | None,
    delta: bool,
    base: str | None,
    weights: str | None,
    as_json: bool,
    **made: Any,
) -> None:
    """Save the model SOURCE to FOLDER: weights, config, fingerprint and card.

    SOURCE is the name of a model, a saved folder, or a repo on the Hub.
    """
    from ..saving.folder import save

    if weights and made["pretrained"]:
        raise click.UsageError("--weights and --pretrained exclude each other")
    announce(source)
    model = create(source, **made)
    if weights:
        load_weights(model, weights, quiet=as_json)
    saved = save(model, folder, overwrite=overwrite, as_timm=kind == "timm", delta=delta, base=base)
    return print_json({"folder": str(saved)}) if as_json else click.echo(saved)


@verb("push", examples=["timm-ext push backbone you/name --dry-run", "timm-ext push backbone you/name --private"])
@click.argument("source")
@repo_argument
@click.option("--dry-run", is_flag=True, help="Show what would change; send nothing.")
@click.option("--branch", "--revision", "revision", default=None, help="Branch to commit to; made if needed.")
@click.option("--pr", "--create-pr", "create_pr", is_flag=True, help="Open a pull request.")
@click.option("--tag", default=None, help="Tag of the commit.")
@click.option("--private", is_flag=True, help="Make a new repo private.")
@click.option("--gated", type=click.Choice(["auto", "manual"]), help="Let people ask for access.")
@click.option("--message", default=None, help="Commit message.")
@click.option("--as", "kind", type=click.Choice(["timm"]), help="Plain timm, for people without this package.")
@delta_option
@base_option
@click.option("--export", default="", help="Files for other runtimes to add: onnx,openvino.")
@click.option("--force", is_flag=True, help="Replace a backbone of another architecture.")
@click.option("--delete-pickles", is_flag=True, help="Delete old pickles in the same commit.")
@click.option("--sign", type=click.Path(dir_okay=False), help="Private key to sign with.")
@click.option(
    "--verify", type=click.Choice(["hashes", "full"]), default="hashes", show_default=True, help="Afterwards."
)
@edits_option
@pretrained_option
@token_option
@as_json
def push(source: str, repo: str, dry_run: bool, kind: str | None, as_json: bool, **options: Any) -> None:
    """Push SOURCE, a saved folder or the name of a model, to REPO on the Hub."""
    from ..hub.upload import plan_push, push_to_hub

    options["export"] = [kind for kind in options["export"].split(",") if kind]
    made = {"edits": options.pop("edits"), "pretrained": options.pop("pretrained")}
    folder = saved_folder(source)
    if folder is None and "/" in source and not source.startswith(HUB):
        folder = find_folder(source)  # a misspelt folder is not sent to the Hub
    if folder and (any(made.values()) or kind):
        raise ValueError(f"{source} is a saved folder; --edits, --pretrained and --as are for the name of a model")
    model = folder or create(source, **made)
    if dry_run:
        asked = {key: options[key] for key in ("revision", "token", "force", "delta", "base", "export")}
        return _show_plan(plan_push(model, repo, as_timm=kind == "timm", **asked), as_json)
    commit = push_to_hub(model, repo, commit_message=options.pop("message"), as_timm=kind == "timm", **options)
    facts = {"repo": repo, "commit": commit.oid, "url": commit.commit_url, "pull_request": commit.pr_url}
    return print_json(facts) if as_json else click.echo(f"{repo}@{commit.oid}\n{commit.pr_url or commit.commit_url}")


def _show_plan(plan: "Plan", as_json: bool) -> None:
    if as_json:
        return print_json(asdict(plan))
    click.echo(f"{plan.repo}@{plan.revision}, on top of {plan.parent or 'nothing: the repo is new'}")
    table(("file", "bytes", "sha256", "is"), [(v.name, f"{v.size:,}", v.sha256[:16], v.status) for v in plan.changes])
    if plan.pickles:
        click.echo(f"old pickles, which --delete-pickles deletes: {', '.join(plan.pickles)}")
    if plan.stale:
        click.echo(f"exported files of other weights, which are deleted: {', '.join(plan.stale)}")
    for line in plan.details:
        click.echo(line)
    return click.echo("nothing was sent", err=True)


lock_option = click.option("--lock", type=click.Path(dir_okay=False), help="Take only what this lock file names.")


@verb("pull", examples=["timm-ext pull you/name --revision v1", "timm-ext pull you/name --whole backbone"])
@click.option("--whole", type=click.Path(file_okay=False), help="Write the model, its base included, to this folder.")
@repo_argument
@lock_option
@revision_option
@token_option
@as_json
def pull_command(repo: str, as_json: bool, **options: Any) -> None:
    """Download REPO, check it, and print the folder."""
    from ..hub.download import pull

    folder = str(pull(repo, **options))
    return print_json({"repo": repo, "folder": folder}) if as_json else click.echo(folder)


@verb("verify", examples=["timm-ext verify you/name", "timm-ext verify backbone --json"])
@click.argument("source")
@click.option("--trust", type=click.Path(dir_okay=False), help="Public key that the files must be signed for.")
@revision_option
@token_option
@as_json
@click.pass_context
def verify_command(ctx: click.Context, source: str, as_json: bool, **options: Any) -> None:
    """Check that SOURCE, a folder or a repo, computes what it computed when it was saved."""
    from ..hub.download import verify

    place = find_source(source)
    if isinstance(place, Path) and options["revision"]:
        raise ValueError(f"{source} is a folder, which has no revisions; leave out --revision")
    announce(source)
    report: Report = verify(place, **options)
    if as_json:
        print_json({"same": report.same, "signed": bool(options["trust"]), **asdict(report)})
    else:
        table(("output", "relative difference"), [(name, f"{value:.1e}") for name, value in report.levels.items()])
        click.echo(report)
        if options["trust"]:
            click.echo(f"signed by the holder of {options['trust']}")
    ctx.exit(0 if report.same else FAILED)


@click.group()
def lock() -> None:
    """Keep in backbones.lock which commit of which repo a project uses."""


file_option = click.option(
    "--file",
    "path",
    default="backbones.lock",
    show_default=True,
    type=click.Path(dir_okay=False),
    help="The lock file.",
)


@lock.command("add", cls=Verb, examples=["timm-ext lock add you/name"])
@repo_argument
@revision_option
@token_option
@file_option
@as_json
def lock_add(repo: str, revision: str | None, token: str | None, path: str, as_json: bool) -> None:
    """Pull and check REPO, and lock its present commit."""
    from ..hub import locking

    entry = locking.lock_add(repo, revision, path=path, token=token)
    return print_json(asdict(entry)) if as_json else click.echo(f"{entry.repo} {entry.revision} {entry.commit}")


@lock.command("check", cls=Verb, examples=["timm-ext lock check --file backbones.lock"])
@token_option
@file_option
@as_json
def lock_check(token: str | None, path: str, as_json: bool) -> None:
    """Pull every locked repo, and compare it with the lock file."""
    from ..hub import locking

    entries = locking.lock_check(path, token=token)
    facts = [{"repo": entry.repo, "commit": entry.commit, "same": True} for entry in entries]
    return print_json(facts) if as_json else table(("repo", "commit"), [(v.repo, v.commit) for v in entries])


@lock.command("update", cls=Verb, examples=["timm-ext lock update you/name"])
@click.argument("repos", nargs=-1)
@token_option
@file_option
@as_json
def lock_update(repos: Sequence[str], token: str | None, path: str, as_json: bool) -> None:
    """Lock REPOS, or all locked repos, at the present commit of their branch or tag."""
    from ..hub import locking

    pairs = locking.lock_update(repos, path=path, token=token)
    changes = [{"repo": old.repo, "from": old.commit, "to": new.commit} for old, new in pairs]
    return print_json(changes) if as_json else table(("repo", "from", "to"), [tuple(v.values()) for v in changes])


@click.group()
def hub() -> None:
    """A Hub on this machine."""


@hub.command(cls=Verb, examples=["timm-ext hub serve hub-folder --port 5000"])
@click.argument("root", type=click.Path(file_okay=False))
@click.option("--port", default=5000, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--allow-remote", is_flag=True, help="Listen on an address that other machines reach; needs --tokens.")
@click.option("--public-url", default="", help="What clients call it, behind a reverse proxy or a tunnel.")
@click.option("--storage-port", type=click.IntRange(0, 65535), help="A second port for large files.")
@click.option(
    "--tokens", "tokens_file", type=click.Path(exists=True, dir_okay=False), help="Lines NAME ROLE TOKEN [TEAM ...]."
)
def serve(root: str, tokens_file: str | None, **options: Any) -> None:
    """Serve the Hub that is kept in folder ROOT, until interrupted; prints its endpoint."""
    from ..local_hub import serve as serve_hub

    click.echo(f"Clients need HF_ENDPOINT{' and HF_TOKEN' * bool(tokens_file)}. Ctrl-C ends it.", err=True)
    with contextlib.suppress(KeyboardInterrupt):
        serve_hub(root, tokens_file=tokens_file, **options)


@hub.command("mirror", cls=Verb, examples=["timm-ext hub mirror timm/resnet50.a1_in1k hub-folder"])
@repo_argument
@click.argument("root", type=click.Path(file_okay=False))
@revision_option
@token_option
@as_json
def mirror_command(repo: str, root: str, as_json: bool, **options: Any) -> None:
    """Copy a commit of REPO, under its own id, to the local Hub in folder ROOT, for use without a network.

    A repo that holds only the difference to a base brings its base along.
    """
    from ..local_hub.mirror import mirror

    done = mirror(repo, root, **options)
    if done.kept:
        click.echo(f"Warning: branch {done.kept} has commits that were made here, and stays where it is", err=True)
    facts = {"repo": repo, **asdict(done), "root": root}
    base = f", and its base {done.base}" if done.base else ""
    return print_json(facts) if as_json else click.echo(f"{repo}@{done.commit}: {done.files} files in {root}{base}")


@hub.command("fsck", cls=Verb, examples=["timm-ext hub fsck hub-folder --gc"])
@click.argument("root", type=click.Path(exists=True, file_okay=False))
@click.option("--gc", is_flag=True, help="Delete what no commit has needed for a day.")
@as_json
@click.pass_context
def fsck_command(ctx: click.Context, root: str, gc: bool, as_json: bool) -> None:
    """Name every missing or damaged file of the local Hub in folder ROOT."""
    from ..local_hub.fsck import collect, fsck

    problems = fsck(root)
    files, size = collect(root) if gc else (0, 0)
    if as_json:
        print_json({"root": root, "problems": problems, **({"freed": {"files": files, "bytes": size}} if gc else {})})
    else:
        click.echo("\n".join(problems) or "no damage")
        if gc:
            click.echo(f"freed {size:,} bytes in {files} files")
    ctx.exit(FAILED if problems else 0)


COMMANDS: tuple[click.Command, ...] = (save_command, push, pull_command, verify_command, lock, hub)
