"""Lazy regularisation of the two players (StyleGAN2, arXiv 1912.04958): now and then, and as much stronger."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perceptual_mae.losses.gradient_penalty import r1_penalty
from perceptual_mae.losses.path_length import PathLength, exact_lengths, finite_difference_lengths
from perceptual_mae.models import MaskedAutoencoder, Reconstruction
from perceptual_mae.pretraining.opponent import Opponent
from perceptual_mae.pretraining.player import MicroBatch, Player
from perceptual_mae.training.tally import Tally


@dataclass
class R1:
    """Keeps the discriminator smooth around real images.

    Attributes:
        gamma: weight.
        every: steps between penalties; each counts so many times.
    """

    gamma: float
    every: int

    def __call__(
        self, opponent: Opponent, batch: Sequence[MicroBatch], clip_grad: float | None = None
    ) -> dict[str, float]:
        """Take a step of the discriminator.

        With respect to the images that it receives, after augmentation: nothing is differentiated through resampling.

        Raises:
            NonFinite: penalty or gradient is not finite; the step is not taken.
        """
        player, tally = opponent.player, Tally(opponent.accelerator, len(batch))
        # Mixed precision and compiled regions have no second derivatives.
        with player.past_network(opponent.accelerator):
            for part in batch:
                real = opponent.real(part.as_floats().images, opponent.augmentation(part.augmentation))
                penalty = self.gamma * r1_penalty(player.module.judge, real)
                (self.every * penalty / len(batch)).backward()
                tally.add({"loss/r1": penalty})
        tally.whole("grad_norm/r1", player.gradient_norm(clip_grad))
        log = tally.means()
        player.improve()
        return log


@dataclass
class PerceptualPath:
    """Keeps the generator's steps even: how far the picture moves, as the discriminator sees it, for a step of z.

    Attributes:
        state: the running mean length, in checkpoints.
        weight: weight of the penalty.
        every: steps between penalties; each counts so many times.
        exact: second derivatives in place of finite differences.
    """

    state: PathLength
    weight: float
    every: int
    exact: bool

    def __call__(
        self,
        opponent: Opponent,
        player: Player,
        batch: Sequence[MicroBatch],
        made: Sequence[Reconstruction],
        tally: Tally,
    ) -> None:
        """Add to the gradient of the generator's decoder; on every second image, masks and augmentation as they were.

        The regularisation of the game weighs as much as the game: of its gradient the same share counts as of the pull
        through the discriminator that counts least (see `share_that_counts`), or it would outweigh the pixels in its
        turn. Where no term looks through the discriminator there is no game: nothing is added.
        """
        accelerator = opponent.accelerator
        shares = [value for name, value in tally.sums.items() if name.startswith("pull_share/")]
        if not shares:
            return
        share = torch.stack(shares).min()
        with player.past_network(accelerator):
            for part, half in zip(batch, made, strict=True):
                with opponent.player.fixed():
                    lengths = self.lengths(opponent, player, half, part)
                mean_length = accelerator.reduce(lengths.detach().mean(), "mean")
                penalty = self.weight * self.state.penalty(lengths, mean_length, len(batch))
                (share * self.every * penalty / len(batch)).backward()
                # Shared: both hang on the mean over all processes.
                tally.add({"loss/path_length": penalty, "path_length": self.state.mean}, shared=True)

    def lengths(
        self, opponent: Opponent, player: Player[MaskedAutoencoder], half: Reconstruction, part: MicroBatch
    ) -> Tensor:
        """`(b,)` how far D's features move for a step of z in a random direction, of images 0, 2, 4, ... of a part."""
        numbers = None if part.augmentation is None else part.augmentation[::2]
        assert part.seeds is not None
        # Of each image its own: the number of processes and micro-batches does not change what is drawn.
        streams = [torch.Generator().manual_seed(seed) for seed in part.seeds[::2].tolist()]

        def normal_like(one: Tensor) -> Tensor:
            drawn = [torch.randn(one.shape[1:], generator=stream, dtype=one.dtype) for stream in streams]
            return torch.stack(drawn).to(one.device)

        change = opponent.augmentation(numbers)
        model = player.module
        # The class's function is never a compiled region, which cannot be differentiated twice.
        decode = type(model).decode.__get__(model) if self.exact else model.decode

        def features(z: Tensor) -> tuple[Tensor, ...]:
            drawn = half.drawn(decode(z, half.masking, half.maps))
            return opponent.player.module.judge(opponent.augmented(drawn.pyramid, change)).features

        if self.exact:
            return exact_lengths(features, half.latent, normal_like)
        return finite_difference_lengths(features, half.latent, normal_like(half.latent))
