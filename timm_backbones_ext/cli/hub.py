"""The commands of `timm-ext` that move models: save, push, pull, verify, lock, hub."""

import contextlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..console import print_json, table
from ..names import create
from .convert import load_weights, weights_option
from .options import FAILED, as_json, edits_option, pretrained_option, revision_option, token_option

if TYPE_CHECKING:
    from ..fingerprints import Report
    from ..hub.plan import Plan

__all__ = ["COMMANDS"]


@click.command("save")
@click.argument("name")
@click.argument("folder", type=click.Path(file_okay=False))
@click.option("--overwrite", is_flag=True, help="Replace a model that is there already.")
@click.option("--as", "kind", type=click.Choice(["timm"]), help="Plain timm, for people without this package.")
@weights_option
@edits_option
@pretrained_option
@as_json
def save_command(
    name: str, folder: str, overwrite: bool, kind: str | None, weights: str | None, as_json: bool, **made: Any
) -> None:
    """Save model NAME to FOLDER: weights, config, fingerprint and card."""
    from ..saving.folder import save

    if weights and made["pretrained"]:
        raise click.UsageError("--weights and --pretrained exclude each other")
    model = create(name, **made)
    if weights:
        load_weights(model, weights, quiet=as_json)
    saved = save(model, folder, overwrite=overwrite, as_timm=kind == "timm")
    return print_json({"folder": str(saved)}) if as_json else click.echo(saved)


def _folder(source: str) -> Path | None:
    """The folder that a source names; none if it is a Hub id or a model's name.

    Raises:
        FileNotFoundError: It can only be a folder, and is not there.
    """
    folder = Path(source.removeprefix("local-dir:"))
    if folder.is_dir():
        return folder
    if source.startswith(("local-dir:", ".", "/", "~")):
        raise FileNotFoundError(f"no folder {str(folder)!r}")
    return None


@click.command("push")
@click.argument("source")
@click.argument("repo")
@click.option("--dry-run", is_flag=True, help="Show what would change; send nothing.")
@click.option("--branch", "--revision", "revision", default=None, help="Branch to commit to; made if needed.")
@click.option("--pr", "--create-pr", "create_pr", is_flag=True, help="Open a pull request.")
@click.option("--tag", default=None, help="Tag of the commit.")
@click.option("--private", is_flag=True, help="Make a new repo private.")
@click.option("--gated", type=click.Choice(["auto", "manual"]), help="Let people ask for access.")
@click.option("--message", default=None, help="Commit message.")
@click.option("--as", "kind", type=click.Choice(["timm"]), help="Plain timm, for people without this package.")
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

    made = {"edits": options.pop("edits"), "pretrained": options.pop("pretrained")}
    folder = _folder(source)
    if folder and (any(made.values()) or kind):
        raise ValueError(f"{source} is a saved folder; --edits, --pretrained and --as are for the name of a model")
    model = folder or create(source, **made)
    if dry_run:
        asked = {key: options[key] for key in ("revision", "token", "force")}
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
    for line in plan.details:
        click.echo(line)
    return click.echo("nothing was sent", err=True)


lock_option = click.option("--lock", type=click.Path(dir_okay=False), help="Take only what this lock file names.")


@click.command("pull")
@click.argument("repo")
@lock_option
@revision_option
@token_option
@as_json
def pull_command(repo: str, as_json: bool, **options: Any) -> None:
    """Download REPO, check it, and print the folder."""
    from ..hub.download import pull

    folder = str(pull(repo, **options))
    return print_json({"repo": repo, "folder": folder}) if as_json else click.echo(folder)


@click.command("verify")
@click.argument("source")
@click.option("--trust", type=click.Path(dir_okay=False), help="Public key whose signature is wanted.")
@revision_option
@token_option
@as_json
@click.pass_context
def verify_command(ctx: click.Context, source: str, as_json: bool, **options: Any) -> None:
    """Check that SOURCE, a repo or a folder, computes what it did when it was saved."""
    from ..hub.download import verify

    report: Report = verify(_folder(source) or source, **options)
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
    """Which commit of which repo a project uses, as backbones.lock."""


file_option = click.option(
    "--file", "path", default="backbones.lock", show_default=True, type=click.Path(dir_okay=False)
)


@lock.command("add")
@click.argument("repo")
@revision_option
@token_option
@file_option
@as_json
def lock_add(repo: str, revision: str | None, token: str | None, path: str, as_json: bool) -> None:
    """Pull and check REPO, and lock the commit that it is at."""
    from ..hub.download import lock_repo
    from ..hub.lock import Lock

    locked = Lock.read(path, missing_ok=True)
    entry = lock_repo(repo, revision, token=token)
    locked.entries[entry.repo] = entry
    locked.write()
    return print_json(asdict(entry)) if as_json else click.echo(f"{entry.repo} {entry.revision} {entry.commit}")


@lock.command("check")
@token_option
@file_option
@as_json
def lock_check(token: str | None, path: str, as_json: bool) -> None:
    """Pull what is locked, and see that it is what was locked."""
    from ..hub.download import pull
    from ..hub.lock import Lock

    entries = list(Lock.read(path))
    for entry in entries:
        pull(entry.repo, lock=path, token=token)
    facts = [{"repo": entry.repo, "commit": entry.commit, "same": True} for entry in entries]
    return print_json(facts) if as_json else table(("repo", "commit"), [(v.repo, v.commit) for v in entries])


@lock.command("update")
@click.argument("repos", nargs=-1)
@token_option
@file_option
@as_json
def lock_update(repos: Sequence[str], token: str | None, path: str, as_json: bool) -> None:
    """Lock REPOS, or all, at the commit that their branch or tag is at now."""
    from ..hub.download import lock_repo
    from ..hub.lock import Lock

    locked, changes = Lock.read(path), []
    for old in [locked[repo] for repo in repos] or list(locked):
        new = locked.entries[old.repo] = lock_repo(old.repo, old.revision, token=token)
        changes.append({"repo": old.repo, "from": old.commit, "to": new.commit})
    locked.write()
    return print_json(changes) if as_json else table(("repo", "from", "to"), [tuple(v.values()) for v in changes])


@click.group()
def hub() -> None:
    """A Hub on this machine."""


@hub.command()
@click.argument("root", type=click.Path(file_okay=False))
@click.option("--port", default=5000, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--allow-remote", is_flag=True, help="Listen on an address that other machines reach; needs --token.")
@click.option("--token", "tokens", multiple=True, metavar="TOKEN=USER[:read]", help="Who may do what; may repeat.")
def serve(root: str, tokens: Sequence[str], **options: Any) -> None:
    """Serve the Hub that is kept in folder ROOT, until interrupted; prints its endpoint."""
    from ..hub.local import parse_token
    from ..hub.local import serve as serve_hub

    who = dict(map(parse_token, tokens))
    click.echo(f"Clients need HF_ENDPOINT{' and HF_TOKEN' * bool(who)}. Ctrl-C ends it.", err=True)
    with contextlib.suppress(KeyboardInterrupt):
        serve_hub(root, tokens=who, **options)


@hub.command("mirror")
@click.argument("repo")
@click.argument("root", type=click.Path(file_okay=False))
@revision_option
@token_option
@as_json
def mirror_command(repo: str, root: str, as_json: bool, **options: Any) -> None:
    """Copy a commit of REPO, under its own id, to the local Hub in folder ROOT, for use without a network."""
    from ..hub.mirror import mirror

    commit, count = mirror(repo, root, **options)
    facts = {"repo": repo, "commit": commit, "files": count, "root": root}
    return print_json(facts) if as_json else click.echo(f"{repo}@{commit}: {count} files in {root}")


@hub.command("fsck")
@click.argument("root", type=click.Path(exists=True, file_okay=False))
@as_json
@click.pass_context
def fsck_command(ctx: click.Context, root: str, as_json: bool) -> None:
    """Name every missing or damaged file of the local Hub in folder ROOT."""
    from ..hub.fsck import fsck

    problems = fsck(root)
    if as_json:
        print_json({"root": root, "problems": problems})
    else:
        click.echo("\n".join(problems) or "no damage")
    ctx.exit(FAILED if problems else 0)


COMMANDS: tuple[click.Command, ...] = (save_command, push, pull_command, verify_command, lock, hub)
