"""Signatures of saved backbones, made and checked by the `model-signing` package with keys of the user's own.

openssl ecparam -name prime256v1 -genkey -noout -out key.pem
openssl ec -in key.pem -pubout -out key.pub
"""

from pathlib import Path
from typing import Any

from ..errors import HubError
from ..weights.files import CARD, PULLED, SIGNATURE

__all__ = ["check_signature", "sign_folder"]


def sign_folder(folder: Path, key: str | Path) -> None:
    """Sign weights, config and fingerprint; the card is left out, since people edit it on the Hub.

    Args:
        folder: Where they are; the signature is written beside them.
        key: Private key, PEM, elliptic curve.

    Raises:
        ValueError: The key cannot be read.
        ImportError: The extra `signing` is not installed.
    """
    hashing, signing, _ = _library()
    if not Path(key).is_file():
        raise FileNotFoundError(f"no private key {key}; the docs of signing say how to make one")
    try:
        config = signing.Config().use_elliptic_key_signer(private_key=Path(key))
        config.set_hashing_config(_only_pulled(hashing, folder)).sign(folder, folder / SIGNATURE)
    except Exception as error:
        raise ValueError(
            f"cannot sign with {key}: expected a private key of an elliptic curve, PEM ({error})"
        ) from error


def check_signature(folder: Path, key: str | Path) -> None:
    """See that the holder of a key has signed these files.

    Args:
        folder: A saved or pulled backbone with its signature.
        key: Public key, PEM, that you trust.

    Raises:
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
