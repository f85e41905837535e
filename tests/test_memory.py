"""Training in less memory: the same gradients to the bit, fewer tensors kept."""

import copy
import pickle
from collections.abc import Iterator

import pytest
import timm
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext.memory import kept_bytes

CASES = [
    ("ext_test_resnet", "dcn(stages=[4]), cbam(stages=[3]), se(stages=[2])"),
    ("ext_test_resnet", "rep"),
    ("ext_convnext_atto", "grn, eca(stages=[3])"),
    ("ext_test_efficientnet", "kernel"),
]


def trained(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Gradients and buffers after a step that draws the same random numbers each time."""
    torch.manual_seed(0)
    output = model(x)
    maps = output if isinstance(output, list) else [output]
    sum(item.square().mean() for item in maps).backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return {**grads, **dict(model.named_buffers())}


def assert_equal(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    assert [key for key in expected if not torch.equal(got[key], expected[key])] == []


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of this process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize(("name", "edits"), CASES)
def test_gradients_and_statistics_are_the_same_to_the_bit(name: str, edits: str) -> None:
    drop = {} if "vgg" in name else {"drop_path_rate": 0.2}
    model = testing.calibrate(timm.create_model(name, edits=edits, num_classes=10, **drop).train())
    x = testing.image(model, 48, 48, batch=2).float()
    for plain in (model, tbx.wrap(copy.deepcopy(model))):
        saving = tbx.save_memory(copy.deepcopy(plain))
        assert_equal(trained(saving, x), trained(plain, x))


@pytest.mark.parametrize("edits", [(), "frozen_bn"])
def test_maps_of_a_vgg_learn_as_without_it(edits: str) -> None:
    model = timm.create_model("ext_vgg11_bn", edits=edits, features_only=True).train()
    x = torch.randn(1, 3, 32, 32)
    saving = tbx.save_memory(copy.deepcopy(model))
    assert_equal(trained(saving, x), trained(model, x))


@pytest.mark.parametrize(
    ("name", "share"), [("ext_resnet50", 0.6), ("ext_convnext_tiny", 0.6), ("ext_efficientnet_b0", 0.5)]
)
def test_fewer_bytes_are_kept_for_the_backward_pass(name: str, share: float) -> None:
    model = timm.create_model(name).train()
    x = torch.randn(1, 3, 64, 64)
    plain = kept_bytes(model, x)
    assert kept_bytes(tbx.save_memory(model), x) < share * plain


def test_gradient_checkpointing_is_the_next_step() -> None:
    model = timm.create_model("ext_test_resnet").train()
    x = torch.randn(2, 3, 64, 64)
    saving = tbx.save_memory(copy.deepcopy(model))
    before = kept_bytes(copy.deepcopy(saving), x)
    saving.set_grad_checkpointing()
    model.set_grad_checkpointing()  # statistics of norms move twice, here and there
    assert kept_bytes(copy.deepcopy(saving), x) < before
    assert_equal(trained(saving, x), trained(model, x))


def test_wrappers_for_many_processes_take_it(alone: None) -> None:
    x = torch.randn(2, 3, 64, 64)
    model = timm.create_model("ext_test_resnet", edits="cbam").train()
    expected = trained(copy.deepcopy(model), x)
    ddp = DistributedDataParallel(tbx.save_memory(copy.deepcopy(model)))
    assert_equal({key.removeprefix("module."): value for key, value in trained(ddp, x).items()}, expected)
    sharded = tbx.save_memory(copy.deepcopy(model))
    for stage in (sharded.layer3, sharded.layer4, sharded):
        fully_shard(stage, mesh=dist.init_device_mesh("cpu", (1,)))
    got = {
        key: getattr(value, "full_tensor", lambda value=value: value)() for key, value in trained(sharded, x).items()
    }
    assert_equal(got, expected)


def test_a_compiled_model_is_left_to_the_compiler() -> None:
    model = timm.create_model("ext_test_resnet").train()
    x = torch.randn(2, 3, 64, 64)
    expected = trained(copy.deepcopy(model), x)
    saving = tbx.save_memory(model)
    trained(torch.compile(saving, backend="eager"), x)
    for key, parameter in saving.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[key], rtol=1e-4, atol=1e-5)


def test_copies_and_pickles_work_by_themselves() -> None:
    model = timm.create_model("ext_test_convnext").train()
    x = torch.randn(2, 3, 64, 64)
    expected = trained(copy.deepcopy(model), x)
    saving = tbx.save_memory(model)
    assert_equal(trained(pickle.loads(pickle.dumps(saving)), x), expected)
    assert_equal(trained(copy.deepcopy(saving), x), expected)


def test_a_forward_pass_that_fails_leaves_autograd_as_it_was() -> None:
    model = tbx.save_memory(timm.create_model("ext_test_resnet"))
    with pytest.raises(RuntimeError, match="channels"):
        model(torch.randn(1, 4, 32, 32))
    x = torch.randn(3, requires_grad=True)
    assert type(x.exp().grad_fn._raw_saved_result.data) is Tensor


def test_gradients_of_gradients_are_refused() -> None:
    model = tbx.save_memory(timm.create_model("ext_test_resnet"))
    loss = model(torch.randn(2, 3, 64, 64)).square().mean()
    with pytest.raises(RuntimeError, match="gradients of gradients"):
        torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
