"""What the process of a `LocalHub` runs."""

from timm_backbones_ext.local_hub.local import main

main()
