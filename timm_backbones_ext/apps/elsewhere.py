"""A saved backbone pushed to a Hub, and used from there in a new process."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from torch import Tensor

__all__ = ["ElsewhereError", "push_and_use"]

USE = """\
# A new process, as a colleague's: the model comes through timm, and is verified after it was used.
import json
import sys

import timm
import torch
from safetensors.torch import load_file

repo, images = sys.argv[1], load_file(sys.argv[2])["images"]
model = timm.create_model(f"hf-hub:{repo}", pretrained=True).eval()
backbone = timm.create_model(f"hf-hub:{repo}", pretrained=True, features_only=True).eval()
with torch.inference_mode():
    classes = [best for part in images.split(50) for best in model(part).argmax(1).tolist()]
    maps = [list(level.shape[1:]) for level in backbone(images[:1])]

import timm_backbones_ext as tbx

report = tbx.verify(repo)
verdict = {"same": report.same, "largest": report.largest, "said": str(report)}
print(json.dumps({"classes": classes, "maps": maps, "verified": verdict}))
"""


class ElsewhereError(RuntimeError):
    """A command in another process failed."""


def push_and_use(folder: Path, repo: str, images: Tensor, scratch: Path, env: Mapping[str, str]) -> dict[str, Any]:
    """Push a saved folder in one process; use and verify the model in another, which knows only the Hub's address.

    Args:
        folder: A saved backbone with a classifier.
        repo: "owner/name".
        images: (N, C, H, W), normalised.
        scratch: Folder for the script and the images.
        env: Environment of both processes.

    Returns:
        The class of each image, the shapes of the feature maps, what `verify` said, and the commit.

    Raises:
        ElsewhereError: A command failed; the message ends with its last output.
    """
    from safetensors.torch import save_file

    cli = [sys.executable, "-m", "timm_backbones_ext.cli"]
    python = [sys.executable] if _is_discovered() else [*cli, "run"]
    (scratch / "use.py").write_text(USE)
    save_file({"images": images.contiguous()}, scratch / "images.safetensors")
    pushed = json.loads(_output_of([*cli, "push", str(folder), repo, "--json"], env))
    used = json.loads(_output_of([*python, str(scratch / "use.py"), repo, str(scratch / "images.safetensors")], env))
    return {**used, "repo": repo, "commit": pushed["commit"], "discovered": len(python) == 1}


def _is_discovered() -> bool:
    """Whether plain `python` finds our models without an import; in a bare checkout `timm-ext run` is needed."""
    switched_off = os.environ.get("TIMM_BACKBONES_EXT_AUTOLOAD", "1").strip().lower() in ("0", "false", "off", "no")
    return not switched_off and bool(entry_points(group="torch.backends", name="timm_backbones_ext"))


def _output_of(command: list[str], env: Mapping[str, str]) -> str:
    """Standard output of a command, without its last newline."""
    done = subprocess.run(
        command,
        env={**env, "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise ElsewhereError(f"{' '.join(command[1:4])} failed with {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()
