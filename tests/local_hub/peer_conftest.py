"""The fixtures that huggingface_hub's tests ask for; `peer_suite.py` puts this file beside them."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from huggingface_hub import HfApi, RepoUrl, constants

from .testing_constants import ENDPOINT_STAGING, TOKEN, USER
from .testing_utils import repo_name

RepoFactory = Callable[..., RepoUrl]


@pytest.fixture(scope="session")
def api() -> HfApi:
    """A client of the user whom most tests are about."""
    return HfApi(endpoint=ENDPOINT_STAGING, token=TOKEN)


@pytest.fixture
def repo_factory(api: HfApi) -> Iterator[RepoFactory]:
    """Makes repos that are deleted at the end."""
    made: list[dict[str, Any]] = []

    def make(repo_type: str = "model", repo_id: str | None = None, **options: Any) -> RepoUrl:
        url = api.create_repo(repo_id or repo_name(), repo_type=repo_type, **options)
        made.append({"repo_id": url.repo_id, "repo_type": repo_type, "token": options.get("token")})
        return url

    yield make
    for repo in made:
        api.delete_repo(**repo, missing_ok=True)


@pytest.fixture
def new_repo_id(api: HfApi) -> Iterator[str]:
    """The id of a repo that a test makes."""
    repo_id = f"{USER}/{repo_name()}"
    yield repo_id
    api.delete_repo(repo_id, missing_ok=True)


@pytest.fixture(autouse=True)
def _xet(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Xet as a test asks for it."""
    if request.node.get_closest_marker("no_xet"):
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
