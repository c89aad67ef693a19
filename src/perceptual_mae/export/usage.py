"""The lines that open an export, as its model card shows them."""

from collections.abc import Callable

from perceptual_mae.export import vit_mae
from perceptual_mae.export.source import Source
from perceptual_mae.export.transformers_format import pixels_config

Snippet = tuple[str, str]
"""Title and Python code."""


def snippets(target: str, source: Source, place: str) -> list[Snippet]:
    """How to open an export.

    Args:
        target: its name.
        source: what was exported.
        place: where somebody finds it: a folder, or `USER/NAME` on the Hugging Face hub.
    """
    return _BY_TARGET[target](source, place)


def _shape(source: Source) -> str:
    return ", ".join(map(str, (1, source.encoder.in_channels, *source.encoder.image_size)))


def _normalised(source: Source) -> list[str]:
    """Lines that make `pixels` of images in [0, 1]."""
    mean, std = source.pixels
    return [
        f"mean = torch.tensor({mean}).reshape(-1, 1, 1)",
        f"std = torch.tensor({std}).reshape(-1, 1, 1)",
        f"pixels = (torch.rand({_shape(source)}) - mean) / std  # of images in [0, 1]",
    ]


def _timm(source: Source, place: str, on_hub: bool = False) -> list[Snippet]:
    name = f"hf-hub:{place}" if on_hub else f"local-dir:{place}"
    own = f"hub:{place}" if on_hub else f"{place}/model.safetensors"
    timm = [
        "import timm",
        "import torch",
        "",
        f'model = timm.create_model("{name}", pretrained=True, num_classes=0).eval()',
        *_normalised(source),
        "tokens = model.forward_features(pixels)",
        "features = model(pixels)  # (1, D)",
    ]
    transformers = [
        "import torch",
        "from transformers import AutoModel",
        "",
        f'model = AutoModel.from_pretrained("{place}")',
        *_normalised(source),
        "tokens = model(pixels).last_hidden_state",
    ]
    ours = [
        "import torch",
        "from perceptual_mae import load_encoder",
        "",
        f'encoder = load_encoder("{own}")',
        f"tokens = encoder(torch.rand({_shape(source)}))  # (1, 1 + N, D), from images in [0, 1]",
    ]
    found = [("timm", timm), ("transformers (through timm)", transformers)]
    if on_hub or source.plain_vit is not None:
        found.append(("perceptual-mae", ours))
    return [(title, "\n".join(lines)) for title, lines in found]


def _transformers(source: Source, place: str) -> list[Snippet]:
    features = [
        "import torch",
        "from transformers import ViTModel",
        "",
        f'model = ViTModel.from_pretrained("{place}").eval()',
        *_normalised(source),
        "tokens = model(pixels).last_hidden_state  # (1, 1 + N, D), [CLS] first",
    ]
    photographs = [
        "from PIL import Image",
        "from transformers import AutoImageProcessor, AutoModel",
        "",
        f'processor = AutoImageProcessor.from_pretrained("{place}")',
        f'model = AutoModel.from_pretrained("{place}").eval()',
        'pixels = processor(Image.open("photo.jpg"), return_tensors="pt")',
        "tokens = model(**pixels).last_hidden_state",
    ]
    masked = [
        "from PIL import Image",
        "from transformers import AutoImageProcessor, ViTMAEForPreTraining",
        "",
        f'processor = AutoImageProcessor.from_pretrained("{place}/{vit_mae.FOLDER}")',
        f'model = ViTMAEForPreTraining.from_pretrained("{place}/{vit_mae.FOLDER}").eval()',
        'pixels = processor(Image.open("photo.jpg"), return_tensors="pt")',
        "drawn = model.unpatchify(model(**pixels).logits)  # in the space of `pixels`",
    ]
    found = [("transformers", features)]
    if pixels_config(source) is not None:
        found.append(("transformers, from a photograph", photographs))
        if vit_mae.why_not(source) is None:
            found.append(("transformers, a reconstruction", masked))
    return [(title, "\n".join(lines)) for title, lines in found]


def _onnx(source: Source, place: str) -> list[Snippet]:
    lines = [
        "import numpy as np",
        "import onnxruntime",
        "",
        f'session = onnxruntime.InferenceSession("{place}/model.onnx")',
        f'images = np.random.rand({_shape(source)}).astype("float32")  # in [0, 1], not normalised',
        '(tokens,) = session.run(["tokens"], {"images": images})  # (1, 1 + N, D), [CLS] first',
    ]
    return [("onnxruntime", "\n".join(lines))]


def _program(source: Source, place: str) -> list[Snippet]:
    lines = [
        "import torch",
        "",
        f'encoder = torch.export.load("{place}/encoder.pt2").module()',
        f"tokens = encoder(torch.rand({_shape(source)}))  # (1, 1 + N, D), from images in [0, 1]",
    ]
    return [("PyTorch", "\n".join(lines))]


_BY_TARGET: dict[str, Callable[[Source, str], list[Snippet]]] = {
    "timm": _timm,
    "transformers": _transformers,
    "onnx": _onnx,
    "torch-export": _program,
    "hub": lambda source, place: _timm(source, place, on_hub=True),
}
