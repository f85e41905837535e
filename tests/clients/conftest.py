"""Real packages that take `ext_*` names, each in a file of its own: `make test-clients`.

Nothing is downloaded: weights are random, images are small. A test's docstring says what was run and becomes a row of
the table in docs/reference/downstream.md; an expected failure's reason becomes its remark. `table.py` makes the page
from the results that this plugin writes.
"""

import importlib.metadata
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

RESULTS = Path(__file__).parents[2] / ".cache" / "clients"
NAMES = ("ext_resnet18", "ext_resnet50_dcn", "ext_convnext_atto", "ext_efficientnet_b0")
"""The smallest of each family, and an edited variant."""


def pytest_configure(config: pytest.Config) -> None:
    """Let other packages warn; what is raised in our own modules stays an error."""
    for line in ("ignore", "error:::timm_backbones_ext"):
        config.addinivalue_line("filterwarnings", line)
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Results())


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """One of our models."""
    return request.param


@pytest.fixture
def learns() -> Callable[..., None]:
    """Asserts that one step of training on a loss reaches all of a backbone but what the client does not use."""

    def step(backbone: nn.Module, loss: Tensor, unused: Sequence[str] = ()) -> None:
        assert torch.isfinite(loss)
        loss.backward()
        has_learned(backbone, unused)

    return step


@pytest.fixture
def learned() -> Callable[..., None]:
    """Asserts that the gradients which a client's own loop has left in a backbone are complete."""
    return has_learned


def has_learned(backbone: nn.Module, unused: Sequence[str] = ()) -> None:
    """Every trainable tensor has a finite gradient, and the first conv's is not zero: the loss reaches the image."""
    trainable = {key: tensor for key, tensor in backbone.named_parameters() if tensor.requires_grad}
    assert trainable
    without = [key for key, tensor in trainable.items() if tensor.grad is None]
    assert without == list(unused), f"no gradient: {without}"
    grads = {key: tensor.grad for key, tensor in trainable.items() if tensor.grad is not None}
    broken = [key for key, grad in grads.items() if not torch.isfinite(grad).all()]
    assert not broken, f"gradient is not finite: {broken}"
    first = next(iter(trainable))
    assert grads[first].any(), f"the gradient of {first} is zero"


@pytest.fixture(autouse=True)
def _noted(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> None:
    """Tell the results what a test ran with which model; a test without a docstring is no row."""
    module = request.module
    if not request.function.__doc__:
        return
    record_property("client", module.CLIENT)
    record_property("version", importlib.metadata.version(module.CLIENT))
    record_property("remark", getattr(module, "REMARK", ""))
    record_property("run", request.function.__doc__.splitlines()[0].rstrip("."))
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    record_property("model", parameters.get("name", "all"))


class Results:
    """Collects what became of each test; one JSON file per client."""

    def __init__(self) -> None:
        self.clients = defaultdict(lambda: {"rows": defaultdict(dict)})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what counts of a test: its call, or a set-up that failed."""
        told = dict(report.user_properties)
        if "client" not in told or not (report.when == "call" or report.failed):
            return
        client = self.clients[told["client"]]
        client["version"], client["remark"] = told["version"], told["remark"]
        reason = getattr(report, "wasxfail", "") or ("" if report.passed else "fails")
        row = client["rows"][told["run"]]
        if row.get(told["model"], "yes") == "yes":  # one failure counts more than what passes beside it
            row[told["model"]] = reason.removeprefix("reason: ") or "yes"

    def pytest_sessionfinish(self) -> None:
        """Write the results for the table."""
        RESULTS.mkdir(parents=True, exist_ok=True)
        for name, client in self.clients.items():
            (RESULTS / f"{name}.json").write_text(json.dumps(client, indent=2), encoding="utf-8")
