"""Signatures of saved backbones, made and checked by the `model-signing` package with the user's own keys.

A signature covers the content of weights, config and fingerprint. It does not name a repo or a commit: the same files
have a valid signature in every repo, and so has an older version of them. A lock file binds the commit.

openssl ecparam -name prime256v1 -genkey -noout -out key.pem
openssl ec -in key.pem -pubout -out key.pub
"""

from pathlib import Path
from typing import Any

from ..errors import HubError
from ..weights.files import CARD, PULLED, SIGNATURE

__all__ = ["check_signature", "sign_folder"]


def sign_folder(folder: Path, key: str | Path) -> None:
    """Sign weights, config and fingerprint; the card is left out because people edit it on the Hub.

    Args:
        folder: The saved backbone; the signature is written into it.
        key: Private key, PEM, elliptic curve.

    Raises:
        FileNotFoundError: There is no such key.
        ValueError: The key cannot be read.
        ImportError: The extra `signing` is not installed.
    """
    hashing, signing, _ = _library()
    if not Path(key).is_file():
        raise FileNotFoundError(f"no private key {key}; docs/guides/sharing.md says how to make one")
    try:
        config = signing.Config().use_elliptic_key_signer(private_key=Path(key))
        config.set_hashing_config(_only_pulled(hashing, folder)).sign(folder, folder / SIGNATURE)
    except Exception as error:
        raise ValueError(
            f"cannot sign with {key}: expected the private key of an elliptic curve as PEM ({error})"
        ) from error


def check_signature(folder: Path, key: str | Path) -> None:
    """Check that the holder of a key has signed these files, in whatever repo or commit they are.

    Args:
        folder: A saved or pulled backbone with its signature.
        key: Public key, PEM, that you trust.

    Raises:
        FileNotFoundError: There is no such key.
        HubError: There is no signature, or it is of another key or of other files.
        ImportError: The extra `signing` is not installed.
    """
    hashing, _, verifying = _library()
    if not Path(key).is_file():
        raise FileNotFoundError(f"no public key {key}")
    if not (folder / SIGNATURE).is_file():
        raise HubError(f"{folder} is not signed: it has no {SIGNATURE}")
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=Path(key))
        config.set_hashing_config(_only_pulled(hashing, folder)).verify(folder, folder / SIGNATURE)
    except Exception as error:
        raise HubError(f"{folder}: the signature is not one of {key} for these files ({error})") from error


def _only_pulled(hashing: Any, folder: Path) -> Any:
    others = [path for path in folder.iterdir() if path.name not in PULLED]
    return (
        hashing.Config()
        .set_ignored_paths(paths=[*others, folder / CARD], ignore_git_paths=True)
        .set_allow_symlinks(True)
    )


def _library() -> tuple:
    try:
        from model_signing import hashing, signing, verifying
    except ImportError as error:
        raise ImportError(f'{error}. Signatures need: pip install "timm-backbones-ext[signing]"') from error
    return hashing, signing, verifying
