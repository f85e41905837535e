"""Configs that were written to hang, to fill the memory or to get past a check; run as a script, it tries them all.

Each is checked in a process of its own that may take 1 GB more memory than Python with timm takes. For each the script
prints a line of JSON: its name, what became of it, the seconds of CPU and the megabytes that it took.
"""

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

__all__ = ["HARMLESS", "HOSTILE"]

VIT, SWIN, EVA, BEIT = (
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "eva02_tiny_patch14_224",
    "beit_base_patch16_224",
)
RESNET, CONVNEXT, EFFICIENT, COAT = "ext_resnet18", "ext_convnext_atto", "ext_efficientnet_b0", "coatnet_0_rw_224"
CFG = {"input_size": [3, 224, 224], "mean": [0.5] * 3, "std": [0.5] * 3, "num_classes": 10, "fixed_input_size": True}


def args(architecture: str, **model_args: Any) -> dict[str, Any]:
    fixed = not architecture.startswith("ext_")  # convolutional nets take no size
    about = {**CFG, "fixed_input_size": fixed}
    return {"architecture": architecture, "num_classes": 10, "model_args": model_args, "pretrained_cfg": about}


def cfg(architecture: str, **entries: Any) -> dict[str, Any]:
    content = args(architecture)
    return {**content, "pretrained_cfg": {**content["pretrained_cfg"], **entries}}


def nested(count: int, start: str, end: str) -> str:
    return f'{{"architecture": "{RESNET}", "model_args": {start * count}{end * count}}}'


HOSTILE: dict[str, Any] = {
    # too large
    "4,000 blocks": args(VIT, depth=4000),
    "10,000 blocks": args(VIT, depth=10_000),
    "1e9 blocks": args(VIT, depth=10**9),
    "9,000 blocks in each stage": args(CONVNEXT, depths=[9000] * 4),
    "2,400 blocks in each stage": args(CONVNEXT, depths=[2400] * 4),
    "900 stages": args(CONVNEXT, depths=[1] * 900, dims=[8] * 900),
    "10,000 layers of a ResNet": args(RESNET, layers=[2500] * 4),
    "depth times a thousand": args(EFFICIENT, depth_multiplier=1000),
    "width times a thousand": args(EFFICIENT, channel_multiplier=1000),
    "width of 9,999": args(VIT, embed_dim=9999, num_heads=9, depth=60),
    "9,999 heads of width 1": args(VIT, embed_dim=9999, num_heads=9999),
    "an image of 50,000 pixels": args(EVA, img_size=50_000),
    "an image of 2,048 pixels for relative positions": args(BEIT, img_size=2048),
    "an image of 2,000 pixels in windows": args(SWIN, img_size=2000),
    "a window of 1,000": args(SWIN, window_size=1000),
    "a window of 2,000 in coatnet": args(COAT, img_size=2048),
    "patches of one pixel": args(VIT, patch_size=1),
    "patches of one pixel, image of 2,048": args(EVA, patch_size=1, img_size=2048),
    "an image of two sides": args(EVA, img_size=[2048, 50_000]),
    "an image size in pretrained_cfg": cfg(EVA, input_size=[3, 50_000, 50_000]),
    "channels in pretrained_cfg": cfg(RESNET, input_size=[99_999_999, 224, 224]),
    "a million channels": args(RESNET, in_chans=10**6),
    "1e12 classes": {**args(RESNET), "num_classes": 10**12},
    "1e12 classes in pretrained_cfg": cfg(RESNET, num_classes=10**12),
    "a ratio of 9,999": args(VIT, mlp_ratio=9999.0, embed_dim=9984),
    "10,000 register tokens": args(VIT, reg_tokens=10_000, embed_dim=9984),
    "cardinality 10,000": args("ext_resnext50_32x4d", cardinality=10_000, base_width=10_000),
    "stem width 10,000": args(RESNET, stem_width=10_000, stem_type="deep"),
    "edits for 10,000 channels": args(RESNET, edits=["in_chans(100000000)"]),
    "a kernel of 9,999": args(CONVNEXT, edits=["kernel(9999)"]),
    "500 edits": args(RESNET, edits=["eca"] * 500),
    "an edit of a million brackets": args(RESNET, edits=["dcn(" + "(" * 1_000_000]),
    # not numbers, or not what they should be
    "NaN": '{"architecture": "ext_resnet18", "model_args": {"drop_rate": NaN}}',
    "Infinity": '{"architecture": "ext_resnet18", "model_args": {"base_width": Infinity}}',
    "-Infinity": '{"architecture": "ext_resnet18", "model_args": {"base_width": -Infinity}}',
    "NaN in the normalisation": cfg(RESNET, mean=[float("nan")] * 3),
    "minus one block": args(VIT, depth=-1),
    "minus one channel": args(RESNET, in_chans=-1),
    "minus 10,000 wide": args(VIT, embed_dim=-9984),
    "minus one class": {**args(RESNET), "num_classes": -1},
    "classes that are true": {**args(RESNET), "num_classes": True},
    "an integer of 100,000 digits": f'{{"architecture": "ext_resnet18", "num_classes": {"9" * 100_000}}}',
    "model_args that are a list": {**args(RESNET), "model_args": [1]},
    "model_args that are a text": {**args(RESNET), "model_args": "depth"},
    "a pretrained_cfg that is a list": {**args(RESNET), "pretrained_cfg": []},
    "a depth that is a text": args(VIT, depth="12"),
    "a depth that is an object": args(VIT, depth={"a": 1}),
    "an architecture that is a number": {"architecture": 5},
    # JSON that is built to be expensive
    "100,000 brackets": nested(100_000, "[", "]"),
    "100,000 objects": nested(100_000, '{"a":', "") + "1" + "}" * 100_000,
    "9,000 brackets": nested(9_000, "[", "]"),
    "900 brackets": args(VIT, norm_layer=json.loads("[" * 400 + "]" * 400)),
    "3 MB of brackets side by side": f'{{"architecture": "ext_resnet18", "x": [{"[]," * 1_000_000}[]]}}',
    "5 MB of blanks": " " * 5_000_000 + "{}",
    "not UTF-8": b"\xff\xfe{}",
    # arguments that are not the model's
    "not strict": args(VIT, pretrained_strict=False),
    "a filter": args(VIT, pretrained_filter_fn="x"),
    "a config of the builder": args("convnext_tiny", model_cfg={}),
    "kwargs that are dropped": args(VIT, kwargs_filter=["depth"]),
    "another file": args(VIT, checkpoint_path="/etc/passwd"),
    "an overlay": args(RESNET, pretrained_cfg_overlay={"file": "/etc/passwd"}),
    "a cache folder": args(RESNET, cache_dir="/"),
    "a device": args(RESNET, device="cpu"),
    "features only": args(RESNET, features_only=True),
    "another loader": cfg(VIT, custom_load=True),
    "code": args(RESNET, edits=["__import__('os').system('true')"]),
}


HARMLESS = {
    "9,999 heads of width 1",
    "an image of 2,000 pixels in windows",
    "a window of 1,000",
    "patches of one pixel",
    "10,000 register tokens",
    "900 stages",
    "stem width 10,000",
}
"""Odd models that are no larger than others, which the check lets pass."""


def main() -> None:
    """Try each config in a forked process."""
    import timm  # noqa: F401

    import timm_backbones_ext  # noqa: F401
    from timm_backbones_ext.saving.checks import check_config

    for name, content in HOSTILE.items():
        text = content if isinstance(content, (str, bytes)) else json.dumps(content)
        folder = Path(tempfile.mkdtemp())
        path = folder / "config.json"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        sys.stdout.flush()
        before = time.monotonic()
        child = os.fork()
        if child == 0:
            tried(check_config, path, name)
        _, status, used = os.wait4(child, 0)
        if status:
            print(
                json.dumps({"name": name, "said": f"killed: {status}", "mb": 0, "cpu": used.ru_utime + used.ru_stime})
            )
        elif time.monotonic() - before > 60:
            print(json.dumps({"name": name, "said": "hung", "mb": 0, "cpu": 60}))


def tried(check: Any, path: Path, name: str) -> None:
    """Check a config, print what became of it, and leave."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 30), size + (1 << 30)))
    resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
    peak, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        check(path, "me/hostile")
        said = "accepted"
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
    cpu = time.process_time() - start
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024
    print(json.dumps({"name": name, "said": said[:300], "cpu": cpu, "mb": more}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
