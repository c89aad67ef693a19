"""ONNX: a graph for onnxruntime and whatever else runs ONNX, from images in [0, 1] to tokens."""

from pathlib import Path
from typing import Any

import torch

from perceptual_mae.errors import PmaeError
from perceptual_mae.export.check import Check, compare, fixed_images
from perceptual_mae.export.libraries import quietly
from perceptual_mae.export.program import INPUT, OUTPUT, ours, program, shapes, takes_any_size, words
from perceptual_mae.export.source import Source

GRAPH = "model.onnx"
TOLERANCE = 1e-4
OPSET = 18


def write(source: Source, folder: Path) -> None:
    """Fill a folder; weights of more than 2 GB lie beside the graph, which the format cannot hold.

    Raises:
        PmaeError: ONNX has no operators for it.
    """
    exported = program(source)
    axes = {0: "batch", 2: "height", 3: "width"} if takes_any_size(source) else {0: "batch"}
    size = sum(tensor.numel() * tensor.element_size() for tensor in source.state.values())
    try:
        with quietly():
            graph = torch.onnx.export(
                exported,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes={INPUT: axes},
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
            assert graph is not None
            if takes_any_size(source):  # else it says how many tokens, by names that nobody knows
                tokens: Any = graph.model.graph.outputs[0]
                tokens.shape = type(tokens.shape)(["batch", "tokens", source.encoder.embed_dim])
            graph.save(str(folder / GRAPH), external_data=size > 1.9e9)
    except OSError:
        raise
    except Exception as error:  # of torch's exporter, or of onnxscript
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise PmaeError(f"{source.encoder.name} cannot be made an ONNX graph: {reason[:200]}") from error


@torch.no_grad()
def check(source: Source, folder: Path) -> list[Check]:
    """Run the file with onnxruntime on images of every shape that it is said to take."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(folder / GRAPH, options, providers=["CPUExecutionProvider"])
    checks = []
    for batch, size in shapes(source):
        images = fixed_images(batch, source.encoder.in_channels, size)
        tokens = torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])
        checks.append(compare(words(batch, size), tokens, ours(source, size)(images), TOLERANCE))
    return checks
