"""What a process takes besides its tensors, by device: the constants, where they come from, how far off they are.

On a CPU: the libraries' own pages, and the share by which the heap, which keeps what is freed, holds more than lives
in it. Both are fitted by `benchmarks.fit_check` on half of its cases, and the error is that of the other half. On CUDA
they are assumptions, said to be so: no measurement has been made there yet.
"""

from dataclasses import dataclass

from forge_pipeline.models.devices import Device


@dataclass(frozen=True)
class Calibration:
    """Overhead is `process` bytes, and `slack` times what is allocated and freed again and again.

    Attributes:
        statement: How far predictions were from measured peaks, in words.
    """

    process: int
    slack: float
    statement: str

    def overhead(self, transient: int) -> int:
        """Bytes beyond the tensors, of which `transient` are activations, logits and gradients."""
        return round(self.process + self.slack * transient)


CALIBRATIONS: dict[Device, Calibration] = {
    "cpu": Calibration(
        process=493_000_000,
        slack=0.637,
        statement="on a CPU, median 4 %, worst 23 % (gradient checkpointing) over 8 measured fine-tunes that the "
        "constants were not fitted on, worst 15 % over the 8 they were (docs/benchmarks/fit-check.md)",
    ),
    "cuda": Calibration(
        process=1_000_000_000,
        slack=0.08,
        statement="not measured on a GPU yet; 1 GB for the CUDA context and its libraries and 8 % for the caching "
        "allocator's rounding to 2 MiB blocks are assumptions",
    ),
    "mps": Calibration(
        process=1_000_000_000,
        slack=0.3,
        statement="not measured on an Apple GPU; the CPU's constants are assumed",
    ),
}
