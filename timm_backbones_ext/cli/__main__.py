"""`python -m timm_backbones_ext.cli`, for launchers such as torchrun."""

from .main import main

if __name__ == "__main__":
    main()
