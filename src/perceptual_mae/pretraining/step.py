"""One step of training: reconstruct, look, judge, step."""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor

from perceptual_mae.losses.term import LossTerm, Seen
from perceptual_mae.models import MaskedAutoencoder, Reconstruction
from perceptual_mae.pretraining.lens import Lens
from perceptual_mae.pretraining.opponent import Opponent
from perceptual_mae.pretraining.player import MicroBatch, Player, norm_of
from perceptual_mae.pretraining.regularise import R1, PerceptualPath
from perceptual_mae.training.device import tf32_products
from perceptual_mae.training.schedule import Clock
from perceptual_mae.training.tally import NonFinite, Tally


@dataclass(frozen=True)
class WeightedTerm:
    """A term of the generator's loss as a run has it: `methods.Term` with the run's settings.

    Attributes:
        name: in logs: `loss/<name>`.
        loss: the term.
        weight: its factor in the sum.
        every_epochs: acts in epochs divisible by this, counted from 1.
        through: what it looks through.
        balance: of a term that looks through a network, the most that it may pull at the reconstruction, relative to
            the pixel terms.
    """

    name: str
    loss: LossTerm
    weight: float = 1.0
    every_epochs: int = 1
    through: Literal["pixels", "network"] = "pixels"
    balance: float = math.inf


@dataclass
class TrainingStep:
    """Improves the generator by one step of its loss (eq. 1 of the paper), and its opponent by one of its own (eq. 4).

    Attributes:
        accelerator: devices, precision and processes.
        generator: the masked autoencoder and its optimiser.
        terms: the loss, term by term, as the method's row has it.
        images: of a step, over all processes.
        mask_ratio: share of patches removed.
        clip_grad: largest norm of a player's gradient, or None.
        lens: what terms look through: the opponent, a fixed loss network, or None.
        r1, path: lazy regularisation of the opponent and of the generator, where the row has them.
    """

    accelerator: Accelerator
    generator: Player[MaskedAutoencoder]
    terms: Sequence[WeightedTerm]
    images: int
    mask_ratio: float
    clip_grad: float | None = None
    lens: Lens | None = None
    r1: R1 | None = None
    path: PerceptualPath | None = None

    def __call__(self, batch: Sequence[MicroBatch], clock: Clock) -> dict[str, float]:
        """Take a step.

        Both players learn from one look of the discriminator, exactly: the reconstruction is cut off its graph; the
        generator's loss gives the gradient at the cut without reaching a weight of the discriminator; the
        discriminator's loss goes backward through the same look; and the gradient at the cut through the generator.

        Args:
            batch: this process's share of the batch, in as many parts as gradients are accumulated over.
            clock: when this is.

        Returns:
            `loss/total`, `loss/<term>`, `loss/<term>/<part>`, `grad_norm` and how the game stands, as means
            over the batch.

        Raises:
            NonFinite: a value is not finite. It has changed no weight.
        """
        with tf32_products(self.accelerator):
            return self.take(batch, clock)

    def take(self, batch: Sequence[MicroBatch], clock: Clock) -> dict[str, float]:
        """See `__call__`."""
        opponent, partner, tally = self.opponent, self.partner, Tally(self.accelerator, len(batch))
        if opponent and not partner:
            self.opponent_first(opponent, batch, tally)
        halves = [self.learn_from(part, clock, tally) for part in self.synchronised_at_last(batch)]
        made = [half for half in halves if half is not None]
        if opponent and self.path and made:
            self.path(opponent, self.generator, batch, made, tally)
        players: list[Player[Any]] = [self.generator, partner.player] if partner else [self.generator]
        for player, name in zip(players, ("grad_norm", "grad_norm/discriminator"), strict=False):
            tally.whole(name, player.gradient_norm(self.clip_grad))
        log = tally.means()
        for player in players:
            player.improve()
        if opponent:
            log |= opponent.adapt(log, self.images, clock)
            if self.r1 and clock.step_is_due(self.r1.every):
                try:
                    log |= self.r1(opponent, batch, self.clip_grad)
                except NonFinite as finding:
                    finding.taken = log
                    raise
        return log

    def learn_from(self, part: MicroBatch, clock: Clock, tally: Tally) -> Reconstruction | None:
        """Collect both players' gradients of a part of a batch.

        Everything that was made for them is let go of on return: the next part has the memory.

        Returns:
            what the path length looks at again, where its step is due.
        """
        part = part.as_floats()
        reconstruction = self.generator.network(part.images, self.mask_ratio, part.noise)
        leaf = reconstruction.cut()
        seen = self.lens.look(leaf, part) if self.lens else None
        partner = self.partner
        gradient = self.judge(leaf, part.images, seen, clock, tally, again=partner is not None)
        if partner and seen:
            partner.learn(seen, tally)
        torch.autograd.backward(reconstruction.predictions, gradient)
        return reconstruction.constant_half() if self.path and clock.step_is_due(self.path.every) else None

    @property
    def opponent(self) -> Opponent | None:
        """The discriminator at play, if the method has one."""
        return self.lens if isinstance(self.lens, Opponent) else None

    @property
    def partner(self) -> Opponent | None:
        """The opponent, if it learns from the look that the generator takes, and not before."""
        return None if self.opponent is None or self.opponent.alternating else self.opponent

    @property
    def augments(self) -> bool:
        """Whether what the opponent sees is augmented."""
        return self.opponent is not None and self.opponent.ada is not None

    def judge(
        self, leaf: Reconstruction, images: Tensor, seen: Seen | None, clock: Clock, tally: Tally, again: bool = False
    ) -> list[Tensor]:
        """Eq. 1: the gradient, with respect to what was drawn, of the weighted sum of the terms that act now.

        Each term that looks through a network is differentiated by itself: to see how much it has to say, and to let
        it say no more than it may.

        Args:
            leaf: what was drawn, as `Reconstruction.cut` gives it.
            images: `(b, C, H, W)` in [0, 1], of which it was drawn.
            seen: what the network made of both, if there is one.
            clock: when this is.
            tally: for values and pulls.
            again: whether somebody goes backward through `seen` after this.
        """
        pixels, looking = images.new_zeros(()), []
        for term in self.terms:
            if not clock.epoch_is_due(term.every_epochs):
                continue
            value, parts = term.loss(leaf, images, seen)
            tally.add({f"loss/{term.name}": value} | {f"loss/{term.name}/{name}": part for name, part in parts.items()})
            if term.through == "pixels":
                pixels = pixels + term.weight * value
            else:
                looking.append((term, term.weight * value))
        tally.add({"loss/total": torch.stack([pixels, *(value for _, value in looking)]).sum()})
        gradient = torch.autograd.grad(pixels / tally.parts, leaf.predictions, materialize_grads=True)
        if not looking:
            return list(gradient)
        own = self.norm_of_all(gradient)
        whole = math.sqrt(tally.parts)  # the parts of a batch are images of their own: their pulls add up in squares
        tally.add({"pull/pixels": whole * own}, shared=True)
        for left, (term, value) in zip(reversed(range(len(looking))), looking, strict=True):
            # All terms go through one look, and the discriminator's loss goes through it after them.
            keep = again or left > 0
            pull = torch.autograd.grad(value / tally.parts, leaf.predictions, retain_graph=keep, materialize_grads=True)
            norm = self.norm_of_all(pull)
            share = share_that_counts(term.balance, own, norm)
            tally.add({f"pull/{term.name}": whole * norm, f"pull_share/{term.name}": share}, shared=True)
            gradient = tuple(g + share.to(p.dtype) * p for g, p in zip(gradient, pull, strict=True))
        return list(gradient)

    def norm_of_all(self, gradient: Sequence[Tensor]) -> Tensor:
        """Norm over all processes of a gradient of the mean loss; each has that of its own images' mean."""
        square = self.accelerator.reduce(norm_of(gradient).square(), "sum")
        return square.sqrt() / self.accelerator.num_processes

    def opponent_first(self, opponent: Opponent, batch: Sequence[MicroBatch], tally: Tally) -> None:
        """The classical order: the opponent learns from what the generator draws, and the generator meets it after."""
        own = Tally(self.accelerator, len(batch))
        for part in (one.as_floats() for one in self.synchronised_at_last(batch)):
            with torch.no_grad():
                made = self.generator.network(part.images, self.mask_ratio, part.noise)
            opponent.learn_alone(made, part, own)
        own.whole("grad_norm/discriminator", opponent.player.gradient_norm(self.clip_grad))
        own.means()  # refuses what is not finite
        opponent.player.improve()
        tally.sums |= own.sums

    def synchronised_at_last(self, batch: Sequence[MicroBatch]) -> Iterator[MicroBatch]:
        """The parts of a batch; gradients meet those of other processes in the last one only."""
        players: list[Player[Any]] = [self.generator, self.opponent.player] if self.opponent else [self.generator]
        for i, part in enumerate(batch):
            with ExitStack() as alone:
                if i < len(batch) - 1:
                    for player in players:
                        alone.enter_context(player.alone(self.accelerator))
                yield part


def share_that_counts(balance: float, pixels: Tensor, network: Tensor) -> Tensor:
    """How much of a term's pull through a network counts: all, unless it outweighs that of the pixels too much.

    Args:
        balance: the most that it may pull, relative to the pixels; inf: anything.
        pixels, network: norms of both pulls.
    """
    if math.isinf(balance):  # also where the pixels do not pull at all
        return torch.ones_like(network)
    return (balance * pixels / network.clamp(min=torch.finfo(network.dtype).tiny)).clamp(max=1)
