"""Runs huggingface_hub's own tests of model repos, from the sdist of the installed version, against a local Hub.

    python tests/local_hub/peer_suite.py [PYTEST OPTION ...]

Tests of the production Hub (the mark `production`) and those of `EXCLUDED` are left out; all others have to pass. The
sdist has no conftest.py, so that `peer_conftest.py` beside this file gives the fixtures.
"""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from timm_backbones_ext.local_hub import LocalHub, User

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "huggingface_hub"
FILES = (
    *("test_cli_discussions", "test_commit_api", "test_commit_scheduler", "test_copy_files", "test_file_download"),
    *("test_hf_api", "test_hf_file_system", "test_hub_mixin", "test_hub_mixin_pytorch", "test_lfs", "test_repocard"),
    *("test_snapshot_download", "test_upload_pipeline", "test_verification", "test_xet_download", "test_xet_upload"),
)
TOKENS = {
    "hf_HubCITokenXXXXXXXXXXXXXXXXXXXXX": User("peer", "write", ("valid_org_hub",)),
    "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": User("DVUser"),
}
DATASETS = "a local Hub holds models only"
SERVICE = "a service of huggingface.co beside repos"
GATES, MOVES = "a local Hub gates no repos", "a local Hub renames no repos"
REWRITES = "a local Hub never rewrites history"
TALK = "a local Hub keeps pull requests, and neither discussions nor comments"
LAST = "a local Hub does not say which commit changed a path last"
XET = "a local Hub takes uploads by Xet and serves none"
SDIST = "the sdist lacks the files that the test reads"
EXCLUDED: dict[str, str] = {
    "test_hf_file_system.py": DATASETS,
    "dataset|_space|TestDatasetCard|TestSpace": DATASETS,
    "test_copy_files.py::test_(cp|copy_files)": "buckets: " + SERVICE,
    "Bucket": "buckets: " + SERVICE,
    "Webhook": SERVICE,
    "TestCollectionAPI|TestActivityApi|InferenceCatalog|InferenceEndpoint": SERVICE,
    "gated|TestAccessRequest|test_update_repo_settings": GATES,
    "move_repo|renamed": MOVES,
    "[Ss]quash|TestListAndPermanentlyDelete": REWRITES,
    "test_create_tag_on_commit_oid|TestHfApiPrivate|auth_check_success|already_exists_but_no_write": DATASETS,
    "test_xet_file_skips_per_file_head_call|TestXetUpload::test_upload_file$|TestXetE2E": XET,
    "TestHfApiDiscussions": TALK,
    "test_cli_discussions.py::test_(list|info|diff|create_discussion|create_with|comment_(discussion|body))": TALK,
    "test_cli_discussions.py::test_(close|reopen|rename)": TALK,
    "test_create_commit_lfs_file_implicit_token": "files go by LFS by suffix or size, whatever .gitattributes says",
    "test_continue_commit_(without_existing_files|if_copy_is_identical)": LAST,
    "test_commit_modelcard_(invalid|empty)_metadata": "a local Hub keeps cards and does not read them",
    "test_list_commits_include_formatted": "a local Hub makes no HTML of commits",
    "private_by_default": "enterprise accounts are of huggingface.co",
    "test_whoami_with_passing_token": "it asks for the full name of an organisation of the staging Hub",
    "test_file_exists": "it names the staging Hub itself",
    "gitignore": "a local Hub leaves .gitignore to the client",
    "TestHfHubDownloadRelativePaths": "a local Hub takes no path with a backslash, as the test above it asks for",
    "repocard_from_file|change_repocard_data|custom_template|card_data_must_be|without_metadata": SDIST,
    "validate_repocard|linebreaks|updating_text|model_index|model_card_from|load_model_card": SDIST,
}
"""Patterns of test ids, and why a local Hub is not to pass them."""


def main(options: list[str]) -> int:
    """Collect, leave out, run; the exit status is pytest's."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = unpack(sdist(importlib.metadata.version("huggingface_hub")), Path(scratch))
        with LocalHub(tokens=TOKENS) as hub:
            env = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(hub.home), "PYTHONPATH": str(mocker())}
            env = {key: value for key, value in env.items() if key not in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")}
            found = pytest(folder, env, "--collect-only", *(f"tests/{name}.py" for name in FILES), capture=True)
            ids = [line for line in found.stdout.splitlines() if re.match(r"tests/\w+\.py::", line)]
            unused = [pattern for pattern in EXCLUDED if not any(re.search(pattern, item) for item in ids)]
            if not ids or unused:
                sys.exit(f"{len(ids)} tests; exclusions that no test has: {unused}\n{found.stdout[-3000:]}")
            kept = [item for item in ids if not any(re.search(pattern, item) for pattern in EXCLUDED)]
            (folder / "selected.txt").write_text("\n".join(kept))
            print(f"{len(kept)} of huggingface_hub's tests; {len(ids) - len(kept)} are out of scope", flush=True)
            return pytest(folder, env, *options, "@selected.txt").returncode


def sdist(version: str) -> Path:
    """The source distribution of a version, downloaded once."""
    file = CACHE / f"huggingface_hub-{version}.tar.gz"
    if not file.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        pip("download", "--no-deps", "--no-binary", ":all:", f"huggingface_hub=={version}", "--dest", str(CACHE))
    return file


def mocker() -> Path:
    """Where pytest-mock is, which the tests use and ours do not."""
    folder = CACHE / "site"
    if not folder.exists():
        pip("install", "--no-deps", "--target", str(folder), "pytest-mock")
    return folder


def pip(*args: str) -> None:
    """Run pip."""
    subprocess.run([sys.executable, "-m", "pip", args[0], "--quiet", *args[1:]], check=True)


def unpack(file: Path, scratch: Path) -> Path:
    """The tests with our fixtures, without the sources: the installed ones are to be used."""
    with tarfile.open(file) as archive:
        archive.extractall(scratch / "sdist", filter="data")
    (source,) = (scratch / "sdist").iterdir()
    folder = scratch / "suite"
    shutil.copytree(source / "tests", folder / "tests")
    shutil.copy(source / "pyproject.toml", folder)
    shutil.copy(HERE / "peer_conftest.py", folder / "tests" / "conftest.py")
    (folder / "tests" / "__init__.py").touch()
    with (folder / "tests" / "testing_constants.py").open("a") as constants:
        constants.write("import os\nENDPOINT_STAGING, USER = os.environ['HF_ENDPOINT'], 'peer'\nFULL_NAME = USER\n")
    return folder


def pytest(folder: Path, env: dict[str, str], *args: str, capture: bool = False) -> subprocess.CompletedProcess[str]:
    """Run pytest on huggingface_hub's tests."""
    plugins = ["-p", "no:cacheprovider", "-p", "no:randomly", "-W", "ignore"]
    quiet = ["-o", "addopts=", "-q", "--no-header", "-m", "not production"]
    command = [sys.executable, "-m", "pytest", *plugins, *quiet, *args]
    return subprocess.run(command, cwd=folder, env=env, text=True, stdout=subprocess.PIPE if capture else None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
