"""Figures from datasheets, and the nodes that the shipped uncalibrated profiles describe.

FP32 without tensor cores, as PyTorch computes by default; memory in 10^9 bytes as sold; PCIe per
direction, after line coding. Where makers give NVLink as the sum of both directions, half of it.
"""

from __future__ import annotations

from dataclasses import dataclass

_PCIE_BYTES_PER_S = {3: 15_750_000_000, 4: 31_500_000_000, 5: 63_000_000_000}
"""Sixteen lanes at 8, 16 and 32 GT/s, 128 bits in 130."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU."""

    tflops: float
    memory_gb: int
    memory_gb_per_s: int
    pcie: int
    """Generation of its sixteen lanes."""
    peer_to_peer: bool = True
    """Whether its driver lets other GPUs copy to it over PCIe."""
    source: str

    @property
    def flops_per_s(self) -> float:
        """Peak in FP32."""
        return self.tflops * 1e12

    @property
    def memory_bytes(self) -> int:
        """Size of its memory."""
        return self.memory_gb * 10**9

    @property
    def memory_bytes_per_s(self) -> float:
        """Bandwidth of its memory."""
        return self.memory_gb_per_s * 1e9

    @property
    def pcie_bytes_per_s(self) -> int:
        """Bandwidth of its slot in each direction."""
        return _PCIE_BYTES_PER_S[self.pcie]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """One core of a processor."""

    ghz: float
    """Base clock."""
    flops_per_cycle: int
    """FP32: two fused multiply-adds per cycle, of 8 numbers (AVX2) or 16 (AVX-512)."""
    source: str

    @property
    def flops_per_s(self) -> float:
        """Peak in FP32."""
        return self.ghz * 1e9 * self.flops_per_cycle


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One machine: a core that drives and computes, and GPUs."""

    cpu: str
    gpus: tuple[str, ...]
    nvlinked: tuple[int, ...] = ()
    """GPUs that NVLink joins, each with each."""
    nvlink_bytes_per_s: int = 0
    """Of one such pair, in each direction."""
    nvlink_source: str = ""


GPUS = {
    "GeForce GTX 1080 Ti": Gpu(
        tflops=11.3,  # 3584 cores · 1582 MHz · 2
        memory_gb=11,
        memory_gb_per_s=484,
        pcie=3,
        source="NVIDIA GeForce GTX 1080 Ti, product specifications (2017)",
    ),
    "T4": Gpu(
        tflops=8.1,
        memory_gb=16,
        memory_gb_per_s=320,
        pcie=3,
        source="NVIDIA T4 Tensor Core GPU, datasheet (2019)",
    ),
    "V100 SXM2": Gpu(
        tflops=15.7,
        memory_gb=16,
        memory_gb_per_s=900,
        pcie=3,
        source="NVIDIA V100 Tensor Core GPU, datasheet (2020)",
    ),
    "A100 SXM4 40GB": Gpu(
        tflops=19.5,
        memory_gb=40,
        memory_gb_per_s=1555,
        pcie=4,
        source="NVIDIA A100 Tensor Core GPU, datasheet (2020)",
    ),
    "A100 PCIe 40GB": Gpu(
        tflops=19.5,
        memory_gb=40,
        memory_gb_per_s=1555,
        pcie=4,
        source="NVIDIA A100 Tensor Core GPU, datasheet (2020)",
    ),
    "GeForce RTX 4090": Gpu(
        tflops=82.6,
        memory_gb=24,
        memory_gb_per_s=1008,
        pcie=4,
        peer_to_peer=False,
        source="NVIDIA Ada GPU architecture, whitepaper (2022)",
    ),
    "H100 SXM5": Gpu(
        tflops=67.0,
        memory_gb=80,
        memory_gb_per_s=3350,
        pcie=5,
        source="NVIDIA H100 Tensor Core GPU, datasheet (2023)",
    ),
    "H100 PCIe": Gpu(
        tflops=51.0,
        memory_gb=80,
        memory_gb_per_s=2000,
        pcie=5,
        source="NVIDIA H100 PCIe GPU, product brief (2022), and datasheet",
    ),
    "H200 SXM5": Gpu(
        tflops=67.0,
        memory_gb=141,
        memory_gb_per_s=4800,
        pcie=5,
        source="NVIDIA H200 Tensor Core GPU, datasheet (2024)",
    ),
}
"""By name."""

CPUS = {
    "Xeon E5-2620 v4": Cpu(
        ghz=2.1, flops_per_cycle=32, source="Intel product specifications; Broadwell, AVX2"
    ),
    "Xeon Gold 6148": Cpu(
        ghz=2.4, flops_per_cycle=64, source="Intel product specifications; Skylake, AVX-512"
    ),
    "EPYC 7742": Cpu(ghz=2.25, flops_per_cycle=32, source="AMD product specifications; Zen 2"),
    "Core i9-13900K": Cpu(
        ghz=3.0, flops_per_cycle=32, source="Intel product specifications; Raptor Lake, AVX2"
    ),
    "Xeon Platinum 8480+": Cpu(
        ghz=2.0, flops_per_cycle=64, source="Intel product specifications; Sapphire Rapids, AVX-512"
    ),
}
"""By name."""

NODES = {
    "gtx1080ti-t4": Node(cpu="Xeon E5-2620 v4", gpus=("GeForce GTX 1080 Ti", "T4")),
    "rtx4090-gtx1080ti": Node(
        cpu="Core i9-13900K", gpus=("GeForce RTX 4090", "GeForce GTX 1080 Ti")
    ),
    "2v100-t4": Node(
        cpu="Xeon Gold 6148",
        gpus=("V100 SXM2", "V100 SXM2", "T4"),
        nvlinked=(0, 1),
        nvlink_bytes_per_s=50_000_000_000,
        nvlink_source="NVIDIA DGX-1 with V100: two links of 25 GB/s per direction in such a pair",
    ),
    "2a100": Node(
        cpu="EPYC 7742",
        gpus=("A100 SXM4 40GB", "A100 SXM4 40GB"),
        nvlinked=(0, 1),
        nvlink_bytes_per_s=300_000_000_000,
        nvlink_source="NVIDIA A100, datasheet: 600 GB/s in both directions",
    ),
    "h100-a100": Node(cpu="Xeon Platinum 8480+", gpus=("H100 PCIe", "A100 PCIe 40GB")),
    "2h100": Node(
        cpu="Xeon Platinum 8480+",
        gpus=("H100 SXM5", "H100 SXM5"),
        nvlinked=(0, 1),
        nvlink_bytes_per_s=450_000_000_000,
        nvlink_source="NVIDIA H100, datasheet: 900 GB/s in both directions",
    ),
    "2h200": Node(
        cpu="Xeon Platinum 8480+",
        gpus=("H200 SXM5", "H200 SXM5"),
        nvlinked=(0, 1),
        nvlink_bytes_per_s=450_000_000_000,
        nvlink_source="NVIDIA H200, datasheet: 900 GB/s in both directions",
    ),
}
"""By the name of the profile, without `datasheet-`."""
