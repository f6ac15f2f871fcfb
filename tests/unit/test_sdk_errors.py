"""One tree, one table from problem codes, one from httpx: each complete."""

from __future__ import annotations

import pickle
import re

import faas.errors as errors
import httpx
import pytest
from faas._config import Config
from faas._http import HTTPX_ERRORS, TRANSPORT_ERRORS, lost_error, response_error, transport_error

from faas_gateway.errors import GatewayError

UNIX = Config("embedded", "http://localhost", socket="/run/x.sock")
TCP = Config("http", "http://host:1", api_key="secret-key")


def subclasses(root: type) -> set[type]:
    return {root}.union(*(subclasses(cls) for cls in root.__subclasses__()))


def test_every_code_of_the_gateway_has_its_own_class():
    codes = {cls.code: cls.status for cls in subclasses(GatewayError) if "code" in vars(cls)}
    assert len(codes) >= 20
    assert set(codes) == set(errors.ERROR_BY_CODE)
    for code, status in codes.items():
        error = errors.api_error(code, status, "What.", hint="That.")
        assert type(error) is errors.ERROR_BY_CODE[code]
        assert (error.code, error.status, error.detail, error.hint) == (code, status, "What.", "That.")


def test_every_api_error_class_can_be_raised_by_some_code():
    abstract = {errors.APIError, errors.ConflictError, errors.UnavailableError}
    assert subclasses(errors.APIError) - abstract == set(errors.ERROR_BY_CODE.values())


def test_code_of_a_newer_gateway_is_a_plain_api_error():
    assert type(errors.api_error("quota_exceeded", 429, "Too many.")) is errors.APIError


def test_every_httpx_exception_has_an_entry():
    theirs = subclasses(httpx.HTTPError) | subclasses(httpx.StreamError) | {httpx.InvalidURL, httpx.CookieConflict}
    public = {value for value in vars(httpx).values() if isinstance(value, type) and issubclass(value, Exception)}
    assert theirs == public, "httpx has an exception outside of these trees"
    assert theirs == set(TRANSPORT_ERRORS)
    assert all(issubclass(cls, HTTPX_ERRORS) for cls in theirs)


@pytest.mark.parametrize("cls", sorted(TRANSPORT_ERRORS, key=lambda cls: cls.__name__))
def test_httpx_exception_becomes_ours_and_names_the_endpoint(cls: type[Exception]):
    error = transport_error(cls.__new__(cls), TCP)
    assert type(error) is TRANSPORT_ERRORS[cls]
    assert "http://host:1" in str(error)
    assert "secret-key" not in str(error)


def test_the_drawing_in_the_docstring_is_the_tree():
    assert errors.__doc__ is not None
    depth_of: list[str] = []
    for line in errors.__doc__.splitlines():
        if match := re.match(r"^    ((?:[│ ]   )*)(?:[├└]── )?(\w+Error)\b", line):
            depth = len(match[1]) // 4 + (1 if "──" in line else 0)
            depth_of[depth:] = [match[2]]
            cls = getattr(errors, match[2])
            if depth:
                assert depth_of[depth - 1] in {base.__name__ for base in cls.__bases__}
    drawn = set(re.findall(r"── (\w+Error)", errors.__doc__)) | {"FaaSError"}
    assert drawn == {cls.__name__ for cls in subclasses(errors.FaaSError)}


def test_text_is_a_sentence_and_then_the_hint():
    error = errors.api_error("name_taken", 409, "The name demo is taken", hint="another name")
    assert str(error) == "The name demo is taken. Try: another name."
    assert str(errors.invalid("cpus: too many")) == "cpus: too many"


@pytest.mark.parametrize(
    "error",
    [
        errors.api_error("timeout", 504, "Slow.", hint="Wait.", errors=[{"loc": ["x"]}], request_id="r"),
        errors.ConfigurationError("Bad.", hint="Good."),
    ],
)
def test_errors_survive_pickling(error: errors.FaaSError):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_answer_that_is_no_problem_still_names_its_status():
    response = httpx.Response(502, text="<html>Bad Gateway</html>")
    error = response_error(response)
    assert isinstance(error, errors.APIError)
    assert error.code == "http_502"
    assert "502 Bad Gateway" in str(error)


def test_lost_local_gateway_says_that_the_session_is_gone_and_what_to_do():
    error = lost_error(UNIX, "r1", errors.ConnectError("refused"))
    assert "the session with it" in str(error)
    assert "Try: open a new session" in str(error)
    one_shot = lost_error(UNIX, "r1", errors.ConnectionLostError("broke"), one_shot=True)
    assert "Try: run it again" in str(one_shot)
    assert "may still run there" in str(lost_error(TCP, "r1", errors.ConnectionLostError("broke")))
