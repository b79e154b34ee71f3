"""Every exception this library raises on purpose.

Each class also inherits the standard-library class it refines, so callers may
catch either, and each is picklable, because stages run in child processes.
Exit codes, HTTP status codes and Dagster failures are tables keyed by these
classes; nothing parses a message.

    ForgeError
      ConfigError              (ValueError)    a recipe or setting is wrong; the file, key and fix are named
      DataError                (ValueError)    a dataset cannot be used as asked; file and line are named
      ModelError               (ValueError)    a base model, adapter or tokenizer cannot be used as asked
      OptionalDependencyError  (ImportError)   an extra is not installed; the pip line is named
      TrainingError            (RuntimeError)  training stopped: divergence, out of memory, a failed step
      EvaluationError          (RuntimeError)  a benchmark or safety run could not be carried out
      ExportError              (RuntimeError)  a GGUF or merged model could not be written
      GateFailedError          (RuntimeError)  a gate that guards this stage did not pass
      AwaitingApprovalError    (RuntimeError)  a release needs approvals that are not there yet
      CancelledError           (RuntimeError)  somebody asked this run to stop
      IntegrityError           (ValueError)    bytes differ from the digest that was recorded for them
      EvidenceError            (OSError)       evidence could not be written; the stage must fail
      StoreError               (OSError)       an artefact could not be stored or found
      WebhookError             (OSError)       a notification could not be delivered
"""


class ForgeError(Exception):
    """Root of every deliberate error; `str(error)` is written for the person who must act."""


class ConfigError(ForgeError, ValueError):
    """A recipe, setting or argument is wrong. The message names file, key, value and fix."""


class DataError(ForgeError, ValueError):
    """A dataset cannot be used as asked. The message names the file and, where there is one, the line."""


class ModelError(ForgeError, ValueError):
    """A base model, adapter or tokenizer is absent or unfit for what was asked of it."""


class OptionalDependencyError(ForgeError, ImportError):
    """A feature needs an extra that is not installed. The message holds the pip line to type."""


class TrainingError(ForgeError, RuntimeError):
    """Training stopped before its end: divergence, out of memory, or a failed step."""


class EvaluationError(ForgeError, RuntimeError):
    """A benchmark or safety evaluation could not be carried out."""


class ExportError(ForgeError, RuntimeError):
    """A merged model or GGUF file could not be written, or its architecture is not supported."""


class GateFailedError(ForgeError, RuntimeError):
    """A gate that guards this stage failed or was not evaluated. Nothing is deleted."""


class AwaitingApprovalError(ForgeError, RuntimeError):
    """A release is complete but for approvals by people."""


class CancelledError(ForgeError, RuntimeError):
    """The run was asked to stop and did."""


class IntegrityError(ForgeError, ValueError):
    """Bytes differ from the digest recorded for them. Expected and actual digests are named."""


class EvidenceError(ForgeError, OSError):
    """Evidence could not be written; the stage that owed it has failed."""


class StoreError(ForgeError, OSError):
    """An artefact could not be stored, or is not where the record says it is."""


class WebhookError(ForgeError, OSError):
    """A notification was refused or could not be delivered."""
