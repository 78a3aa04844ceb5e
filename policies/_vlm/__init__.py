"""Vision-language models as backbones."""
