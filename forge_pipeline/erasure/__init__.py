"""A person's data: where it is (GDPR 15), and how it goes (GDPR 17); what is kept no longer than it may be.

`find_subject` looks through everything a deployment holds; `erase` takes a person's rows out of it and names the
models that were made from them; `check_not_trained_on_erased` keeps those from being released; `DenyList` knows
erased people again without knowing who they are; `purge` acts on retention periods.
"""

from forge_pipeline.erasure.deny_list import DenyList
from forge_pipeline.erasure.erase import ErasureResult, erase, resume
from forge_pipeline.erasure.identifier import Subject
from forge_pipeline.erasure.places import Places
from forge_pipeline.erasure.register import (
    ErasedData,
    check_not_trained_on_erased,
    erased_behind,
    explanation,
    read_register,
)
from forge_pipeline.erasure.retention import RetentionReport, check_retention, purge, review
from forge_pipeline.erasure.search import Hit, SubjectReport, find_subject
from forge_pipeline.erasure.tombstone import TOMBSTONE_FILE, Tombstone, read_tombstone

__all__ = [
    "TOMBSTONE_FILE",
    "DenyList",
    "ErasedData",
    "ErasureResult",
    "Hit",
    "Places",
    "RetentionReport",
    "Subject",
    "SubjectReport",
    "Tombstone",
    "check_not_trained_on_erased",
    "check_retention",
    "erase",
    "erased_behind",
    "explanation",
    "find_subject",
    "purge",
    "read_register",
    "read_tombstone",
    "resume",
    "review",
]
