"""Statements that other people's tools read, about what was made from what, and signatures over them.

    statement, Statement       in-toto Statement v1: these bytes, and one kind of claim about them
    provenance                 the claim "made so": SLSA provenance v1, from a materialization record
    envelope, verify           DSSE: the statement's bytes with a signature around them
    model_statement,           OpenSSF Model Signing v1.0: every file of a model directory,
    model_signature              in a Sigstore bundle that the `model-signing` tool verifies
    ml_bom                     CycloneDX 1.6: the model, its card, its data, its base model, its libraries
    bundle_files, attested,    all of these as files of a bundle, what was signed among them,
      verify_files               and whether it still holds

A statement without a signature is evidence and no attestation; it is written as
``*.statement.json``, never as an envelope, and the index says so. The key is the operator's
own: the statements say what the pipeline recorded, they do not protect against its operator.
"""

from forge_pipeline.attestation.dsse import IN_TOTO_PAYLOAD, envelope, verify
from forge_pipeline.attestation.files import INDEX_NAME, FilesResult, attested, bundle_files, verify_files
from forge_pipeline.attestation.ml_bom import ml_bom
from forge_pipeline.attestation.model_facts import Considerations, DatasetFacts, FileFacts, Metric, ModelFacts
from forge_pipeline.attestation.model_signature import (
    MODEL_SIGNATURE_PREDICATE,
    model_signature,
    model_statement,
    verify_model_signature,
)
from forge_pipeline.attestation.packages import Package, installed_packages, licensed, packages_digest
from forge_pipeline.attestation.provenance import PROVENANCE_PREDICATE, provenance, seeds
from forge_pipeline.attestation.signing import (
    MODEL_KEY_VARIABLE,
    SigningKeys,
    key_id,
    load_signing_key,
    load_verification_key,
)
from forge_pipeline.attestation.statement import STATEMENT_TYPE, Statement, Subject, statement, subjects_of

__all__ = [
    "INDEX_NAME",
    "IN_TOTO_PAYLOAD",
    "MODEL_KEY_VARIABLE",
    "MODEL_SIGNATURE_PREDICATE",
    "PROVENANCE_PREDICATE",
    "STATEMENT_TYPE",
    "Considerations",
    "DatasetFacts",
    "FileFacts",
    "FilesResult",
    "Metric",
    "ModelFacts",
    "Package",
    "SigningKeys",
    "Statement",
    "Subject",
    "attested",
    "bundle_files",
    "envelope",
    "installed_packages",
    "key_id",
    "licensed",
    "load_signing_key",
    "load_verification_key",
    "ml_bom",
    "model_signature",
    "model_statement",
    "packages_digest",
    "provenance",
    "seeds",
    "statement",
    "subjects_of",
    "verify",
    "verify_files",
    "verify_model_signature",
]
