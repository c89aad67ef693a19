"""Encoders for other tools: timm, transformers, ONNX, `torch.export`, and the Hugging Face hub."""

from perceptual_mae.export.exporting import Exported, export_encoder

__all__ = ["Exported", "export_encoder"]
