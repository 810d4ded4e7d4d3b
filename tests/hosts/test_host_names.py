"""What users write for hosts: it names exactly these hosts, or the error says how to write it."""

import re
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pymar.exceptions import UsageError
from pymar.hosts.names import MOST_HOSTS, Host, hosts_of

LETTERS = string.ascii_letters + string.digits
NAMES = st.from_regex(r"[a-z_][a-z0-9_.-]{0,12}[a-z0-9]", fullmatch=True)
ADDRESSES = st.ip_addresses(v=6).map(str)
USERS = st.just("") | st.from_regex(r"[a-z_][a-z0-9_.-]{0,8}", fullmatch=True)
PORTS = st.sampled_from([0, 22]) | st.integers(1024, 65_535)
SLOTS = st.integers(0, 10_000)


def names(*arguments):
    return [host.name for host in hosts_of(arguments)]


def refused(*arguments):
    with pytest.raises(UsageError) as caught:
        hosts_of(arguments)
    return str(caught.value)


def answer(arguments):
    """Return the hosts and "", or none and the message."""
    try:
        return hosts_of(arguments), ""
    except UsageError as error:
        return [], str(error)


def written(host):
    """As a user writes it in a list."""
    name = f"[{host.name}]" if ":" in host.name and host.port else host.name
    user, port = f"{host.user}@" if host.user else "", f":{host.port}" if host.port else ""
    return f"{user}{name}{port}" + (f"/{host.slots}" if host.slots else "")


@st.composite
def hosts(draw):
    return Host(draw(NAMES | ADDRESSES), draw(USERS), draw(PORTS), draw(SLOTS))


@st.composite
def distinct_hosts(draw):
    return draw(st.lists(hosts(), min_size=1, max_size=8, unique_by=lambda host: host.name))


@given(distinct_hosts())
def test_a_list_names_its_hosts_in_their_order(given_hosts):
    assert hosts_of([",".join(map(written, given_hosts))]) == given_hosts


@given(distinct_hosts())
def test_arguments_are_as_good_as_commas(given_hosts):
    assert hosts_of(list(map(written, given_hosts))) == given_hosts


@given(distinct_hosts(), st.sampled_from(["\n", "\r\n", "\n\n", " # a comment\n", "\n# a comment\n"]))
def test_a_file_names_its_hosts_one_a_line(tmp_path_factory, given_hosts, end):
    path = tmp_path_factory.mktemp("hosts") / "file"
    path.write_bytes("".join(written(host) + end for host in given_hosts).encode())
    assert hosts_of([str(path)]) == given_hosts


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 30), st.integers(1, 4)), min_size=1, max_size=3))
def test_a_range_has_each_of_its_numbers_with_its_zeros(spans):
    texts, expected = [], []
    for low, more, digits in spans:
        texts.append(f"{low:0{digits}}-{low + more:0{digits}}" if more else f"{low:0{digits}}")
        expected += [f"n{number:0{digits}}-ib" for number in range(low, low + more + 1)]
    text = f"n[{','.join(texts)}]-ib"
    if len(set(expected)) < len(expected):
        assert "twice" in refused(text)
    else:
        assert names(text) == expected


@given(
    st.text()
    | st.text(alphabet="an1[]-,:/@. =")
    | st.lists(st.sampled_from(["n", "1", "01", "[", "]", "-", ",", ":", "/", "@", "::"])).map("".join)
)
@example("n[1-9999]/9")
@example("\udcff")
@example("a" * 5_000)
def test_any_text_names_hosts_or_is_refused_with_one_line(text):
    found, message = answer([text])
    assert "\n" not in message
    assert len(message) < 400
    for host in found:
        assert re.fullmatch(r"[\w@$\\.+:%/\[\]-]+", host.destination)
        assert not host.destination.startswith("-")
        assert host.port in range(65_536)
        assert host.slots in range(10_001)


@given(st.binary(max_size=200))
def test_any_file_names_hosts_or_is_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("hosts") / "file"
    path.write_bytes(data)
    found, message = answer([str(path)])
    assert found or message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("node[01-03]", ["node01", "node02", "node03"]),
        ("node[1,3,07-09]-ib", ["node1-ib", "node3-ib", "node07-ib", "node08-ib", "node09-ib"]),
        ("rack[1-2]node[8-9]", ["rack1node8", "rack1node9", "rack2node8", "rack2node9"]),
        ("node[98-101]", ["node98", "node99", "node100", "node101"]),
        ("node[099-101]", ["node099", "node100", "node101"]),
        ("node[09-10],a", ["node09", "node10", "a"]),
        ("10.0.0.[1-2]", ["10.0.0.1", "10.0.0.2"]),
        ("[1-2].cluster", ["1.cluster", "2.cluster"]),
    ],
)
def test_ranges_are_those_of_slurm(text, expected):
    assert names(text) == expected


def test_what_is_said_of_a_range_holds_for_each_host():
    assert hosts_of(["ada@node[1-2]:2222/8"]) == [Host(f"node{number}", "ada", 2222, 8) for number in (1, 2)]


@pytest.mark.parametrize(
    ("host", "destination"),
    [
        (Host("node1"), "node1"),
        (Host("node1", "ada"), "ada@node1"),
        (Host("node1", "ada", 2222), "ssh://ada@node1:2222"),
        (Host("node1", port=2222, slots=8), "ssh://node1:2222"),
        (Host("::1"), "::1"),
        (Host("::1", "ada", 2222), "ssh://ada@[::1]:2222"),
        (Host("node1", "ada@corp", 2222), "ssh://ada%40corp@node1:2222"),
    ],
)
def test_the_destination_is_what_ssh_takes(host, destination):
    assert host.destination == destination


def test_a_file_may_say_slots_as_that_of_mpi(tmp_path):
    (path := tmp_path / "hosts").write_text(
        "\ufeff# ours\n\nnode1 slots=8\n  node[2-3]\tslots=4 # big\nada@node4:2222/2\n"
    )
    assert [(host.name, host.slots) for host in hosts_of([str(path)])] == [
        ("node1", 8), ("node2", 4), ("node3", 4), ("node4", 2)
    ]  # fmt: skip


def test_a_file_in_the_home_folder_may_be_written_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").write_text("node1\n")
    assert names("~/mine") == ["node1"]


def test_a_folder_that_has_the_name_of_a_host_is_in_nobodys_way(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "node1").mkdir()
    assert names("node1") == ["node1"]
    assert "folder" in refused("./node1")


@pytest.mark.parametrize(
    ("text", "nouns"),
    [
        ("", "empty"),
        ("a,,b", "comma"),
        ("a,", "comma"),
        ("a b", "space"),
        ("a\x1b[0m", "control"),
        ("node[16-01]", "reversed"),
        ("node[1-10001]", "10,000"),
        ("a[1-1000]b[1-1000]", "10,000"),
        ("node[1-99999999999999999999]", "range"),
        ("node[1-010]", r"\[001-010\]"),
        ("node[010-99]", r"\[010-099\]"),
        ("node[]", "range"),
        ("node[a-c]", "range"),
        ("node[1-9/2]", "range"),
        ("node[1", "brackets"),
        ("node1]", "brackets"),
        ("node[[1]]", "brackets"),
        ("node{1..4}", "letters"),
        ("$(id)", "letters"),
        ("nöde", "letters"),
        ("-oProxyCommand=id", "option"),
        ("ada@-oProxyCommand=id", "option"),
        ("-oProxyCommand=id@node1", "user"),
        ("@node1", "user"),
        ("node1/0", "slots"),
        ("node1/-1", "slots"),
        ("node1/10001", "slots"),
        ("node1:0", "port"),
        ("node1:65536", "port"),
        ("node1:", "port"),
        ("node1:ssh", "port"),
        ("node1:8", "slots or a port"),
        ("node1:1023", "slots or a port"),
        ("hosts.txt", "no file"),
        ("hosts.txt,node1", "no file"),
        ("./hosts", "no file"),
        ("clusters/hosts", "no file"),
        ("~/hosts", "no file"),
        ("ssh://node1", "address of the web"),
        ("1:2:3", "IPv6"),
        ("[::1", "brackets"),
        ("fe80::1%", "IPv6"),
        ("16", "number"),
    ],
)
def test_what_is_no_host_is_refused_with_the_remedy(text, nouns, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert re.search(nouns, refused(text))


def test_a_password_is_refused_and_not_shown():
    message = refused("node1,ada:hunter2@node2")
    assert "password" in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    "text", ["node1,node1", "node[1-3],node2", "node1,NODE1.", "node1,ada@node1:22/8", "::1,0:0::1", "a[1,1]"]
)
def test_a_host_that_is_named_twice_is_refused(text):
    assert "twice" in refused(text)


def test_two_ports_of_one_name_are_two_hosts():
    assert len(hosts_of(["gateway:2201,gateway:2202"])) == 2


def test_a_host_twice_is_named_with_both_places(tmp_path):
    (path := tmp_path / "hosts").write_text("node1\n# ours\nnode2\nnode1 slots=8\n")
    message = refused(str(path))
    assert f"{path}, line 4: node1" in message
    assert f"{path}, line 1" in message
    assert f"'node[2-3]': node2 is named twice, first in {path}, line 3" in refused(
        str(_without_last(path)), "node[2-3]"
    )


def _without_last(path):
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    return path


@pytest.mark.parametrize(
    ("line", "nouns"),
    [
        ("node1 8", "slots=8"),
        ("node1 slots=8 max_slots=9", "slots=8"),
        ("node1 slots=0", "slots"),
        ("node1 slots=", "slots"),
        ("node1/8 slots=8", "twice"),
        ("node1, node2", "slots=8"),
        ("node1:8", "slots or a port"),
        ("-oX", "option"),
    ],
)
def test_a_wrong_line_is_named_by_its_number(tmp_path, line, nouns):
    (path := tmp_path / "hosts").write_text(f"node7\n{line}\n")
    message = refused(str(path))
    assert f"{path}, line 2" in message
    assert nouns in message


@pytest.mark.parametrize("data", [b"", b"# nothing\n\n"])
def test_a_file_that_names_no_host(tmp_path, data):
    (path := tmp_path / "hosts").write_bytes(data)
    assert "no host" in refused(str(path))


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"\x7fELF\0\0"])
def test_a_file_that_is_no_text(tmp_path, data):
    (path := tmp_path / "hosts").write_bytes(data)
    assert str(path) in refused(str(path))


def test_no_argument_names_no_host():
    assert "no host" in refused()


def test_as_many_hosts_as_are_allowed():
    assert len(hosts_of([f"node[1-{MOST_HOSTS - 1}]", "last"])) == MOST_HOSTS
    assert "10,000" in refused(f"node[1-{MOST_HOSTS}]", "last")
