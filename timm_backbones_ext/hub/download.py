"""Backbones from the Hugging Face Hub: what arrives is what was sent, or an error says why not."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import errors, snapshot_download
from timm.models import is_model

from .._version import __version__
from ..fingerprint import Report
from ..registry import HINT, WEIGHTS, no_safetensors
from .folder import CONFIG, FILES, FINGERPRINT, check_folder
from .store import git_blob_id, sha256_of

__all__ = ["HubError", "explained", "pull", "verify"]


class HubError(RuntimeError):
    """A repo that cannot be read or written, or that does not hold what it should; nothing was loaded or changed."""


def pull(
    repo_id: str,
    revision: str | None = None,
    *,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    check: bool = True,
) -> Path:
    """Download a backbone and check it; what is in the cache already is not fetched again.

    Args:
        repo_id: "owner/name"; "owner/name@revision" as timm writes it is understood too.
        revision: Branch, tag or commit.
        token: Access token; that of `hf auth login` by default.
        cache_dir: Folder of the cache; huggingface_hub's by default.
        check: Create the model and compare what it computes with the repo's fingerprint, if there is one.

    Returns:
        A folder for `timm.create_model("local-dir:...")`.

    Raises:
        HubError: No such repo, revision or permission, no network, damaged files, no safetensors weights, a model
            that this version does not know, or one that computes something else than what was sent.
    """
    repo_id, _, marked = repo_id.removeprefix("hf-hub:").partition("@")
    place = f"{repo_id}@{revision or marked or 'main'}"
    options: dict[str, Any] = {"revision": revision or marked or None, "token": token, "cache_dir": cache_dir}
    with explained(place):
        folder = Path(snapshot_download(repo_id, allow_patterns=list(FILES), **options))
        if damaged := _damaged(folder):
            for path in damaged:
                path.resolve().unlink()
                path.unlink()
            folder = Path(snapshot_download(repo_id, allow_patterns=list(FILES), **options))
    if damaged := _damaged(folder):
        names = ", ".join(path.name for path in damaged)
        raise HubError(f"{place}: {names} arrived damaged twice (its hash is not the Hub's); nothing was loaded")
    _check_config(folder, place)
    if check and (folder / FINGERPRINT).is_file() and not (report := check_folder(folder)).same:
        raise HubError(f"{place} does not compute what was sent: {report}")
    return folder


def verify(source: str | Path, revision: str | None = None, *, token: str | bool | None = None) -> Report:
    """Create a saved backbone and compare what it computes with the fingerprint that was saved with it.

    Args:
        source: Hub id, a folder, or "local-dir:FOLDER".
        revision: Branch, tag or commit of a Hub id.
        token: Access token for a Hub id.

    Returns:
        The report: `report.same` says whether it is the same function from the same keys, shapes and dtypes.

    Raises:
        HubError: The repo cannot be pulled.
        FileNotFoundError: There is no fingerprint.
    """
    name = str(source)
    folder = Path(name.removeprefix("local-dir:"))
    if not name.startswith("local-dir:") and not folder.is_dir():
        folder = pull(name, revision, token=token, check=False)
    return check_folder(folder)


@contextmanager
def explained(place: str) -> Generator[None]:
    """Turn the Hub client's errors into ones that say what to do."""
    try:
        yield
    except errors.HFValidationError as error:
        raise HubError(f"{place!r} is no repo id; expected 'owner/name'. {error}") from error
    except errors.GatedRepoError as error:
        raise HubError(f"{place} is gated: ask for access on its page, then run `hf auth login`") from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(f"{place}: no such repo, or a private one. If it is yours, run `hf auth login`") from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{place}: the repo has no such branch, tag or commit") from error
    except (errors.LocalTokenNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise HubError(f"{place}: {error}. Run `hf auth login`, or go online") from error
    except errors.LocalEntryNotFoundError as error:
        raise HubError(f"{place}: the Hub cannot be reached and this revision is not in the cache") from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        hint = " Run `hf auth login` with a token that may write." if status in (401, 403) else ""
        raise HubError(f"{place}: the Hub answered {status}: {error.server_message or error}.{hint}") from error
    except Exception as error:
        origins = {type(item).__module__.partition(".")[0].rstrip("2") for item in (error, error.__cause__)}
        if not origins & {"httpx", "huggingface_hub"}:
            raise
        raise HubError(f"{place}: the Hub cannot be reached, or broke off: {error.__cause__ or error}") from error


def _damaged(folder: Path) -> list[Path]:
    """Files of a cached snapshot whose content is not what the Hub recorded; the cache names blobs by that record."""
    return [path for path in map(folder.joinpath, FILES) if path.is_symlink() and not _is_intact(path)]


def _is_intact(path: Path) -> bool:
    recorded = path.resolve().name
    if len(recorded) == 64:  # LFS and Xet files
        return sha256_of(path) == recorded
    if len(recorded) == 40:  # small files
        return git_blob_id(path.read_bytes()) == recorded
    return True


def _check_config(folder: Path, place: str) -> None:
    if not (folder / CONFIG).is_file():
        raise HubError(f"{place} has no {CONFIG}: it is no timm model")
    if not (folder / WEIGHTS).is_file():
        raise HubError(no_safetensors(place))
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    architecture = str(config.get("architecture")).removesuffix(f".{HINT}")
    if not is_model(architecture):
        writer = (config.get("timm_backbones_ext") or {}).get("version")
        made = f"was saved by timm-backbones-ext {writer}; this is {__version__}" if writer else "is not in timm either"
        raise HubError(
            f"{place}: unknown architecture {architecture!r}. It {made}. Upgrade timm-backbones-ext and timm"
        )
