"""Keys: which are taken, and what is said of the others."""

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from forge_pipeline.attestation import SigningKeys, key_id, load_signing_key, load_verification_key
from forge_pipeline.errors import ConfigError

PKCS8, PEM = serialization.PrivateFormat.PKCS8, serialization.Encoding.PEM


def pem(folder: Path, key: object, password: bytes | None = None) -> Path:
    cipher = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    path = folder / "key.pem"
    path.write_bytes(key.private_bytes(PEM, PKCS8, cipher))  # type: ignore[attr-defined]
    return path


def test_both_keys_come_from_the_environment(
    tmp_path: Path, ed25519: Ed25519PrivateKey, p256: ec.EllipticCurvePrivateKey
) -> None:
    (tmp_path / "ed").mkdir()
    variables = {
        "FORGE_AUDIT_SIGNING_KEY": str(pem(tmp_path / "ed", ed25519)),
        "FORGE_MODEL_SIGNING_KEY": str(pem(tmp_path, p256)),
    }
    found = SigningKeys.from_environment(variables)
    assert found.statements is not None
    assert found.model is not None
    assert (key_id(found.statements), key_id(found.model)) == (key_id(ed25519), key_id(p256))


def test_without_variables_there_are_no_keys() -> None:
    assert SigningKeys.from_environment({}) == SigningKeys(None, None)


def test_a_key_that_is_not_there_names_variable_and_command(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"FORGE_MODEL_SIGNING_KEY: .*no.pem.*openssl ecparam"):
        SigningKeys.from_environment({"FORGE_MODEL_SIGNING_KEY": str(tmp_path / "no.pem")})


def test_an_ed25519_key_does_not_sign_models(tmp_path: Path, ed25519: Ed25519PrivateKey) -> None:
    with pytest.raises(ConfigError, match="which model-signing does not verify"):
        SigningKeys.from_environment({"FORGE_MODEL_SIGNING_KEY": str(pem(tmp_path, ed25519))})


REFUSED = {
    "RSA": (rsa.generate_private_key(65537, 2048), None, "RSA"),
    "another curve": (ec.generate_private_key(ec.SECP384R1()), None, "EC secp384r1; expected Ed25519 or EC P-256"),
    "a passphrase": (Ed25519PrivateKey.generate(), b"secret", "passphrase"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_another_key_is_refused(case: str, tmp_path: Path) -> None:
    key, password, words = REFUSED[case]
    with pytest.raises(ValueError, match=words):
        load_signing_key(pem(tmp_path, key, password))


def test_a_public_key_is_read_from_text_path_and_itself(tmp_path: Path, p256: ec.EllipticCurvePrivateKey) -> None:
    text = p256.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "public.pem").write_bytes(text)
    forms = (p256.public_key(), text, text.decode(), tmp_path / "public.pem")
    assert {key_id(load_verification_key(form)) for form in forms} == {key_id(p256)}


def test_the_key_id_is_what_openssl_computes(tmp_path: Path, ed25519: Ed25519PrivateKey) -> None:
    command = f"openssl pkey -in {pem(tmp_path, ed25519)} -pubout -outform DER | openssl dgst -sha256 -r"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    if done.returncode:
        pytest.skip("openssl is not installed")
    assert key_id(ed25519).hex == done.stdout.split()[0]
