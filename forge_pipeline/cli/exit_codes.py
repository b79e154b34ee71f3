"""Exception class -> exit code: one table, and nothing parses a message.

0  success
1  the recipe, an argument or an input is wrong, or an extra is not installed: nothing was started
2  something went wrong while it ran
3  a gate failed, or was not evaluated and guards what was asked for
4  complete but for approvals by people
5  cancelled
6  bytes differ from the digest recorded for them
"""

from forge_pipeline.errors import (
    AwaitingApprovalError,
    CancelledError,
    ConfigError,
    DataError,
    EvidenceError,
    ForgeError,
    GateFailedError,
    IntegrityError,
    ModelError,
    OptionalDependencyError,
    StoreError,
)

SUCCESS, WRONG_INPUT, RUNTIME, GATE_FAILED, AWAITING_APPROVAL, CANCELLED, INTEGRITY = range(7)

EXIT_CODES: dict[type[BaseException], int] = {
    ConfigError: WRONG_INPUT,
    DataError: WRONG_INPUT,
    ModelError: WRONG_INPUT,
    OptionalDependencyError: WRONG_INPUT,
    FileNotFoundError: WRONG_INPUT,
    FileExistsError: WRONG_INPUT,
    NotADirectoryError: WRONG_INPUT,
    IsADirectoryError: WRONG_INPUT,
    EvidenceError: RUNTIME,
    StoreError: RUNTIME,
    ForgeError: RUNTIME,
    GateFailedError: GATE_FAILED,
    AwaitingApprovalError: AWAITING_APPROVAL,
    CancelledError: CANCELLED,
    KeyboardInterrupt: CANCELLED,
    IntegrityError: INTEGRITY,
    BaseException: RUNTIME,
}


def exit_code_of(error: BaseException) -> int:
    """The code of the nearest class in the table, along the error's class hierarchy."""
    return next(EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES)
