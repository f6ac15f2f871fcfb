"""Every request of the wire as data: what is sent where, and how long an answer may take. No I/O."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from pydantic import BaseModel, ValidationError

from faas.errors import ProtocolError, invalid
from faas.types import (
    CellOrigin,
    ExecuteInput,
    ExecutionCreate,
    OneShotBatch,
    OneShotCreate,
    RewindInput,
    RunInput,
)

__all__ = ["Call", "check", "json_body", "new_request_id", "parse", "url_of"]

API = "/api/v1"
JSON = "application/json"
EVENTS = "text/event-stream"
BYTES = "application/octet-stream"
TAR = "application/x-tar"
VALUE = "application/vnd.faas.value"

CONNECT_TIMEOUT_S = 5.0
WRITE_TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 30.0
#: The gateway writes at least a comment every 10 s, so this much silence means that it is gone.
SILENCE_TIMEOUT_S = 30.0
#: On top of the time that code may take: queueing, starting, sending the result.
MARGIN_S = 30.0
#: A first use builds the environment, which may download packages.
BUILD_MARGIN_S = 1800.0
#: How long a result is waited for at one go where no limit of the code is known; then it is asked for again.
UNLIMITED_WAIT_S = 300.0
RESULT_WAIT_S = 20.0
#: The gateway waits for a running cell before it looks at variables, and gives up by itself before this.
VARIABLES_TIMEOUT_S = 120.0
#: On top of the time that code may go on before it is snapshotted: a session of many GB, on a busy machine.
SNAPSHOT_MARGIN_S = 120.0
INTERRUPT_TIMEOUT_S = 5.0
PAGE_SIZE = 100

Body = bytes | Callable[[], Iterator[bytes]]
_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True)
class Call:
    """One request. `body` as a function is called anew for each attempt, so that a retry sends all of it."""

    method: str
    url: str
    body: Body | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    read_timeout_s: float = ANSWER_TIMEOUT_S
    """Longest silence while the answer is awaited or read, seconds."""
    connect_timeout_s: float = CONNECT_TIMEOUT_S

    @property
    def idempotent(self) -> bool:
        """Whether sending it twice does what sending it once does."""
        return self.method != "POST"

    @property
    def path(self) -> str:
        """The URL for logs: without the query."""
        return self.url.partition("?")[0]


def new_request_id() -> str:
    """An id for a request, chosen here so that it can be interrupted before its answer is there."""
    return uuid.uuid4().hex


def parse(model: type[_Model], content: bytes) -> _Model:
    """An answer's body as its model.

    Raises:
        ProtocolError: it is something else.
    """
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise ProtocolError(
            f"The gateway's answer is no {model.__name__}: {_first(error)}",
            hint="check that the endpoint is a FaaS gateway of this version",
        ) from error


def health() -> Call:
    return Call("GET", "/healthz", headers={"Accept": JSON})


def list_environments(cursor: str | None) -> Call:
    return Call("GET", url_of(API, "environments", cursor=cursor), headers={"Accept": JSON})


def get_environment(name: str) -> Call:
    return Call("GET", url_of(API, "environments", name), headers={"Accept": JSON})


def create_execution(**fields: Any) -> Call:
    """As events: their pings prove that the gateway lives while it builds an environment for minutes."""
    return Call(
        "POST",
        url_of(API, "executions"),
        json_body(ExecutionCreate, fields),
        {"Content-Type": JSON, "Accept": EVENTS},
        SILENCE_TIMEOUT_S,
    )


def get_execution(id_or_name: str) -> Call:
    return Call("GET", _execution(id_or_name), headers={"Accept": JSON})


def list_executions(
    status: str | None, environment: str | None, label: str | None, limit: int, cursor: str | None
) -> Call:
    url = url_of(
        API,
        "executions",
        status=status,
        environment=environment,
        label=label,
        limit=str(limit),
        cursor=cursor,
    )
    return Call("GET", url, headers={"Accept": JSON})


def cancel_execution(id_or_name: str) -> Call:
    return Call("DELETE", _execution(id_or_name), headers={"Accept": JSON})


def execute(
    execution: str,
    code: str,
    *,
    timeout: float | None,
    request_id: str,
    cell: CellOrigin | None,
    stream: bool,
    limit_s: float | None = None,
) -> Call:
    """`limit_s` is the execution's own limit of one request's wall time, for when `timeout` is not given."""
    fields = {"code": code, "timeout": timeout, "request_id": request_id, "cell": cell}
    body = json_body(ExecuteInput, fields)
    allowed = timeout if timeout is not None else limit_s
    wait = UNLIMITED_WAIT_S if allowed is None else allowed + MARGIN_S
    return _code_call(_execution(execution, "execute"), body, stream, wait)


def run(execution: str, *, stream: bool, **fields: Any) -> Call:
    body = json_body(RunInput, fields)
    return _code_call(_execution(execution, "run"), body, stream, fields["timeout"] + MARGIN_S)


def one_shot(*, stream: bool, **fields: Any) -> Call:
    body = json_body(OneShotCreate, fields)
    return _code_call(url_of(API, "execute"), body, stream, fields["timeout"] + BUILD_MARGIN_S)


def batch(requests: Sequence[Mapping[str, Any]]) -> Call:
    """One answer for all of them. How many run at a time is the gateway's affair: one at least."""
    checked = check(OneShotBatch, {"requests": list(requests)})
    body = checked.model_dump_json(exclude_none=True).encode()
    wait_s = sum(request.timeout for request in checked.requests)
    headers = {"Content-Type": JSON, "Accept": JSON}
    return Call("POST", url_of(API, "executions", "batch"), body, headers, wait_s + BUILD_MARGIN_S)


def rewind(execution: str, request_id: str, timeout: float) -> Call:
    body = json_body(RewindInput, {"request_id": request_id, "timeout": timeout})
    headers = {"Content-Type": JSON, "Accept": JSON}
    return Call("POST", _execution(execution, "rewind"), body, headers, timeout + SNAPSHOT_MARGIN_S)


def result(execution: str, request_id: str) -> Call:
    """Waits for the result on the gateway; RequestRunningError when it is not there by then."""
    url = _execution(execution, "requests", request_id, wait=f"{RESULT_WAIT_S:g}")
    return Call("GET", url, headers={"Accept": JSON}, read_timeout_s=RESULT_WAIT_S + MARGIN_S)


def interrupt(execution: str, request_id: str) -> Call:
    return Call(
        "DELETE",
        _execution(execution, "requests", request_id),
        headers={"Accept": JSON},
        read_timeout_s=INTERRUPT_TIMEOUT_S,
    )


def events(execution: str, request_id: str, last_id: int | None) -> Call:
    """The output from its start, or what comes after the event `last_id`."""
    headers = {"Accept": EVENTS}
    if last_id is not None:
        headers["Last-Event-ID"] = str(last_id)
    url = _execution(execution, "requests", request_id, "events")
    return Call("GET", url, headers=headers, read_timeout_s=SILENCE_TIMEOUT_S)


def list_variables(execution: str) -> Call:
    url = _execution(execution, "variables")
    return Call("GET", url, headers={"Accept": JSON}, read_timeout_s=VARIABLES_TIMEOUT_S)


def pull_variable(execution: str, name: str) -> Call:
    url = _execution(execution, "variables", _variable(name))
    return Call("GET", url, headers={"Accept": VALUE}, read_timeout_s=VARIABLES_TIMEOUT_S)


def push_variable(execution: str, name: str, body: Body) -> Call:
    url = _execution(execution, "variables", _variable(name))
    return Call("PUT", url, body, {"Content-Type": VALUE}, VARIABLES_TIMEOUT_S)


def read_file(execution: str, path: str) -> Call:
    return Call("GET", _file(execution, path), headers={"Accept": "*/*"}, read_timeout_s=VARIABLES_TIMEOUT_S)


def list_files(execution: str, path: str) -> Call:
    return Call("GET", _file(execution, path) + "?list=true", headers={"Accept": JSON})


def write_file(execution: str, path: str, body: Body, *, tar: bool = False) -> Call:
    headers = {"Content-Type": TAR if tar else BYTES}
    return Call("PUT", _file(execution, path), body, headers, VARIABLES_TIMEOUT_S)


def delete_file(execution: str, path: str) -> Call:
    return Call("DELETE", _file(execution, path), read_timeout_s=VARIABLES_TIMEOUT_S)


def _code_call(url: str, body: bytes, stream: bool, wait_s: float) -> Call:
    if stream:
        return Call(
            "POST",
            url + "?stream=true",
            body,
            {"Content-Type": JSON, "Accept": EVENTS},
            SILENCE_TIMEOUT_S,
        )
    return Call("POST", url, body, {"Content-Type": JSON, "Accept": JSON}, wait_s)


def json_body(model: type[BaseModel], fields: Mapping[str, Any]) -> bytes:
    """The body, checked by the gateway's own model: an impossible value never leaves this process."""
    return check(model, fields).model_dump_json(exclude_none=True).encode()


def check(model: type[_Model], fields: Mapping[str, Any]) -> _Model:
    """Fields as their model; those that are None are left out.

    Raises:
        InvalidRequestError: a value that no gateway takes.
    """
    try:
        return model.model_validate({name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        raise invalid(
            _first(error),
            errors=[{"loc": list(e["loc"]), "msg": e["msg"], "type": e["type"]} for e in errors],
        ) from None


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"]
    return f"{where}: {message[:1].lower()}{message[1:]}" if where else message


def url_of(*segments: str, **query: str | None) -> str:
    url = segments[0] + "".join("/" + _segment(segment) for segment in segments[1:])
    given = {name: value for name, value in query.items() if value is not None}
    return f"{url}?{urlencode(given)}" if given else url


def _execution(id_or_name: str, *segments: str, **query: str | None) -> str:
    if not id_or_name:
        raise invalid("The id or name of an execution is empty")
    return url_of(API, "executions", id_or_name, *segments, **query)


def _variable(name: str) -> str:
    if not name.isidentifier():
        raise invalid(f"{name!r} is no name of a variable")
    return name


def _file(execution: str, path: str) -> str:
    if not path or "\0" in path:
        raise invalid(f"{path!r} is no path")
    return _execution(execution, "files") + "".join("/" + _segment(segment) for segment in path.split("/"))


def _segment(text: str) -> str:
    quoted = quote(text, safe="")
    # Left as they are, "." and ".." would be resolved in the URL, here or on the way, and not in the sandbox.
    return quoted.replace(".", "%2E") if quoted in (".", "..") else quoted
