"""Keys, a model directory, and the synthetic line of which everything is stated."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from forge_pipeline.annex_iv import BundleInputs
from forge_pipeline.annex_iv.example import example_inputs
from forge_pipeline.attestation import SigningKeys
from forge_pipeline.integrity import Manifest


@pytest.fixture(scope="session")
def ed25519() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture(scope="session")
def p256() -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(20261121, ec.SECP256R1())


@pytest.fixture(scope="session")
def keys(ed25519: Ed25519PrivateKey, p256: ec.EllipticCurvePrivateKey) -> SigningKeys:
    return SigningKeys(ed25519, p256)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model directory with a folder in it, and names that sort differently as paths and as text."""
    folder = tmp_path / "model"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "b.txt").write_text("one")
    (folder / "a.txt").write_text("two")
    (folder / "model.safetensors").write_bytes(bytes(100))
    return folder


@pytest.fixture
def manifest(model: Path) -> Manifest:
    return Manifest.of_directory(model)


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> BundleInputs:
    return example_inputs(tmp_path_factory.mktemp("line"))
