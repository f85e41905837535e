"""What one of two processes of tests/apps/test_scale.py does: `torchrun --nproc-per-node 2 worker.py FOLDER`."""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext.apps.detector.fcos import detector

NORMS = ("sync_bn", "frozen_bn")
Batch = tuple[list[Tensor], list[dict[str, Tensor]]]


def batch() -> Batch:
    """Four images with 1, 4, 0 and 2 boxes: halves of a batch have different numbers of them."""
    random = torch.Generator().manual_seed(0)
    images = [torch.rand(3, 64, 64, generator=random) for _ in range(4)]
    targets = []
    for count in (1, 4, 0, 2):
        corner = torch.rand(count, 2, generator=random) * 30
        boxes = torch.cat([corner, corner + 12 + 20 * torch.rand(count, 2, generator=random)], 1)
        targets.append({"boxes": boxes, "labels": torch.arange(count)})
    return images, targets


def model(norm: str) -> nn.Module:
    """A detector whose backbone has its batch norms synchronised or frozen."""
    torch.manual_seed(0)
    body = tbx.pyramid("ext_resnet18", 32, "P3-P4", frozen_bn=norm == "frozen_bn")
    testing.calibrate(body.body)
    net = detector(body, 5, min_size=64, max_size=64, num_convs=1).train()
    net.backbone = tbx.convert_sync_batchnorm(net.backbone) if norm == "sync_bn" else net.backbone
    return net


def learned(net: nn.Module, images: list[Tensor], targets: list[dict[str, Tensor]]) -> Tensor:
    """The loss, whose gradients are in the model afterwards."""
    loss = torch.stack(list(net(images, targets).values())).sum()
    loss.backward()
    return loss.detach()


def gradients(net: nn.Module) -> dict[str, Tensor]:
    """By name, and the statistics of the batch norms."""
    found = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    return found | {name: value.clone() for name, value in net.named_buffers() if "running" in name}


def sharded(net: nn.Module) -> nn.Module:
    """FSDP2, by stage of the backbone."""
    for stage in net.backbone.body.children():
        fully_shard(stage)
    return fully_shard(net)


def main(folder: Path) -> None:
    """Write the gradients of both kinds of norms, and the losses of three steps of a sharded model."""
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    half = slice(2 * accelerator.process_index, 2 * accelerator.process_index + 2)
    images, targets = (part[half] for part in batch())
    for norm in NORMS:
        net = accelerator.prepare(model(norm))
        loss = accelerator.reduce(learned(net, images, targets), "mean")
        if accelerator.is_main_process:
            found = {**gradients(accelerator.unwrap_model(net)), "loss": loss}
            save_file({name: value.contiguous() for name, value in found.items()}, folder / f"{norm}.safetensors")
    losses = steps(sharded(model("frozen_bn")), images, targets)
    distributed.all_reduce(losses)
    if accelerator.is_main_process:
        save_file({"losses": losses / accelerator.num_processes}, folder / "fsdp.safetensors")
    accelerator.end_training()


def steps(net: nn.Module, images: list[Tensor], targets: list[dict[str, Tensor]]) -> Tensor:
    """The losses of three steps of training."""
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(3):
        losses.append(learned(net, images, targets))
        optimizer.step()
        optimizer.zero_grad()
    return torch.stack(losses)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
