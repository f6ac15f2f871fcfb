"""Where a sandbox may connect to: hosts, addresses, allow-lists, what an operator opens, and names that lie."""

from __future__ import annotations

import socket
import threading
from ipaddress import ip_address

import anyio
import pytest

from faas_gateway.backends.native.network import HOST_NAME, Allowance, BadHost, Policy, Refused, addresses, routes
from faas_gateway.backends.native.network.addresses import Address
from faas_gateway.backends.native.network.hosts import Pattern, parse_host, parse_port
from faas_gateway.backends.native.network.resolver import Resolver, Slots

PUBLIC = ["1.1.1.1", "8.8.8.8", "93.184.216.34", "172.32.0.1", "100.128.0.1", "169.253.0.1", "198.20.0.1", "192.0.1.1"]
PUBLIC_6 = ["2606:4700:4700::1111", "2a00:1450:4001:81b::200e", "64:ff9b::808:808", "2001:4860:4860::8888"]

FORBIDDEN = [
    ("127.0.0.1", addresses.LOOPBACK),
    ("127.255.255.254", addresses.LOOPBACK),
    ("::1", addresses.LOOPBACK),
    ("10.0.0.1", addresses.PRIVATE),
    ("10.255.255.255", addresses.PRIVATE),
    ("172.16.0.1", addresses.PRIVATE),
    ("172.31.255.255", addresses.PRIVATE),
    ("192.168.1.1", addresses.PRIVATE),
    ("fc00::1", addresses.PRIVATE),
    ("fd00:ec2::254", addresses.PRIVATE),
    ("fec0::1", addresses.PRIVATE),
    ("100.64.0.1", addresses.SHARED),
    ("100.100.100.200", addresses.SHARED),
    ("100.127.255.255", addresses.SHARED),
    ("169.254.169.254", addresses.LINK_LOCAL),
    ("169.254.170.2", addresses.LINK_LOCAL),
    ("fe80::1", addresses.LINK_LOCAL),
    ("febf::1", addresses.LINK_LOCAL),
    ("168.63.129.16", addresses.METADATA),
    ("224.0.0.1", addresses.MULTICAST),
    ("239.255.255.255", addresses.MULTICAST),
    ("ff02::1", addresses.MULTICAST),
    ("255.255.255.255", addresses.BROADCAST),
    ("0.0.0.0", addresses.UNSPECIFIED),
    ("::", addresses.UNSPECIFIED),
    ("0.1.2.3", addresses.RESERVED),
    ("192.0.0.192", addresses.RESERVED),
    ("240.0.0.1", addresses.RESERVED),
    ("192.0.2.1", addresses.EXAMPLES),
    ("198.18.0.1", addresses.EXAMPLES),
    ("198.51.100.1", addresses.EXAMPLES),
    ("203.0.113.1", addresses.EXAMPLES),
    ("2001:db8::1", addresses.EXAMPLES),
    ("3fff::1", addresses.EXAMPLES),
    ("192.88.99.1", addresses.TUNNEL),
    # other addresses in disguise
    ("::ffff:127.0.0.1", addresses.LOOPBACK),
    ("::ffff:10.0.0.1", addresses.PRIVATE),
    ("::ffff:a9fe:a9fe", addresses.LINK_LOCAL),
    ("::127.0.0.1", addresses.RESERVED),
    ("::ffff:0:127.0.0.1", addresses.RESERVED),
    ("64:ff9b::7f00:1", addresses.LOOPBACK),
    ("64:ff9b::a9fe:a9fe", addresses.LINK_LOCAL),
    ("64:ff9b::a00:1", addresses.PRIVATE),
    ("64:ff9b:1::a00:1", addresses.TUNNEL),
    ("2002:7f00:1::1", addresses.TUNNEL),
    ("2002:808:808::1", addresses.TUNNEL),
    ("2001:0:53aa:64c:0:0:80ff:fffe", addresses.TUNNEL),
    ("2001:2::1", addresses.RESERVED),
    ("2600::5efe:a00:1", addresses.TUNNEL),
    ("2600::200:5efe:a00:1", addresses.TUNNEL),
    ("100::1", addresses.RESERVED),
    ("4000::1", addresses.RESERVED),
    ("5f00::1", addresses.RESERVED),
]


@pytest.mark.parametrize("text", PUBLIC + PUBLIC_6)
def test_a_public_address_is_not_refused(text: str) -> None:
    assert addresses.refusal(ip_address(text)) is None


@pytest.mark.parametrize(("text", "reason"), FORBIDDEN)
def test_any_other_address_is_refused_and_the_reason_named(text: str, reason: str) -> None:
    assert addresses.refusal(ip_address(text)) == reason


def test_the_kernel_says_what_is_local() -> None:
    # 127/8 through the same question as an address of eth0: which of those this machine has, nobody here knows
    for text in ("127.0.0.1", "127.9.9.9", "::1"):
        assert routes.refusal(ip_address(text)) == "an address of this machine"
    assert routes.refusal(ip_address("127.255.255.255")) in ("a broadcast address", "an address of this machine")
    assert routes.refusal(ip_address("1.1.1.1")) is None


def test_the_machines_own_addresses_are_local() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.connect(("1.1.1.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has no way out")
        own = s.getsockname()[0]
    assert routes.refusal(ip_address(own)) == "an address of this machine"


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "a..b",
        ".a",
        "-a.org",
        "a-.org",
        "a b",
        "a/b",
        "a@b",
        "a\0b",
        "a\nb",
        "ä.org",
        "a%00.org",
        "x" * 64,
        "a." * 127 + "ab",
        "127.1",
        "0177.0.0.1",
        "0x7f.0.0.1",
        "0x7f000001",
        "2130706433",
        "017700000001",
        "127.0.0.1.",
        "1.2.3.4.5",
        "example.0x",
        "127.0.0.01",
        "fe80::1%eth0",
        "::1%lo",
        "[::1]",
        ":::",
        "１２７.0.0.1",
        "127。0。0。1",
    ],
)
def test_what_is_neither_name_nor_address_is_refused(text: str) -> None:
    with pytest.raises(BadHost):
        parse_host(text)


def test_names_are_compared_without_case_and_final_dot() -> None:
    assert parse_host("PyPI.Org.") == parse_host("pypi.org") == "pypi.org"
    assert parse_host("_x._tcp.example.org") == "_x._tcp.example.org"
    assert parse_host("::ffff:1.2.3.4") == ip_address("1.2.3.4")


@pytest.mark.parametrize("text", ["", "0", "65536", "-1", "+1", " 1", "1_0", "８０", "000080", "http"])
def test_a_port_is_a_plain_number(text: str) -> None:
    with pytest.raises(BadHost):
        parse_port(text)


@pytest.mark.parametrize(
    ("pattern", "host", "port", "meant"),
    [
        ("example.org", "example.org", 443, True),
        ("Example.ORG.", "example.org", 443, True),
        ("example.org", "www.example.org", 443, False),
        ("example.org", "notexample.org", 443, False),
        ("*.example.org", "www.example.org", 443, True),
        ("*.example.org", "a.b.example.org", 443, True),
        ("*.example.org", "example.org", 443, False),
        ("*.example.org", "badexample.org", 443, False),
        ("example.org:443", "example.org", 443, True),
        ("example.org:443", "example.org", 80, False),
        ("93.184.216.34", "93.184.216.34", 80, True),
        ("93.184.216.0/24", "93.184.216.34", 80, True),
        ("93.184.216.0/24:22", "93.184.216.34", 80, False),
        ("[2606:4700::1]:443", "2606:4700::1", 443, True),
        ("2606:4700::/32", "2606:4700::1", 443, True),
        ("1.2.3.4", "example.org", 80, False),
    ],
)
def test_a_pattern_means_what_it_says(pattern: str, host: str, port: int, meant: bool) -> None:
    assert Pattern.parse(pattern).names(parse_host(host), port) is meant


@pytest.mark.parametrize(
    "text",
    ["", "*", "*.", "*.*.org", "a.*.org", "*example.org", "*.1.2.3.4", "10.0.0.1/8", "10.0.0.0/33", "a:b", "a:0", "a:", "[::1", "[::1]x", "[a]:1", "http://a"],
)  # fmt: skip
def test_a_pattern_that_could_mean_something_else_is_an_error(text: str) -> None:
    with pytest.raises(BadHost):
        Pattern.parse(text)


def ask(policy: Policy, host: str, port: int = 443, answer: list[str] | None = None) -> list[str]:
    """The addresses to connect to. `answer`: what the name resolves to; None where no lookup may happen."""
    asked: list[str] = []

    async def resolve(name: str, port: int) -> list[Address]:
        asked.append(name)
        assert answer is not None, f"{name} was looked up"
        return [ip_address(text) for text in answer]

    found = anyio.run(policy.addresses, parse_host(host), port, resolve)
    assert len(asked) <= 1
    return [str(address) for address in found]


def test_full_leads_to_public_addresses_on_all_ports_but_that_of_mail() -> None:
    full = Policy.full()
    assert ask(full, "example.org", 443, ["93.184.216.34", "2606:2800:220:1::1"]) == [
        "93.184.216.34",
        "2606:2800:220:1::1",
    ]
    for port in (1, 22, 80, 587, 9418, 65535):
        assert ask(full, "93.184.216.34", port) == ["93.184.216.34"]
    with pytest.raises(Refused, match="port 25 is for mail"):
        ask(full, "mx.example.org", 25, ["93.184.216.34"])


@pytest.mark.parametrize("bad", [text for text, _ in FORBIDDEN])
def test_one_forbidden_address_among_good_ones_refuses_the_name(bad: str) -> None:
    for answer in ([bad], ["93.184.216.34", bad], [bad, "93.184.216.34"]):
        with pytest.raises(Refused) as refused:
            ask(Policy.full(), "evil.example.org", 443, answer)
        assert bad not in str(refused.value), "what an inner name resolves to is not told"


def test_what_is_written_as_mapped_is_connected_to_as_plain() -> None:
    assert ask(Policy.full(), "example.org", 443, ["::ffff:93.184.216.34"]) == ["93.184.216.34"]


@pytest.mark.parametrize("name", ["metadata.google.internal", "METADATA.google.internal.", "metadata", "instance-data"])
def test_metadata_names_are_not_even_looked_up(name: str) -> None:
    with pytest.raises(Refused, match="metadata"):
        ask(Policy.full(), name)


def test_a_list_is_held_by_name_and_again_by_address() -> None:
    policy = Policy.allow(["pypi.org:443", "*.pythonhosted.org", "93.184.216.34"])
    assert ask(policy, "pypi.org", 443, ["151.101.0.223"]) == ["151.101.0.223"]
    assert ask(policy, "files.pythonhosted.org", 80, ["151.101.0.223"]) == ["151.101.0.223"]
    assert ask(policy, "93.184.216.34", 443) == ["93.184.216.34"]
    for host, port in [
        ("pypi.org", 80),
        ("pythonhosted.org", 443),
        ("evil.org", 443),
        ("151.101.0.223", 443),
        (HOST_NAME, 80),
    ]:
        with pytest.raises(Refused, match="not among the hosts"):
            ask(policy, host, port)  # without a lookup: a name can carry data out
    with pytest.raises(Refused, match="private"):
        ask(policy, "pypi.org", 443, ["10.0.0.7"])


def test_a_list_does_not_open_what_is_private() -> None:
    with pytest.raises(Refused, match="private"):
        ask(Policy.allow(["10.0.0.0/8"]), "10.1.2.3", 80)
    assert ask(Policy.allow(["10.0.0.0/8"], Allowance.parse("10.1.2.3")), "10.1.2.3", 80) == ["10.1.2.3"]


def test_an_operator_opens_addresses_networks_and_names() -> None:
    policy = Policy.full(Allowance.parse("127.0.0.1:8081, 10.0.0.0/8,,[fd00::7]:22 , index.corp.example:80"))
    assert ask(policy, "127.0.0.1", 8081) == ["127.0.0.1"]
    assert ask(policy, HOST_NAME, 8081) == ["127.0.0.1"]
    assert ask(policy, "10.200.0.1", 9999) == ["10.200.0.1"]
    assert ask(policy, "any.example.org", 80, ["10.0.0.7"]) == ["10.0.0.7"]
    assert ask(policy, "fd00::7", 22) == ["fd00::7"]
    assert ask(policy, "index.corp.example", 80, ["192.168.0.7"]) == ["192.168.0.7"]
    for host, port, answer in [
        ("127.0.0.1", 8082, None),
        ("127.0.0.2", 8081, None),
        (HOST_NAME, 8082, None),
        ("fd00::7", 80, None),
        ("index.corp.example", 81, ["192.168.0.7"]),
        ("other.corp.example", 80, ["192.168.0.7"]),
        ("index.corp.example", 80, ["169.254.169.254"]),  # its DNS may lie
        ("index.corp.example", 80, ["168.63.129.16"]),
        ("index.corp.example", 80, ["0.0.0.0"]),
    ]:
        with pytest.raises(Refused):
            ask(policy, host, port, answer)


def test_the_hosts_name_for_itself_opens_nothing_by_name() -> None:
    with pytest.raises(Refused, match="loopback"):
        ask(Policy.full(Allowance.parse(HOST_NAME)), HOST_NAME, 80)


def test_an_operators_mistake_is_an_error_that_quotes_it() -> None:
    with pytest.raises(BadHost, match=r"10\.0\.0\.1/8"):
        Allowance.parse("127.0.0.1:80,10.0.0.1/8")


# ---- names to addresses -----------------------------------------------------------------------------------
def test_a_name_that_answers_otherwise_the_second_time_was_asked_once() -> None:
    answers = iter([["93.184.216.34"], ["127.0.0.1"]])

    async def once() -> list[Address]:
        return await Policy.full().addresses(
            "rebind.example.org", 80, Resolver(Slots(1), Slots(1), lambda n, p: next(answers))
        )

    assert [str(a) for a in anyio.run(once)] == ["93.184.216.34"]
    assert next(answers) == ["127.0.0.1"]


@pytest.mark.parametrize("answer", [[], ["fe80::1%eth0"], ["93.184.216.34", "fe80::1%2"], ["nonsense"]])
def test_an_answer_without_plain_addresses_is_none(answer: list[str]) -> None:
    async def resolve() -> None:
        await Resolver(Slots(1), Slots(1), lambda n, p: answer)("example.org", 80)

    with pytest.raises(OSError, match="not known"):
        anyio.run(resolve)


def test_lookups_that_nobody_waits_for_count_until_their_threads_end() -> None:
    release, running = threading.Event(), list[str]()

    def slow(name: str, port: int) -> list[str]:
        running.append(name)
        release.wait(10)
        return ["93.184.216.34"]

    async def scenario() -> None:
        shared = Slots(8)
        resolver = Resolver(Slots(2), shared, slow)
        for number in range(6):
            with anyio.move_on_after(0.05):
                await resolver(f"n{number}.example.org", 80)
        assert running == ["n0.example.org", "n1.example.org"]
        with anyio.fail_after(5):  # another sandbox does not wait for them
            assert await Resolver(Slots(2), shared, lambda n, p: ["1.1.1.1"])("example.org", 80)
        release.set()
        with anyio.fail_after(5):
            assert await resolver("last.example.org", 80)
        assert len(running) == 3

    anyio.run(scenario)
