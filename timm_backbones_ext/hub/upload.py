"""Backbones to the Hugging Face Hub: checked before anything is sent, one commit for all, read back afterwards."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError

from .._types import Model
from ..errors import HubError
from ..transport import CLIENT, PATIENCE, TransportError, explained, listing, persist
from ..transport.errors import readable
from ..transport.fetch import Content
from .download import pull
from .draft import drafted
from .plan import Plan, make_plan

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
    delta: bool = False,
    base: str | None = None,
    export: Sequence[str] = (),
    force: bool = False,
    delete_pickles: bool = False,
    sign: str | Path | None = None,
    verify: Literal["hashes", "full"] = "hashes",
) -> CommitInfo:
    """Save a backbone, check that the saved files make the same model, and commit them to a repo.

    All files arrive in one commit or none does; until then the repo serves its old files. Afterwards the hash of every
    file is read back from the Hub.

    Args:
        model: A timm or `ext_*` model, or a folder that `save` wrote. With a folder, `label_names`, `card` and
            `metrics` replace what was saved, and `as_timm` converts its model.
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
        delta: Push only the tensors that are not bit-identical to those of the base; see `save`.
        base: Hub id of the base; by default the repo that the weights came from, else that of the model's tag.
        export: Files for other runtimes, made and checked by `export`, under the Hub's usual names: "onnx" for
            `onnx/model.onnx`, "openvino" for `openvino/openvino_model.xml`. A later push of other weights makes them
            anew or deletes them.
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
    _require_known(gated, verify)
    made: dict[str, Any] = {"label_names": label_names, "card": card, "metrics": metrics, "as_timm": as_timm}
    made |= {"delta": delta, "base": base, "token": token, "export": export}
    with drafted(model, repo_id, sign, **made) as folder, explained(repo_id):
        plan = make_plan(folder, repo_id, revision=revision, tag=tag, token=token, force=force)
        push = _Push(HfApi(token=token, **CLIENT), folder, plan, revision, create_pr, commit_message or "Add backbone")
        commit = push.commit(private, (*plan.stale, *(plan.pickles if delete_pickles else ())))
        push.read_back(commit.oid)
        if gated:
            persist(lambda: push.api.update_repo_settings(repo_id, gated=gated))
        if tag:
            persist(lambda: push.api.create_tag(repo_id, tag=tag, revision=commit.oid, exist_ok=True))
        if verify == "full":
            with tempfile.TemporaryDirectory() as cache:
                pull(repo_id, commit.oid, token=token, cache_dir=cache)
        return commit


def plan_push(
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
    delta: bool = False,
    base: str | None = None,
    export: Sequence[str] = (),
    force: bool = False,
    delete_pickles: bool = False,
    sign: str | Path | None = None,
    verify: Literal["hashes", "full"] = "hashes",
) -> Plan:
    """What `push_to_hub` with the same arguments would send and change; nothing is written to the Hub.

    All arguments are those of `push_to_hub`, and its checks are made before the Hub is written to.

    Raises:
        HubError: The push would be refused.
        ValueError: The model cannot be saved.
    """
    _require_known(gated, verify)
    made: dict[str, Any] = {"label_names": label_names, "card": card, "metrics": metrics, "as_timm": as_timm}
    made |= {"delta": delta, "base": base, "token": token, "export": export}
    with drafted(model, repo_id, sign, **made) as folder, explained(repo_id):
        return make_plan(folder, repo_id, revision=revision, tag=tag, token=token, force=force, details=True)


def _require_known(gated: str | None, verify: str) -> None:
    if gated not in (None, "auto", "manual"):
        raise ValueError(f"gated: expected 'auto' or 'manual'; got {gated!r}")
    if verify not in ("hashes", "full"):
        raise ValueError(f"verify: expected 'hashes' or 'full'; got {verify!r}")


@dataclass(frozen=True)
class _Push:
    """One commit on its way."""

    api: HfApi
    folder: Path
    plan: Plan
    revision: str | None
    create_pr: bool
    message: str

    def commit(self, private: bool, delete: Sequence[str]) -> CommitInfo:
        """Commit on top of what the plan has seen; if the answer is lost, look whether the Hub holds the commit.

        Raises:
            HubError: The repo has moved on since, or the Hub refuses the files.
        """
        api, plan = self.api, self.plan
        repo_id = persist(lambda: api.create_repo(plan.repo, private=private, exist_ok=True).repo_id)
        if self.revision is not None:
            persist(lambda: api.create_branch(repo_id, branch=str(self.revision), exist_ok=True))
        if plan.unchanged and not delete and not self.create_pr:
            url = f"{api.endpoint}/{repo_id}/commit/{plan.parent}"
            return CommitInfo(url, "nothing to commit", "", str(plan.parent))
        parent = plan.parent or self._listed(self.revision)[0]
        failures = 0
        while True:
            try:
                with readable():
                    return self._sent(parent, delete)
            except (TransportError, RuntimeError) as error:
                if found := self._arrived(parent):
                    return found
                if isinstance(error, HfHubHTTPError) and error.response.status_code == 412:
                    raise HubError(
                        f"{plan.repo}@{plan.revision} has got another commit since the push began; nothing was "
                        "changed. Look at it, and push again"
                    ) from error
                failures += 1
                PATIENCE.wait(failures, error)

    def _sent(self, parent: str, delete: Sequence[str]) -> CommitInfo:
        operations: list[Any] = [CommitOperationAdd(item.name, self.folder / item.name) for item in self.plan.changes]
        operations += [CommitOperationDelete(name) for name in delete]
        return self.api.create_commit(
            self.plan.repo,
            operations,
            commit_message=self.message,
            revision=self.revision,
            create_pr=self.create_pr,
            parent_commit=parent,
        )

    def _arrived(self, parent: str) -> CommitInfo | None:
        """The commit whose answer was lost, if there is one: a new head that holds what was sent."""
        api, plan, revision = self.api, self.plan, self.plan.revision
        try:
            with readable():
                if self.create_pr:
                    opened = api.list_repo_refs(plan.repo, include_pull_requests=True).pull_requests or []
                    if not opened:
                        return None
                    revision = max((item.ref for item in opened), key=lambda ref: int(ref.rpartition("/")[2]))
                sha, held = listing(api.model_info(plan.repo, revision=revision, files_metadata=True))
        except (TransportError, HubError):
            return None
        if sha == parent or self._lacking(held):
            return None
        number = revision.rpartition("/")[2]
        pr_url = f"{api.endpoint}/{plan.repo}/discussions/{number}" if self.create_pr else None
        return CommitInfo(f"{api.endpoint}/{plan.repo}/commit/{sha}", "", "", sha, pr_url=pr_url)

    def _listed(self, revision: str | None) -> tuple[str, dict[str, Content]]:
        repo = self.plan.repo
        return persist(lambda: listing(self.api.model_info(repo, revision=revision, files_metadata=True)))

    def _lacking(self, held: Mapping[str, Content]) -> list[str]:
        """Files that the Hub does not hold with the content that was sent."""
        sent = self.plan.changes
        return [item.name for item in sent if item.name not in held or not item.same_as(held[item.name])]

    def read_back(self, oid: str) -> None:
        """Compare the hash of every file with what the Hub holds now.

        Raises:
            HubError: The Hub holds something else.
        """
        sha, held = self._listed(oid)
        wrong = self._lacking(held) if sha == oid else [f"another commit, {sha}"]
        if wrong:
            raise HubError(f"{self.plan.repo}@{oid} does not hold what was sent: {', '.join(wrong)}. Push again")
