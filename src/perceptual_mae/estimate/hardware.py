"""GPUs as data, from their makers' data sheets. Imports no torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """A row of the table.

    Attributes:
        title: for people.
        bf16: dense matrix products with sums in fp32, in TFLOP/s. (Sheets that boast of sparsity say twice as much.)
        fp32: products that are not on tensor cores, in TFLOP/s.
        memory: GB, read as 10^9 bytes: the lower reading, as sheets do not say which.
        bandwidth: of its memory, in GB/s.
        link: to the other GPUs of its machine, in GB/s one way (sheets give both ways together).
        source: where these numbers are from.
    """

    title: str
    bf16: float
    fp32: float
    memory: float
    bandwidth: float
    link: float
    source: str

    def rate(self, precision: str) -> float:
        """Floating-point operations per second at best, of a run in `fp32` or `bf16`."""
        return (self.bf16 if precision == "bf16" else self.fp32) * 1e12


PCIE4, PCIE5 = 32.0, 64.0
"""GB/s one way of 16 lanes (PCI Express Base Specification, revisions 4.0 and 5.0)."""
_SPARSE = "; half of what it says with sparsity"
_A100 = "NVIDIA A100 Tensor Core GPU datasheet (2022), SXM"
_H100 = f"NVIDIA H100 Tensor Core GPU datasheet (2023){_SPARSE}"
_H200 = f"NVIDIA H200 Tensor Core GPU datasheet (2024), SXM{_SPARSE}"
_B200 = f"NVIDIA DGX B200 datasheet (2024): an eighth of the machine{_SPARSE}"
_ADA = "NVIDIA Ada GPU architecture whitepaper v2.01, appendix A: products with sums in fp32"
_GA102 = "NVIDIA Ampere GA102 GPU architecture whitepaper v2.1, appendix A: products with sums in fp32"

GPUS: dict[str, Gpu] = {
    # TFLOP/s in bf16 and fp32, GB, GB/s of the memory, GB/s of the link
    "b200": Gpu("NVIDIA B200", 2250, 75, 180, 8000, 900, _B200),
    "h200": Gpu("NVIDIA H200 SXM", 989, 67, 141, 4800, 450, _H200),
    "h100": Gpu("NVIDIA H100 SXM", 989, 67, 80, 3350, 450, _H100),
    "h100-pcie": Gpu("NVIDIA H100 PCIe", 756, 51, 80, 2000, PCIE5, _H100),
    "a100-80": Gpu("NVIDIA A100 80GB SXM", 312, 19.5, 80, 2039, 300, _A100),
    "a100-40": Gpu("NVIDIA A100 40GB SXM", 312, 19.5, 40, 1555, 300, _A100),
    "l40s": Gpu("NVIDIA L40S", 362, 91.6, 48, 864, PCIE4, f"NVIDIA L40S datasheet (2023){_SPARSE}"),
    "l4": Gpu("NVIDIA L4", 121, 30.3, 24, 300, PCIE4, f"NVIDIA L4 datasheet (2023){_SPARSE}"),
    "rtx4090": Gpu("NVIDIA GeForce RTX 4090", 165.2, 82.6, 24, 1008, PCIE4, _ADA),
    "rtx3090": Gpu("NVIDIA GeForce RTX 3090", 71, 35.6, 24, 936, PCIE4, _GA102),
}
"""By the name that `--gpu` takes."""

USABLE = 0.92
"""Share of a GPU's memory that tensors can fill (assumed): the rest is what the allocator cannot give in one piece."""
USABLE_CPU = 0.7
"""The same on a CPU: what tensors take is counted to 10 % (`tests/estimate/test_account.py`), but by glibc's defaults
a process held 1.07 (`mse`) to 1.43 (`stylegan2-ada-p`) times as much, of `micro` and 128 images of 64 pixels."""
CONTEXT = 1e9
"""Bytes that CUDA, its libraries and their workspaces take beside tensors (assumed; 0.5 to 1.5 GB are usual)."""
SHARE = (0.2, 0.5)
"""Share of the peak rate of matrix products that a step reaches by itself on a GPU (assumed). Published of whole steps
of large transformers: 0.46 (PaLM, arXiv 2204.02311, table 3), 0.55 (ViT-22B, arXiv 2302.05442, section 3)."""
SHARE_CPU = (0.3, 0.9)
"""The same on a CPU (assumed); README, "Speed", has 0.58 to 0.91 on one."""
UNCACHED = (0.5, 1.0)
"""Share of the bytes that operations read and write which reach the memory (assumed): caches hold some."""
LAUNCH = (2e-6, 6e-6)
"""Seconds that PyTorch and CUDA need to start an operation (assumed): steps of small models take nothing else."""
LINK_SHARE = (0.4, 0.8)
"""Share of a link's rate that gradients reach (assumed)."""
