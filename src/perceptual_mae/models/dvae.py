"""The encoder of DALL-E's discrete VAE (Ramesh et al., arXiv 2102.12092, appendix A), as a network to judge images by.

It was trained to name every 8 x 8 patch of an image with one of 8192 words; the `dvae-p` row compares images by what
its groups of blocks make of them on the way.
"""

import re
from collections import OrderedDict
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD = "blocks.output."
"""How the names of the output head begin: it gives the words, which no loss needs."""


class Conv(nn.Module):
    """A convolution that keeps height and width; `w` and `b` are the names in the published file."""

    def __init__(self, n_in: int, n_out: int, kw: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(n_out, n_in, kw, kw) / (n_in * kw**2) ** 0.5)
        self.b = nn.Parameter(torch.zeros(n_out))

    def forward(self, maps: Tensor) -> Tensor:
        """`(B, n_in, H, W)` to `(B, n_out, H, W)`."""
        return F.conv2d(maps, self.w, self.b, padding=self.w.shape[-1] // 2)


class Block(nn.Module):
    """A residual bottleneck: three 3 x 3 convolutions at a quarter of the width, a 1 x 1 back to it.

    The residual branch is scaled by 1 / n_layers^2, so that the deep network starts near the identity.
    """

    def __init__(self, n_in: int, n_out: int, n_layers: int) -> None:
        super().__init__()
        n_hid = n_out // 4
        self.gain = 1 / n_layers**2
        self.id_path = Conv(n_in, n_out, 1) if n_in != n_out else nn.Identity()
        self.res_path = nn.Sequential(
            OrderedDict(
                relu_1=nn.ReLU(),
                conv_1=Conv(n_in, n_hid, 3),
                relu_2=nn.ReLU(),
                conv_2=Conv(n_hid, n_hid, 3),
                relu_3=nn.ReLU(),
                conv_3=Conv(n_hid, n_hid, 3),
                relu_4=nn.ReLU(),
                conv_4=Conv(n_hid, n_out, 1),
            )
        )

    def forward(self, maps: Tensor) -> Tensor:
        """`(B, n_in, H, W)` to `(B, n_out, H, W)`."""
        return self.id_path(maps) + self.gain * self.res_path(maps)


class DvaeEncoder(nn.Module):
    """DALL-E's image tokeniser; parameter names are those of the published file, and so are the default sizes.

    Args:
        n_hid: channels of the first group; each group has twice as many as the one before.
        n_blk_per_group: residual blocks in a group.
        group_count: groups; all but the last halve the resolution at their end.
        vocab_size: words of the output head.
        input_channels: channels of the images.
        head: whether there is an output head.
    """

    def __init__(
        self,
        n_hid: int = 256,
        n_blk_per_group: int = 2,
        group_count: int = 4,
        vocab_size: int = 8192,
        input_channels: int = 3,
        head: bool = False,
    ) -> None:
        super().__init__()
        self.n_hid, self.n_blk_per_group, self.group_count = n_hid, n_blk_per_group, group_count
        self.vocab_size, self.input_channels = vocab_size, input_channels
        self.blocks = nn.ModuleDict({"input": Conv(input_channels, n_hid, 7)})
        width = n_hid
        for group in range(1, group_count + 1):
            parts: OrderedDict[str, nn.Module] = OrderedDict()
            for block in range(1, n_blk_per_group + 1):
                n_out = n_hid * 2 ** (group - 1)
                parts[f"block_{block}"] = Block(width, n_out, group_count * n_blk_per_group)
                width = n_out
            if group < group_count:
                parts["pool"] = nn.MaxPool2d(2)
            self.blocks[f"group_{group}"] = nn.Sequential(parts)
        if head:
            self.blocks["output"] = nn.Sequential(OrderedDict(relu=nn.ReLU(), conv=Conv(width, vocab_size, 1)))

    @property
    def reduction(self) -> int:
        """How much smaller the last map is than the image: images must have at least so many pixels a side."""
        return 2 ** (self.group_count - 1)

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """Outputs of the groups for images `(B, C, H, W)` in [0, 1].

        Returns:
            `(B, n_hid * 2^(j-1), H / 2^j, W / 2^j)` of group j, the last at the resolution of the one before it: at 224
            pixels 256 channels at 112, 512 at 56, 1024 and 2048 at 28.
        """
        # The published input mapping: it keeps values off the ends of [0, 1].
        maps = self.blocks["input"](0.8 * images + 0.1)
        outputs = []
        for group in range(1, self.group_count + 1):
            maps = self.blocks[f"group_{group}"](maps)
            outputs.append(maps)
        return tuple(outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the words, `(B, vocab_size, H / 8, W / 8)` with four groups.

        Raises:
            ValueError: there is no head.
        """
        if "output" not in self.blocks:
            raise ValueError("this encoder was built without its output head")
        return self.blocks["output"](self.features(images)[-1])

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor], head: bool = False) -> "DvaeEncoder":
        """An encoder of the sizes that its weights have, in float32.

        Args:
            state: weights under the published names; those of the output head need not be there.
            head: whether to keep the output head.

        Raises:
            ValueError: these are no weights of such an encoder; names one that is missing, unknown or of another shape.
        """
        wrong = "these are not the weights of a dVAE encoder"
        first = state.get("blocks.input.w")
        found = {match.groups() for name in state if (match := re.match(r"blocks\.group_(\d+)\.block_(\d+)\.", name))}
        groups = len({group for group, _ in found})
        if first is None or first.ndim != 4 or not groups:
            raise ValueError(f"{wrong}: no {'blocks.group_1' if first is not None else 'blocks.input.w'} among them")
        words = state.get(f"{HEAD}conv.w", torch.empty(8192, 0))
        with torch.device("meta"):  # shapes only: the weights follow
            encoder = cls(first.shape[0], len(found) // groups, groups, words.shape[0], first.shape[1], head)
        given = {name: tensor for name, tensor in state.items() if head or not name.startswith(HEAD)}
        own = encoder.state_dict()
        for name in sorted(own.keys() | given.keys()):
            if name not in given:
                raise ValueError(f"{wrong}: {name} is missing")
            if name not in own:
                raise ValueError(f"{wrong}: {name} is none of its names")
            if given[name].shape != own[name].shape or not given[name].is_floating_point():
                shapes = f"{tuple(given[name].shape)}, not {tuple(own[name].shape)}"
                raise ValueError(f"{wrong}: {name} has {given[name].dtype} {shapes}")
        encoder.load_state_dict({name: tensor.float() for name, tensor in given.items()}, assign=True)
        return encoder
