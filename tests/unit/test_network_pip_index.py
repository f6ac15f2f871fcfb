"""What pip in a sandbox is told of the indexes that are configured on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from faas_gateway.backends.native.network.pip_index import pip_environment

QUIET = {"PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
NO_FILES = {"PIP_CONFIG_FILE": "/dev/null"}


def told(**environ: str) -> dict[str, str]:
    found = pip_environment({**NO_FILES, **environ})
    assert QUIET.items() <= found.items()
    return {name: value for name, value in found.items() if name not in QUIET}


def test_without_a_configuration_pip_asks_whom_it_asks_by_itself():
    assert told() == {}
    assert told(PIP_INDEX_URL="") == {}


def test_an_index_of_a_variable_goes_in():
    url = "https://pypi.corp.example/simple"
    assert told(PIP_INDEX_URL=url) == {"PIP_INDEX_URL": url}
    two = f"{url} https://other.example:8443/simple/"
    assert told(PIP_EXTRA_INDEX_URL=two, PIP_TRUSTED_HOST="other.example:8443") == {
        "PIP_EXTRA_INDEX_URL": two,
        "PIP_TRUSTED_HOST": "other.example:8443",
    }


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "[::1]", "pypi.localhost"])
def test_an_index_on_loopback_has_the_hosts_name_and_is_trusted(host: str):
    assert told(PIP_INDEX_URL=f"http://{host}:8081/simple") == {
        "PIP_INDEX_URL": "http://host.faas.internal:8081/simple",
        "PIP_TRUSTED_HOST": "host.faas.internal",
    }


def test_credentials_stay_outside():
    found = told(PIP_INDEX_URL="https://me:secret@pypi.corp.example/simple", PIP_PASSWORD="secret")
    assert found == {"PIP_INDEX_URL": "https://pypi.corp.example/simple"}
    found = told(PIP_INDEX_URL="http://me:secret@127.0.0.1/simple")
    assert found["PIP_INDEX_URL"] == "http://host.faas.internal/simple"


def test_folders_of_this_machine_do_not_go_in():
    assert told(PIP_INDEX_URL="file:///srv/simple", PIP_EXTRA_INDEX_URL="/srv/more", PIP_FIND_LINKS="/srv/wheels") == {}
    mixed = told(PIP_EXTRA_INDEX_URL="file:///srv/simple https://pypi.corp.example/simple")
    assert mixed == {"PIP_EXTRA_INDEX_URL": "https://pypi.corp.example/simple"}


def test_files_count_in_pips_own_order_and_variables_above_them(tmp_path: Path):
    user, own = tmp_path / ".config" / "pip" / "pip.conf", tmp_path / "own.conf"
    user.parent.mkdir(parents=True)
    user.write_text("[global]\nindex-url = https://user.example/simple\ntrusted-host = a.example\n  b.example\n")
    own.write_text("[install]\nindex_url = https://own.example/simple\n[list]\nindex-url = https://no.example\n")
    base = {"HOME": str(tmp_path), "XDG_CONFIG_DIRS": str(tmp_path / "none")}
    found = pip_environment(base)
    assert found["PIP_INDEX_URL"] == "https://user.example/simple"
    assert found["PIP_TRUSTED_HOST"] == "a.example b.example"
    assert pip_environment({**base, "PIP_CONFIG_FILE": str(own)})["PIP_INDEX_URL"] == "https://own.example/simple"
    variable = {**base, "PIP_CONFIG_FILE": str(own), "PIP_INDEX_URL": "https://variable.example/simple"}
    assert pip_environment(variable)["PIP_INDEX_URL"] == "https://variable.example/simple"
    own.write_text("no section\n")
    assert pip_environment({**base, "PIP_CONFIG_FILE": str(own)})["PIP_INDEX_URL"] == "https://user.example/simple"
