"""Backbones from the Hugging Face Hub: what arrives is what was sent, or an error says why not."""

from pathlib import Path
from typing import Any

from .. import names
from .._digest import sha256_of
from ..errors import HubError
from ..fingerprints import Fingerprint, Report
from ..saving.checks import check_config, check_weights
from ..saving.folder import check_folder, saved_fingerprint
from ..saving.signing import check_signature
from ..transport import Repo
from ..weights.files import CONFIG, FINGERPRINT, PULLED, SIGNATURE, WEIGHTS
from ..weights.source import no_safetensors
from .lock import Entry, Lock

__all__ = ["lock_repo", "pull", "verify"]


def pull(
    repo_id: str,
    revision: str | None = None,
    *,
    lock: str | Path | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    check: bool = True,
) -> Path:
    """Download a backbone and check it; what is in the cache already is not fetched again.

    The revision is turned into a commit once. The config is checked against this package before weights are fetched,
    every file against the hash that the Hub recorded, the header of the weights against the architecture before
    anything is loaded.

    Args:
        repo_id: "owner/name"; "owner/name@revision" as timm writes it is understood too.
        revision: Branch, tag or commit.
        lock: A lock file (`timm-ext lock add`): its commit is taken, and only the files that it names by their hash.
        token: Access token; that of `hf auth login` by default.
        cache_dir: Folder of the cache; huggingface_hub's by default.
        check: Create the model and compare what it computes with the repo's fingerprint, if there is one.

    Returns:
        A folder for `timm.create_model("local-dir:...")`.

    Raises:
        HubError: No such repo, revision or permission, no network, damaged files, no safetensors weights, a model
            that this version does not know, or one that computes something else than what was sent.
        ValueError: The repo id is none, or the lock does not name the repo, or names another revision.
    """
    repo_id = names.repo_id(repo_id)
    options: Any = {"token": token, "cache_dir": cache_dir}
    repo = locked(repo_id, revision, lock, **options) if lock else Repo(repo_id, revision, **options)
    if not repo.has(CONFIG):
        raise HubError(f"{repo.place} has no {CONFIG}: it is no timm model")
    check_config(repo.file(CONFIG), repo.place)
    if not repo.has(WEIGHTS):
        raise HubError(no_safetensors(repo.place))
    folder = repo.file(WEIGHTS).parent
    check_weights(folder, repo.place)
    if repo.has(FINGERPRINT):
        repo.file(FINGERPRINT)
        if check and not (report := check_folder(folder)).same:
            raise HubError(f"{repo.place} does not compute what was sent: {report}")
    return folder


def verify(
    source: str | Path,
    revision: str | None = None,
    *,
    token: str | bool | None = None,
    trust: str | Path | None = None,
) -> Report:
    """Create a saved backbone and compare what it computes with the fingerprint that was saved with it.

    Args:
        source: Hub id, a folder, or "local-dir:FOLDER".
        revision: Branch, tag or commit of a Hub id.
        token: Access token for a Hub id.
        trust: Public key (PEM); the holder of its private key must have signed the files.

    Returns:
        The report: `report.same` says whether it is the same function from the same keys, shapes and dtypes.

    Raises:
        HubError: The repo cannot be pulled, or is not signed by the key.
        FileNotFoundError: There is no such folder, or no fingerprint in it.
        ValueError: The source is a file or the name of a model.
    """
    folder = names.find_source(source)
    if isinstance(folder, str):
        name, folder = folder, pull(folder, revision, token=token, check=False)
        if trust is not None and (repo := Repo(name, folder.name, token=token)).has(SIGNATURE):
            repo.file(SIGNATURE)
    if trust is not None:
        check_signature(folder, trust)
    saved_fingerprint(folder)
    check_config(folder / CONFIG, str(folder))
    check_weights(folder, str(folder))
    return check_folder(folder)


def locked(
    repo_id: str,
    revision: str | None,
    lock: str | Path,
    **options: Any,
) -> Repo:
    """The repo at the commit and with the hashes that a lock file names."""
    name, _, marked = repo_id.removeprefix("hf-hub:").partition("@")
    entry = Lock.read(lock)[name]
    if (asked := revision or marked or None) not in (None, entry.revision, entry.commit):
        raise ValueError(f"{lock} locks {name} at {entry.revision} ({entry.commit}); asked for {asked}")
    return Repo(name, entry.commit, pinned=entry.sha256, **options)


def lock_repo(repo_id: str, revision: str | None = None, *, token: str | bool | None = None) -> Entry:
    """Pull and check a repo, and say what to lock of it.

    Raises:
        HubError: It cannot be pulled, or is no backbone.
    """
    repo = Repo(repo_id, revision, token=token)
    pull(repo.id, repo.commit, token=token)
    hashes = {name: sha256_of(repo.file(name)) for name in PULLED if repo.has(name)}
    digest = Fingerprint.load(repo.file(FINGERPRINT)).digest if FINGERPRINT in hashes else ""
    return Entry(repo.id, repo.revision, repo.commit, digest, hashes)
