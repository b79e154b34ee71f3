"""`ModelDirectoryIOManager`: directories of safetensors, GGUF files or bundle documents."""

from pathlib import Path
from typing import Any

from forge_pipeline.errors import IntegrityError
from forge_pipeline.integrity import DirectoryArtifact
from resources.io_managers.base import ForgeIOManager, check_type

_PICKLES = (".bin", ".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib")


class ModelDirectoryIOManager(ForgeIOManager):
    """Publishes a finished directory atomically under its digest. Pickled weights are refused."""

    def write(self, value: Any, directory: Path) -> Path:
        check_type(type(value), (DirectoryArtifact,), "ModelDirectoryIOManager")
        for file in value.path.rglob("*"):
            if file.suffix in _PICKLES:
                raise IntegrityError(
                    f"{file.name} is a pickle, which can run code when it is read; save safetensors instead"
                )
        return Path(value.path)

    def read(self, directory: Path, expected: type[DirectoryArtifact]) -> Any:
        check_type(expected, (DirectoryArtifact,), "ModelDirectoryIOManager")
        return expected.open(directory)
