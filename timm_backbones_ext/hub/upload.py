"""Backbones to the Hugging Face Hub: checked before anything is sent, one commit for all files."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi
from huggingface_hub.utils import validate_repo_id

from .._types import Model
from .._version import __version__
from .card import REPO_PLACEHOLDER
from .download import HubError, explained
from .folder import CARD, FILES, check_folder, save

__all__ = ["push_to_hub"]


def push_to_hub(
    model: Model | str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    token: str | bool | None = None,
    label_names: Sequence[str] | None = None,
    card: Mapping[str, Any] | None = None,
) -> CommitInfo:
    """Save a backbone, check that the saved files make the same model, and commit them to a repo.

    Args:
        model: A timm or `ext_*` model, or a folder that `save` wrote.
        repo_id: "owner/name"; made if it does not exist.
        private: Make a new repo private.
        revision: Branch to commit to; made if it does not exist.
        create_pr: Open a pull request instead of committing to the branch.
        commit_message: First line of the commit.
        token: Access token; that of `hf auth login` by default.
        label_names: Names of the classes, one per output.
        card: Fields that replace those of the card's metadata: `license`, `datasets`, `tags`, ...

    Returns:
        huggingface_hub's record of the commit: `.oid` is its sha, `.commit_url` and `.pr_url` where to look.
        Files that the repo holds already make no new commit.

    Raises:
        HubError: The saved files do not make the same model, or the Hub refuses them.
        ValueError: The model cannot be saved.
    """
    with explained(repo_id):
        validate_repo_id(repo_id)
    with tempfile.TemporaryDirectory() as scratch:
        folder = (
            Path(model) if isinstance(model, (str, Path)) else save(model, scratch, label_names=label_names, card=card)
        )
        if not (report := check_folder(folder)).same:
            raise HubError(f"nothing was sent: the saved files do not make the same model: {report}")
        with explained(repo_id):
            return _commit(folder, repo_id, private, revision, create_pr, commit_message, token)


def _commit(
    folder: Path,
    repo_id: str,
    private: bool,
    revision: str | None,
    create_pr: bool,
    commit_message: str | None,
    token: str | bool | None,
) -> CommitInfo:
    api = HfApi(token=token, library_name="timm-backbones-ext", library_version=__version__)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    operations = [CommitOperationAdd(name, folder / name) for name in FILES if name != CARD]
    text = (folder / CARD).read_text(encoding="utf-8").replace(REPO_PLACEHOLDER, repo_id)
    operations.append(CommitOperationAdd(CARD, text.encode()))
    return api.create_commit(
        repo_id,
        operations,
        commit_message=commit_message or "Add backbone",
        revision=revision,
        create_pr=create_pr,
    )
