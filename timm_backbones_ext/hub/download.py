"""Backbones from the Hugging Face Hub: the model that arrives is the one that was sent, or an error says why not."""

from pathlib import Path
from typing import Any

from .. import names
from .._digest import sha256_of
from ..errors import HubError, WeightsError
from ..fingerprints import Fingerprint, Report
from ..saving.checks import check_config, check_weights
from ..saving.folder import check_folder, saved_fingerprint, write_whole
from ..saving.signing import check_signature
from ..transport import Repo
from ..weights.config import LARGEST_CONFIG
from ..weights.files import CARD, CONFIG, FINGERPRINT, MANIFEST, PULLED, SIGNATURE, WEIGHTS
from ..weights.source import base_file, folder_delta, no_safetensors
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
    whole: str | Path | None = None,
) -> Path:
    """Download a backbone and check it; files that are in the cache are not fetched again.

    The revision is turned into a commit once. The config is checked against this package before weights are fetched,
    every file against the hash that the Hub recorded, and the header of the weights against the architecture before
    anything is loaded.

    Args:
        repo_id: "owner/name"; "owner/name@revision" as timm writes it is understood too.
        revision: Branch, tag or commit.
        lock: A lock file (`lock_add`): its commit is taken, and only files with the hashes that it names.
        token: Access token; that of `hf auth login` by default.
        cache_dir: Folder of the cache; huggingface_hub's by default.
        check: Create the model and compare what it computes with the repo's fingerprint, if there is one.
        whole: Write the model to this folder with all its tensors, those of its base included.

    Returns:
        A folder for `timm.create_model("local-dir:...")`: `whole` if it is given, else one in the cache.

    Raises:
        HubError: No such repo, revision or permission, no network, damaged files, no safetensors weights, a model
            that this version does not know, or one that computes something else than what was sent; of a difference,
            its base cannot be had, or does not give what was saved.
        ValueError: The repo id is none, or the lock does not name the repo, or names another revision.
        FileExistsError: The folder `whole` holds a model.
    """
    repo_id = names.repo_id(repo_id)
    options: Any = {"token": token, "cache_dir": cache_dir}
    repo = locked(repo_id, revision, lock, **options) if lock else Repo(repo_id, revision, **options)
    folder = _fetched(repo)
    if not (check and repo.has(FINGERPRINT)):
        check_weights(folder, repo.place, repo.cache)
    elif not (report := _report(folder, repo.place, repo.cache, pulled=True)).same:
        raise HubError(f"{repo.place} does not compute what was sent: {report}")
    if whole is None:
        return folder
    if repo.has(CARD):
        repo.file(CARD)
    return write_whole(folder, Path(whole), repo.cache)


def verify(
    source: str | Path,
    revision: str | None = None,
    *,
    token: str | bool | None = None,
    trust: str | Path | None = None,
) -> Report:
    """Check that a saved backbone is still what was saved: its files by their sha256, then what it computes.

    Args:
        source: Hub id, a folder, or "local-dir:FOLDER".
        revision: Branch, tag or commit of a Hub id.
        token: Access token for a Hub id.
        trust: Public key (PEM); the holder of its private key must have signed the files.

    Returns:
        The report: `report.same` says whether the files, keys, shapes, dtypes and the function are the same, and
        `report.notes` what was not compared.

    Raises:
        HubError: The repo cannot be pulled, or is not signed by the key.
        FileNotFoundError: There is no such folder, or no fingerprint in it.
        ValueError: The source is a file or the name of a model.
    """
    folder = names.find_source(source)
    pulled = isinstance(folder, str)
    if isinstance(folder, str):
        repo = Repo(folder, revision, token=token)
        folder = _fetched(repo)
        for extra in (MANIFEST, *([SIGNATURE] if trust is not None else [])):
            if repo.has(extra):
                repo.file(extra)
    else:
        saved_fingerprint(folder)
        check_config(folder / CONFIG, str(folder))
    if trust is not None:
        check_signature(folder, trust)
    return _report(folder, str(source), pulled=pulled)


def _fetched(repo: Repo) -> Path:
    """The folder of a repo's commit, with its config checked before the weights are fetched."""
    if not repo.has(CONFIG):
        raise HubError(f"{repo.place} has no {CONFIG}, so it is not a timm model")
    if (size := repo.size(CONFIG)) > LARGEST_CONFIG:
        raise HubError(f"{repo.place}: {CONFIG} has {size:,} bytes; expected at most {LARGEST_CONFIG:,}")
    check_config(repo.file(CONFIG), repo.place)
    if not repo.has(WEIGHTS):
        raise HubError(no_safetensors(repo.place))
    folder = repo.file(WEIGHTS).parent
    if delta := folder_delta(folder, repo.place):
        base_file(delta.base, repo.place, cache_dir=repo.cache, token=repo.token)
    if repo.has(FINGERPRINT):
        repo.file(FINGERPRINT)
    return folder


def _report(folder: Path, place: str, cache_dir: Path | None = None, *, pulled: bool = False) -> Report:
    """The report of a folder; weights that do not fit the model are an error of the place."""
    try:
        return check_folder(folder, cache_dir, pulled=pulled)
    except (HubError, FileNotFoundError):
        raise
    except WeightsError as error:
        raise HubError(f"{place}: {error}") from error
    except Exception as error:  # raised by timm's own loader
        raise HubError(
            f"{place}: {WEIGHTS} does not fit any model that this version can build "
            f"({type(error).__name__}: {error}); nothing was loaded"
        ) from error


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
    """Pull and check a repo; the entry of a lock file for the commit that came.

    Raises:
        HubError: It cannot be pulled, or is not a backbone.
    """
    repo = Repo(repo_id, revision, token=token)
    pull(repo.id, repo.commit, token=token)
    hashes = {name: sha256_of(repo.file(name)) for name in PULLED if repo.has(name)}
    digest = Fingerprint.load(repo.file(FINGERPRINT)).digest if FINGERPRINT in hashes else ""
    return Entry(repo.id, repo.revision, repo.commit, digest, hashes)
