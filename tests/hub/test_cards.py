"""Cards of pushed repos: what they say, and what of them stays the user's."""

import re
from pathlib import Path

import pytest
import timm
from faulty import FaultyHub
from huggingface_hub import HfApi, ModelCard
from pushing import make

import timm_backbones_ext as tbx
from timm_backbones_ext._digest import git_blob_id, sha256_of
from timm_backbones_ext.catalog.description import describe
from timm_backbones_ext.local_hub import LocalHub
from timm_backbones_ext.local_hub.store import Draft, File

pytestmark = pytest.mark.usefixtures("local_hub")


def test_sections_and_metadata_of_the_user_survive_the_next_push(repo: str) -> None:
    tbx.push_to_hub(make(), repo)
    card = ModelCard.load(HfApi().hf_hub_download(repo, "README.md"))
    card.data.language = "en"
    card.text = "# My words\n\nBefore.\n" + card.text + "\n## Training\n\nOn four cards.\n"
    HfApi().upload_file(path_or_fileobj=str(card).encode(), path_in_repo="README.md", repo_id=repo)
    for _ in range(2):
        tbx.push_to_hub(make(num_classes=7), repo)
    again = ModelCard.load(HfApi().hf_hub_download(repo, "README.md"))
    assert again.data.language == "en"
    assert again.text.count("# My words\n\nBefore.") == again.text.count("## Training\n\nOn four cards.") == 1
    assert "7 classes" in again.text
    assert "3 classes" not in again.text


def test_a_card_of_another_hand_stays_below_ours(repo: str) -> None:
    HfApi().create_repo(repo)
    HfApi().upload_file(path_or_fileobj=b"---\nlanguage: en\n---\n# Mine\n", path_in_repo="README.md", repo_id=repo)
    tbx.push_to_hub(make(), repo)
    text = ModelCard.load(HfApi().hf_hub_download(repo, "README.md")).text
    assert text.index("## Usage") < text.index("# Mine")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_card_says_what_the_model_is_and_its_examples_run(
    repo: str, local_hub: FaultyHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    local_hub.faults()
    tbx.push_to_hub(make(edits="eca"), repo)
    asked = [path for _, path, *_ in local_hub.faults()]
    assert asked.index("/api/validate-yaml") < asked.index(f"/api/models/{repo}/commit/main")
    text = ModelCard.load(HfApi().hf_hub_download(repo, "README.md")).text
    (evidence,) = {edit.evidence for edit in tbx.parse_edits("eca")}
    facts = describe("ext_test_convnext", edits="eca", num_classes=3)
    for line in (
        f"| `eca` | eval+train | {evidence} |",
        *(f"| {level.index} | {level.channels} | {level.stride} |" for level in facts.levels),
        f"{facts.params / 1e6:.2f}M parameters, {facts.gmacs:.2f} GMACs at {'x'.join(map(str, facts.input_size))}",
        *(f"| {path.name} | `{sha256_of(path)}` |" for path in tbx.pull(repo).iterdir() if path.name != "README.md"),
        "pip install timm-backbones-ext",
        "Nothing has to be imported",
    ):
        assert line in text
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, names)
    assert names["scores"].shape == (1, 3)
    assert len(names["levels"]) == len(facts.levels)
    assert Path("model.onnx").is_file()


@pytest.mark.parametrize("old", ["---\nlanguage: [\n---\n# Mine\n", "---\n- a\n---\n# Mine\n"])
def test_a_card_whose_metadata_cannot_be_read_is_left_alone(repo: str, old: str, local_hub: LocalHub) -> None:
    HfApi().create_repo(repo)
    store = local_hub.store  # the Hub refuses such a card, and may hold it from elsewhere
    card = File("README.md", store.blobs.put(old.encode()), len(old), git_blob_id(old.encode()), lfs=False)
    store.commit(repo, "heads/main", Draft("theirs", "", "me", {card.path: card}))
    with pytest.raises(ValueError, match=r"metadata that cannot be read .* correct it there first"):
        tbx.push_to_hub(make(), repo)
    assert HfApi().list_repo_files(repo) == [".gitattributes", "README.md"]


def test_results_become_the_model_index(repo: str) -> None:
    tbx.push_to_hub(make(), repo, card={"datasets": ["digits"]}, metrics={"accuracy": 0.97})
    card = ModelCard.load(HfApi().hf_hub_download(repo, "README.md"))
    (result,) = card.data.eval_results
    assert card.data.pipeline_tag == "image-classification"
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("digits", "accuracy", 0.97)
    assert card.data.base_model_relation == "finetune"
    with pytest.raises(ValueError, match="metrics need the data set"):
        tbx.push_to_hub(make(), repo, metrics={"accuracy": 0.97})


def test_a_licence_that_the_base_forbids_is_refused(tmp_path: Path) -> None:
    model = timm.create_model("ext_convnextv2_tiny")
    assert model.pretrained_cfg["license"].startswith("cc-by-nc")
    with pytest.raises(ValueError, match=r"cc-by-nc-4.0, which does not allow 'mit'"):
        tbx.save(model, tmp_path / "a", card={"license": "mit"})
    tbx.save(model, tmp_path / "b", card={"license": "mit", "base_model": None})
    assert ModelCard.load(tmp_path / "b" / "README.md").data.license == "mit"
    tbx.save(model, tmp_path / "c")
    assert ModelCard.load(tmp_path / "c" / "README.md").data.license == "cc-by-nc-4.0"
