"""Backbones to the Hugging Face Hub: checked before anything is sent, one commit for all, read back afterwards."""

import shutil
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError
from torch.distributed import get_rank, is_initialized

from .. import names
from .._types import Model
from ..errors import HubError
from ..saving.folder import load, save, write_card
from ..saving.plain import is_sharded
from ..saving.signing import sign_folder
from ..transport import CLIENT, PATIENCE, TransportError, explained, persist
from ..weights.files import CARD, DETECTOR, FILES, SIGNATURE
from .download import pull
from .plan import Change, Plan, make_plan
from .preflight import preflight

__all__ = ["plan_push", "push_to_hub"]


def push_to_hub(
    model: Model | str | Path,
    repo_id: str,
    *,
    private: bool = False,
    gated: Literal["auto", "manual"] | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    tag: str | None = None,
    commit_message: str | None = None,
    token: str | bool | None = None,
    label_names: Sequence[str] | None = None,
    card: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    as_timm: bool = False,
    force: bool = False,
    delete_pickles: bool = False,
    sign: str | Path | None = None,
    verify: Literal["hashes", "full"] = "hashes",
) -> CommitInfo:
    """Save a backbone, check that the saved files make the same model, and commit them to a repo.

    The commit is whole or not there at all: until then the repo serves what it served. Afterwards the hash of every
    file is read back from the Hub.

    Args:
        model: A timm or `ext_*` model, or a folder that `save` wrote.
        repo_id: "owner/name"; made if it does not exist.
        private: Make a new repo private.
        gated: Let people ask for access: granted at once ("auto") or by you ("manual").
        revision: Branch to commit to; made if it does not exist.
        create_pr: Open a pull request instead of committing to the branch.
        tag: Tag of the commit; a tag that exists is refused before anything is sent.
        commit_message: First line of the commit.
        token: Access token; that of `hf auth login` by default.
        label_names: Names of the classes, one per output.
        card: Fields that replace those of the card's metadata: `license`, `datasets`, `tags`, ...
        metrics: Results on the first of the card's `datasets`: `{"accuracy": 0.97}`.
        as_timm: Push a model without edits as the timm model that it is, for people without this package.
        force: Replace a backbone of another architecture.
        delete_pickles: Delete old pickles from the repo in the same commit.
        sign: Private key (PEM, elliptic curve) to sign the files with; `verify --trust` checks the signature.
        verify: "full" also downloads what arrived and compares its fingerprint.

    Returns:
        huggingface_hub's record of the commit: `.oid` is its sha, `.commit_url` and `.pr_url` where to look.
        Files that the repo holds already make no new commit.

    Raises:
        HubError: The saved files do not make the same model, the repo holds another architecture or has moved on
            meanwhile, the Hub refuses the files, or holds others afterwards.
        ValueError: The model cannot be saved.
    """
    made = {"label_names": label_names, "card": card, "metrics": metrics, "as_timm": as_timm}
    with _prepared(model, repo_id, made) as folder, explained(repo_id):
        if sign is not None:
            sign_folder(folder, sign)
        plan = make_plan(folder, repo_id, revision, token, force=force, details=False)
        api = HfApi(token=token, **CLIENT)
        _require_free_tag(api, plan, tag)
        delete = plan.pickles if delete_pickles else ()
        commit = _commit(api, folder, plan, delete, private, revision, create_pr, commit_message)
        oid = commit.oid
        _read_back(api, plan, oid)
        if gated:
            api.update_repo_settings(repo_id, gated=gated)
        if tag:
            api.create_tag(repo_id, tag=tag, revision=oid)
        if verify == "full":
            with tempfile.TemporaryDirectory() as cache:
                pull(repo_id, oid, token=token, cache_dir=cache)
        return commit


def plan_push(
    model: Model | str | Path,
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    force: bool = False,
    **made: Any,
) -> Plan:
    """What `push_to_hub` with the same arguments would send and change; nothing is written to the Hub.

    Raises:
        HubError: The push would be refused.
    """
    with _prepared(model, repo_id, made) as folder, explained(repo_id):
        return make_plan(folder, repo_id, revision, token, force=force, details=True)


@contextmanager
def _prepared(model: Model | str | Path, repo_id: str, made: dict[str, Any]) -> Generator[Path]:
    """A folder of its own with the files to send, checked."""
    names.repo_id(repo_id)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if isinstance(model, (str, Path)):
            source = names.find_folder(model)
            for name in (*FILES, *DETECTOR, SIGNATURE):
                if (path := source / name).is_file():
                    shutil.copyfile(path, folder / name)
            preflight(folder)
            if not (folder / CARD).is_file():  # a pulled folder has none
                write_card(load(folder), folder)
        else:
            if is_sharded(model):
                raise ValueError("the model is sharded: call tbx.save on every rank, then push the folder from one")
            if is_initialized() and get_rank() > 0:
                raise ValueError("every rank holds the same model: push it from rank 0 alone")
            save(model, folder, **made)
            preflight(folder, None if made.get("as_timm") else model)
        yield folder


def _commit(
    api: HfApi,
    folder: Path,
    plan: Plan,
    delete: Sequence[str],
    private: bool,
    revision: str | None,
    create_pr: bool,
    message: str | None,
) -> CommitInfo:
    """Commit on top of what the plan has seen; an answer that was lost is recognised by what the Hub holds."""
    repo_id = persist(lambda: api.create_repo(plan.repo, private=private, exist_ok=True)).repo_id
    if revision is not None:
        persist(lambda: api.create_branch(repo_id, branch=revision, exist_ok=True))
    if plan.unchanged and not delete and not create_pr:
        url = f"{api.endpoint}/{repo_id}/commit/{plan.parent}"
        return CommitInfo(url, "nothing to commit", "", str(plan.parent))
    parent = plan.parent or persist(lambda: api.model_info(repo_id, revision=revision)).sha
    failures = 0
    while True:
        operations: list[Any] = [CommitOperationAdd(change.name, folder / change.name) for change in plan.changes]
        operations += [CommitOperationDelete(name) for name in delete]
        try:
            return api.create_commit(
                repo_id,
                operations,
                commit_message=message or "Add backbone",
                revision=revision,
                create_pr=create_pr,
                parent_commit=parent,
            )
        except (TransportError, RuntimeError) as error:
            if found := _arrived(api, plan, str(parent), create_pr):
                return found
            if isinstance(error, HfHubHTTPError) and error.response.status_code == 412:
                raise HubError(
                    f"{plan.repo}@{plan.revision} has got another commit since the push began; nothing was changed. "
                    "Look at it, and push again"
                ) from error
            failures += 1
            PATIENCE.wait(failures, error)


def _arrived(api: HfApi, plan: Plan, parent: str, create_pr: bool) -> CommitInfo | None:
    """The commit whose answer was lost, if there is one: a new head that holds what was sent."""
    try:
        if create_pr:
            asked = api.list_repo_refs(plan.repo, include_pull_requests=True).pull_requests or []
            revisions = [item.ref for item in sorted(asked, key=lambda item: int(item.ref.rpartition("/")[2]))][-1:]
        else:
            revisions = [plan.revision]
        for revision in revisions:
            info = api.model_info(plan.repo, revision=revision, files_metadata=True)
            if info.sha != parent and not _strangers(plan.changes, info):
                url = f"{api.endpoint}/{plan.repo}/commit/{info.sha}"
                pr_url = f"{api.endpoint}/{plan.repo}/discussions/{revision.rpartition('/')[2]}" if create_pr else None
                return CommitInfo(url, "", "", str(info.sha), pr_url=pr_url)
    except TransportError:
        return None
    return None


def _strangers(changes: Sequence[Change], info: Any) -> list[str]:
    """Files that the Hub does not hold with the content that was sent."""
    held = {item.rfilename: item for item in info.siblings or ()}
    return [
        change.name
        for change in changes
        if (item := held.get(change.name)) is None
        or (item.lfs.sha256 != change.sha256 if item.lfs else item.blob_id != change.git)
    ]


def _read_back(api: HfApi, plan: Plan, oid: str) -> None:
    info = persist(lambda: api.model_info(plan.repo, revision=oid, files_metadata=True))
    if wrong := _strangers(plan.changes, info):
        raise HubError(f"{plan.repo}@{oid} does not hold what was sent: {', '.join(wrong)}. Push again")


def _require_free_tag(api: HfApi, plan: Plan, tag: str | None) -> None:
    if tag is None or plan.parent is None:
        return
    if tag in [item.name for item in persist(lambda: api.list_repo_refs(plan.repo)).tags]:
        raise HubError(f"nothing was sent: {plan.repo} has a tag {tag!r} already; choose another one")
