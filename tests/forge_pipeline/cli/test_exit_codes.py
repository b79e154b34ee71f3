"""One exit code for each class of error."""

import pytest

from forge_pipeline import errors
from forge_pipeline.cli.exit_codes import exit_code_of

EXPECTED = {
    errors.ConfigError: 1,
    errors.DataError: 1,
    errors.ModelError: 1,
    errors.OptionalDependencyError: 1,
    errors.TrainingError: 2,
    errors.EvaluationError: 2,
    errors.ExportError: 2,
    errors.EvidenceError: 2,
    errors.StoreError: 2,
    errors.WebhookError: 2,
    errors.ForgeError: 2,
    errors.GateFailedError: 3,
    errors.AwaitingApprovalError: 4,
    errors.CancelledError: 5,
    errors.IntegrityError: 6,
    FileNotFoundError: 1,
    FileExistsError: 1,
    PermissionError: 2,
    ValueError: 2,
    MemoryError: 2,
    ZeroDivisionError: 2,
    KeyboardInterrupt: 5,
}


@pytest.mark.parametrize("kind", EXPECTED, ids=lambda kind: kind.__name__)
def test_the_table(kind: type[BaseException]) -> None:
    assert exit_code_of(kind("for the test")) == EXPECTED[kind]


def test_every_error_of_the_library_is_in_this_test() -> None:
    ours = {each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.ForgeError)}
    assert ours <= set(EXPECTED)


def test_a_subclass_has_the_code_of_its_nearest_parent() -> None:
    class Narrower(errors.GateFailedError):
        pass

    assert exit_code_of(Narrower("x")) == 3
