"""What a call of the API can end in.

ForgeApiError              the server answered, and refused or failed
  ForgeUnreachableError    no answer: nobody listens, the connection broke, or it took too long
"""

from forge_pipeline.errors import ForgeError


class ForgeApiError(ForgeError, RuntimeError):
    """The error envelope of the API.

    Attributes:
        status_code: HTTP status; 0 where there was no answer.
        error: The status in words.
        detail: What was found, what was expected, what to do.
        request_id: Under which the server's log has the request.
        retry_after: Seconds after which asking again may help, where the server says so.
    """

    def __init__(
        self,
        status_code: int,
        error: str,
        detail: str,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(status_code, error, detail, request_id, retry_after)  # all of it, so that it can be pickled
        self.status_code, self.error, self.detail = status_code, error, detail
        self.request_id, self.retry_after = request_id, retry_after

    def __str__(self) -> str:
        return f"{self.status_code} {self.error}: {self.detail}" if self.status_code else self.detail


class ForgeUnreachableError(ForgeApiError, ConnectionError):
    """There was no answer."""
