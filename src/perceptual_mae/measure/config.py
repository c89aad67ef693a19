"""Settings of a comparison. Imports no torch."""

from dataclasses import dataclass, field, replace

from perceptual_mae.errors import UsageError, said_of
from perceptual_mae.evaluation.config import EvaluateConfig
from perceptual_mae.methods import METHODS, Row, parts_of
from perceptual_mae.pretraining.config import PretrainConfig

FLOORS = {"random init": "random:{model}/{patch_size}", "raw pixels": "pixels:16"}
"""What any training should beat, by the name of its row: the encoder, in the run's words."""


@dataclass(frozen=True)
class CompareConfig:
    """Which loss suits my images: train several methods alike, measure them alike.

    Attributes:
        pretrain: the training, the same for all methods; its method, seed and folder are set here.
        evaluate: the evaluation, the same for all encoders; its encoder, images and folder are set here.
        methods: rows of the paper's Table 2, with +ARCHITECTURE where a row has two.
        seeds: runs of each method.
        encoders: others to put beside them: timm:NAME, timm:NAME:FILE, hub:USER/NAME, files, run folders.
        loss_networks: what methods with a fixed network look through: dvae:FILE, timm:NAME[:FILE].
        floors: whether random weights and raw pixels are measured too.
        out: folder of the comparison; what is there already is not repeated.
    """

    pretrain: PretrainConfig
    evaluate: EvaluateConfig = field(default_factory=lambda: EvaluateConfig(encoder=""))
    methods: tuple[str, ...] = ("mse", "ms-ssim", "msg-gan-p")
    seeds: int = 1
    encoders: tuple[str, ...] = ()
    loss_networks: tuple[str, ...] = ()
    floors: bool = True
    out: str = "runs/compare"

    def check(self) -> None:
        """Refuse settings that cannot be right, before anything is trained.

        Raises:
            UsageError: one line that names the flag.
        """
        if not self.methods:
            raise UsageError(f"--methods: name one or more of {', '.join(METHODS)}")
        if len(set(self.methods)) < len(self.methods):
            raise UsageError(f"--methods {','.join(self.methods)}: names a method twice")
        if len(set(self.encoders)) < len(self.encoders):
            raise UsageError(f"--encoders {','.join(self.encoders)}: names an encoder twice")
        if self.seeds < 1:
            raise UsageError(f"--seeds {self.seeds}: must be at least 1")
        trained: dict[tuple[str, Row], str] = {}
        for name in self.methods:
            with said_of("--methods", usual="--method"):
                self.run(name, 0).check()
            method, architecture = parts_of(name)
            other = trained.setdefault((method, METHODS[method].row(architecture)), name)
            if other != name:
                raise UsageError(f"--methods {','.join(self.methods)}: {other} and {name} are the same training")
        self.evaluate.check()

    def run(self, name: str, number: int) -> PretrainConfig:
        """The training of a method, `NAME` or `NAME+ARCHITECTURE`, with one of the seeds.

        Raises:
            UsageError: a method with a fixed network that none was named for.
        """
        method, architecture = parts_of(name)
        seed = self.pretrain.seed + number
        kind = METHODS[method].loss_network if method in METHODS else None
        network = next((spec for spec in self.loss_networks if kind and spec.startswith(f"{kind}:")), None)
        if kind and network is None:
            raise UsageError(f"--methods {method}: needs a network, --loss-networks {kind}:...")
        return replace(
            self.pretrain,
            method=method,
            architecture=architecture,
            loss_network=network,
            seed=seed,
            out=f"{self.out}/runs/{name}-seed{seed}",
        )
