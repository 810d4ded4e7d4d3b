"""`pymar up`, `add`, `remove` and `down`: the workers of a cluster on its hosts.

    up      look at each host (one line each) -> the broker -> an environment and a worker on each -> the state file
    add     the same, for more hosts, with the broker and the key that are there
    remove  drain the worker of a host, and forget the host
    down    end all workers, then the broker; the state file last, so that what failed can be tried again

A host is written into the state file before anything is started on it. So `pymar down` finds whatever an `up` that was
killed has left, on every host. Hosts are worked on in threads; only the thread of the caller prints and writes.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit, urlunsplit

from pymar.amqp import cluster as state
from pymar.amqp.address import parse
from pymar.amqp.cluster import Cluster
from pymar.amqp.keys import new_key
from pymar.exceptions import UsageError
from pymar.hosts import broker as brokers
from pymar.hosts import keeper, schedulers
from pymar.hosts import tunnel as tunnels
from pymar.hosts.names import Host
from pymar.hosts.packages import Packages, minor
from pymar.hosts.remote import ANSWER, INSTALL, HostFailed, Remote, Way, abandoning, way_to
from pymar.hosts.schedulers import Allocation
from pymar.version import __version__

#: Hosts that are worked on at a time; handshakes are fewer (remote.AT_ONCE).
_AT_ONCE = 64
#: Seconds that a clock may differ; messages of more than timing.FRESH seconds are refused.
SKEW = 60.0


class Options(NamedTuple):
    """How workers are started. It is kept in the state file, for hosts that are added later."""

    python: str = ""
    bare: bool = False
    requirements: str = ""
    freeze: bool = False
    idle: float = 0.0
    away: float = 600.0
    address: str = ""
    """How workers reach this host; "" to find it out."""
    tunnel: bool = False
    """True if they reach it through ssh only."""


class ClusterFailed(UsageError):
    """Too few hosts could be started; nothing is left running."""


@dataclass
class Station:
    """One host while it is worked on. Its thread writes it; the caller reads it between two steps."""

    host: Host
    way: Way
    remote: Remote | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    skew: float = 0.0
    python: str = ""
    """The interpreter for the worker; "" as long as its environment has to be made."""
    made_in: float = 0.0
    """Seconds that this has taken; 0 if it was there."""
    failure: HostFailed | None = None
    started: dict[str, Any] = field(default_factory=dict)
    may_run: bool = False
    """True if a worker was asked for, and the answer did not come: it may run, and `down` has to look for it."""

    @property
    def is_good(self) -> bool:
        return self.failure is None

    @property
    def slots(self) -> int:
        return self.host.slots or int(self.facts.get("cores", 1))

    def close(self) -> None:
        """End the conversation with the host."""
        if self.remote is not None:
            self.remote.close()

    def line(self, width: int) -> str:
        """Return the line about this host, for people."""
        name = shown(self.host).ljust(width)
        if self.failure is not None:
            return f"{name}  failed at {self.failure}"
        facts = self.facts
        memory = f", {facts['memory'] / 2**30:.0f} GiB free" if facts.get("memory") else ""
        clock = f", clock {self.skew:+.0f} s" if abs(self.skew) >= 1 else ""
        pymar = f"Pymar {__version__}{'' if self.python else ' will be installed'}"
        return f"{name}  Python {facts['python']}, {pymar}, {self.slots} slots of {facts['cores']} cores{memory}{clock}"


def shown(host: Host) -> str:
    """Return a host as people write it, without its slots."""
    name = f"[{host.name}]" if host.port and ":" in host.name else host.name
    return f"{f'{host.user}@' if host.user else ''}{name}{f':{host.port}' if host.port else ''}"


def way_within(given: Allocation, host: Host) -> Way:
    """Return how commands are started at a host of an allocation."""
    words = schedulers.launched(given, host.name)
    return Way((*words, "sh", "-c"), lingers=True) if words else way_to(host)


def up(
    name: str,
    hosts: Sequence[Host],
    options: Options,
    packages: Packages | None,
    *,
    way: Callable[[Host], Way] = way_to,
    url: str = "",
    need: int = 1,
    say: Callable[[str], None],
) -> Cluster:
    """Start a cluster: a broker, unless there is a `url` of one, and a worker on each host.

    Args:
        packages: what is installed on the hosts; None for `bare`.
        way: returns how commands are started at a host.
        url: the address of a broker that all hosts reach.
        need: how many hosts have to start.
        say: prints a line.

    Raises:
        UsageError: a cluster of this name is up.
        ClusterFailed: fewer hosts than `need` could be started. What was started is ended.
    """
    url = checked(url)
    with locked(name):
        state.check_free(name)
        identity = os.urandom(4).hex()
        made = Cluster(
            name, identity, url, new_key(), time.time(), not url, [], options._asdict(), {}, socket.gethostname()
        )
        with _stations([Station(host, way(host)) for host in hosts]) as stations:
            _look(stations, options, packages, say)
            try:
                _check_enough(stations, need, "can be used", "(--need)")
                made = _with_hosts(made, stations)
                state.write(made)
                with _begun(partial(_install, options=options, packages=packages), stations) as installed:
                    if not url:
                        made = with_broker(made, _reached_by(stations, options), say)
                        state.write(made)
                    _say_failures(installed, stations, say)
                made = _start(made, stations, options, say)
                _check_enough(stations, need, "have started", "(--need)")
            except BaseException:  # also Ctrl-C: nothing is left, whatever ended this
                for station in stations:
                    station.close()
                if name in state.names():
                    taken_down(state.read(name), 0.0, say)
                raise
    return made


def checked(url: str) -> str:
    """Return the address of a broker with its scheme; an empty one as it is.

    Raises:
        UsageError: it is none, or needs what the hosts are not sent.
        BrokerRefused: it is on another host, and neither TLS nor `insecure` is named.
    """
    if not url:
        return url
    address = parse(url)
    address.check(has_key=True)
    if address.certfile or address.keyfile:
        raise UsageError(
            "certfile and keyfile in the address of the broker: a certificate of yours is not sent to other hosts. Let "
            "the broker accept a password, or start the workers there yourself: pymar worker --pool NAME"
        )
    return url if "://" in url else f"amqp://{url}"


def add(name: str, hosts: Sequence[Host], packages: Packages | None, *, say: Callable[[str], None]) -> Cluster:
    """Start workers of a cluster that is up on more hosts.

    Raises:
        UsageError: no cluster of this name is up; or one of the hosts belongs to it.
        ClusterFailed: one of them could not be started; the others were.
    """
    with locked(name):
        made = read(name)
        if made.is_own:
            keeper.start(made)
            keeper.wait(made)
        there = {shown(_host(record)) for record in made.hosts}
        if twice := [shown(host) for host in hosts if shown(host) in there]:
            raise UsageError(f"{', '.join(twice)}: part of the cluster {name!r} already; pymar remove HOST first")
        options = Options(**made.settings)
        if made.is_own and not parse(made.url).tls and any(len(way_to(host).words) > 2 for host in hosts):
            raise UsageError(
                f"the broker of the cluster {name!r} is for this host only: pymar down, and pymar up -H with all hosts"
            )
        with _stations([Station(host, way_to(host)) for host in hosts]) as stations:
            _look(stations, options, packages, say)
            made = _with_hosts(made, stations)
            state.write(made)
            with _begun(partial(_install, options=options, packages=packages), stations) as installed:
                _say_failures(installed, stations, say)
            made = _start(made, stations, options, say)
            _check_enough(stations, len(hosts), "have started")
    return made


def remove(
    name: str, hosts: Sequence[Host], grace: float, *, forget: bool = False, say: Callable[[str], None]
) -> Cluster:
    """End the workers on some hosts of a cluster: their parts may go on for `grace` seconds, and are handed back then.

    Args:
        forget: leave hosts that cannot be reached to themselves.

    Raises:
        UsageError: one of the hosts is none of this cluster.
        ClusterFailed: one of them could not be reached; it stays in the list.
    """
    with locked(name):
        made = read(name)
        chosen = {shown(host) for host in hosts}
        records = [record for record in made.hosts if shown(_host(record)) in chosen]
        if unknown := chosen - {shown(_host(record)) for record in records}:
            there = ", ".join(shown(_host(record)) for record in made.hosts)
            raise UsageError(f"{', '.join(sorted(unknown))}: no host of the cluster {name!r}, which has {there}")
        try:
            return _ended(made, records, grace, say)
        except ClusterFailed:
            if not forget:
                raise
        left = state.read(name)
        left = left._replace(hosts=[one for one in left.hosts if shown(_host(one)) not in chosen])
        for host in hosts:
            tunnels.end(made.pool, host)
        state.write(left)
        return left


def down(name: str, grace: float, *, forget: bool = False, say: Callable[[str], None]) -> None:
    """End a cluster: its workers, its broker, and all that it has left on its hosts.

    Args:
        forget: leave hosts that cannot be reached to themselves.

    Raises:
        ClusterFailed: a host could not be reached: it stays in the list, and the same call tries it again.
    """
    with locked(name):
        try:
            made = read(name)
        except UsageError:
            if not (forget and name in state.names()):
                raise
            state.remove(name)  # first, since a keeper would start the broker again
            brokers.stop(state.folder_of(name) / keeper.BROKER)
            shutil.rmtree(state.folder_of(name), ignore_errors=True)
            say(f"the broker on this host is ended, and {state.folder_of(name)} removed")
            return
        taken_down(made, grace, say, forget)


def read(name: str) -> Cluster:
    """Return a cluster, whose hosts and settings are known to be whole.

    Raises:
        UsageError: there is none of this name; its file is damaged, or of another version.
    """
    made = state.read(name)
    try:
        Options(**made.settings)
        for record in made.hosts:
            _station(record)
            record["asked"]
    except (TypeError, KeyError, AttributeError):
        raise state.damaged(name) from None
    return made


def taken_down(made: Cluster, grace: float, say: Callable[[str], None], forget: bool = False) -> None:
    """End a cluster whose lock is held: as `down`."""
    _check_host(made, forget)
    failure: UsageError | None = None
    if made.submitted:
        try:
            schedulers.cancelled(made.submitted["kind"], made.submitted["ids"])
            say(f"{', '.join(made.submitted['ids'])} cancelled")
        except UsageError as error:
            failure = UsageError(f"{error}. --forget leaves {', '.join(made.submitted['ids'])} to themselves")
            if not forget:
                raise failure from None
    try:
        made = _ended(made, made.hosts, grace, say)
    except ClusterFailed as error:
        failure = error
    keeper.end(made.pool)  # before the broker, which it would start again
    tunnels.end(made.pool)
    if made.is_own:
        brokers.stop(made.folder / keeper.BROKER)
    if failure is not None and not forget:
        raise failure
    state.remove(made.name)
    shutil.rmtree(made.folder, ignore_errors=True)
    say(f"the cluster {made.name!r} is down")


def wait_for_broker(made: Cluster, *, say: Callable[[str], None]) -> None:
    """Return once the broker of a cluster listens. If it has died and its keeper too, both are started again.

    Raises:
        UsageError: the broker does not start.
    """
    if not keeper.is_running(made):
        with suppress(UsageError), locked(made.name):  # `pymar down` has it while it works
            if made.name in state.names() and keeper.start(made):
                say("what starts the broker again when it dies had ended: it was started again")
    keeper.wait(made)


def _check_host(made: Cluster, forget: bool) -> None:
    """Refuse to end, from another host with this home, a broker that can only be ended where it runs."""
    if made.is_own and made.is_elsewhere and not forget and brokers.find(made.folder / "broker") is None:
        raise UsageError(
            f"the cluster {made.name!r} was started on {made.here}, where its broker is: pymar down there; or, if that "
            "is this host by another name, or is gone, pymar down --forget"
        )


def log_of(name: str, host: str, lines: int) -> Iterator[tuple[str, list[str]]]:
    """Yield the name of each host, or of the one that is named, with the last lines of its worker's log.

    Raises:
        UsageError: there is no such cluster or host.
    """
    made = read(name)
    records = [one for one in made.hosts if host in ("", shown(_host(one)), one["name"])]
    if not records:
        there = ", ".join(shown(_host(record)) for record in made.hosts)
        raise UsageError(f"{host}: no host of the cluster {name!r}, which has {there}")
    for record in records:
        station = _station(record)
        try:
            with Remote(station.way, record["asked"]) as remote:
                yield shown(station.host), remote.ask("logs", folder=_folder(made, station.host), lines=lines)["lines"]
        except HostFailed as error:
            yield shown(station.host), [f"failed at {error}"]


def silent(made: Cluster, workers: set[str]) -> list[str]:
    """Return a line for each host whose worker is none of these, by their names."""
    return [
        f"{host}: its worker does not answer: pymar logs {host} says why; pymar remove {host} and add {host} start "
        "another one"
        for host, record in ((shown(_host(record)), record) for record in made.hosts)
        if f"{record['facts']['name']} {record.get('pid')}" not in workers
    ]


def trouble(made: Cluster) -> list[str]:
    """Return what is wrong, or soon will be, with the broker of a cluster."""
    found = brokers.find(made.folder / "broker") if made.is_own else None
    return [] if found is None else brokers.alarms(found)


# Steps.


@contextmanager
def _stations(stations: Sequence[Station]) -> Iterator[Sequence[Station]]:
    """Yield the stations; what they have open is closed at the end."""
    with ExitStack() as stack:
        for station in stations:
            stack.callback(station.close)
        yield stations
        for station in stations:  # all of them at once, and then one waits for each
            if station.remote is not None:
                station.remote.hang_up()


def _width(stations: Sequence[Station]) -> int:
    return max((len(shown(one.host)) for one in stations), default=0)


def _look(stations: Sequence[Station], options: Options, packages: Packages | None, say: Callable[[str], None]) -> None:
    """Find out what each host has, and print a line about it."""
    width = _width(stations)
    for station in _at_once(partial(_look_at, options=options, packages=packages), stations):
        say(station.line(width))


def _look_at(station: Station, options: Options, packages: Packages | None) -> None:
    before = time.time()
    station.remote = Remote(station.way, options.python, minor())
    after = time.time()
    facts = station.facts = station.remote.facts
    clock = facts["clock"]
    station.skew = 0.0 if before <= clock <= after else clock - (before if clock < before else after)
    there = facts["python"].rpartition(".")[0]
    if there != minor() and (options.bare or not facts["uv"]):
        raise HostFailed(
            "Python",
            f"{facts['executable']} is Python {facts['python']}, and this one is {minor()}",
            f"name one of {minor()} with --python, or install uv there, which gets it",
        )
    if options.bare and facts["pymar"] != __version__:
        there = f"version {facts['pymar']}" if facts["pymar"] else "none"
        raise HostFailed(
            "Pymar",
            f"{facts['executable']} has {there}, and this one is {__version__}",
            "install this one there, or leave out --bare",
        )
    if abs(station.skew) > SKEW:
        raise HostFailed("clock", f"it differs by {station.skew:+.0f} s from this one", "set both by NTP")
    if packages is None:
        station.python = facts["executable"]
    else:
        station.python = _environment(station, options, packages, b"").get("python", "")


def _with_hosts(made: Cluster, stations: Sequence[Station]) -> Cluster:
    """Return the cluster with the hosts that could be looked at."""
    asked = made.settings["python"]
    records = [
        {**one.host._asdict(), "way": one.way.words, "lingers": one.way.lingers, "asked": asked}
        for one in stations
        if one.is_good
    ]
    return made._replace(hosts=[*made.hosts, *records])


def _reached_by(stations: Sequence[Station], options: Options) -> list[str]:
    """Return the names by which the hosts reach this one; nothing if all of them are this one."""
    seen = {one.facts["from"] for one in stations if one.is_good and one.facts["from"]}
    return sorted(seen | ({options.address} if options.address else set()))


def with_broker(made: Cluster, others: Sequence[str], say: Callable[[str], None]) -> Cluster:
    """Start a broker on this host for hosts that reach it by these names, and return the cluster with its address."""
    began = time.monotonic()
    one = brokers.start(made.folder / keeper.BROKER, names=others)
    keeper.start(made)
    where = f"for {', '.join(others)}, with TLS" if others else "for this host only"
    say(f"broker at port {one.port}, {where} ({time.monotonic() - began:.1f} s)")
    for text in brokers.alarms(one):
        say(f"broker: {text}")
    return made._replace(url=one.url("127.0.0.1", one.cafile))


def _install(station: Station, options: Options, packages: Packages | None) -> None:
    """Make the environment of a host, unless it is there."""
    if not station.python and packages is not None:
        answer = _environment(station, options, packages, packages.archive)
        station.python, station.made_in = answer["python"], answer["seconds"]


def environment_here(options: Options, packages: Packages | None) -> str:
    """Return the interpreter of the environment for workers, made on this host.

    Raises:
        HostFailed: it cannot be made.
    """
    here = Host("localhost")
    with _stations([Station(here, way_to(here))]) as (station,):
        _look_at(station, options, packages)
        _install(station, options, packages)
        return station.python


def _say_failures(installed: Iterator[Station], stations: Sequence[Station], say: Callable[[str], None]) -> None:
    width = _width(stations)
    for station in installed:
        if not station.is_good:
            say(station.line(width))


def _start(made: Cluster, stations: Sequence[Station], options: Options, say: Callable[[str], None]) -> Cluster:
    """Start a worker on each host; print a line for each. Return the cluster with those that have started."""
    width = _width(stations)
    for station in _at_once(partial(_start_at, made=made, options=options), stations):
        if station.is_good:
            new = f", environment made in {station.made_in:.0f} s" if station.made_in else ""
            say(f"{shown(station.host).ljust(width)}  started with {station.slots} slots{new}")
        else:
            say(station.line(width))
    failed = {shown(one.host) for one in stations if not (one.is_good or one.may_run)}
    started = {shown(one.host): {**one.started, "facts": one.facts} for one in stations}
    kept = [{**one, **started.get(shown(_host(one)), {})} for one in made.hosts if shown(_host(one)) not in failed]
    made = made._replace(hosts=kept)
    state.write(made)
    return made


def _start_at(station: Station, made: Cluster, options: Options) -> None:
    remote = station.remote
    assert remote is not None
    url, certificate = _as_seen_by(station, made, options)
    port = 0
    if options.tunnel and made.is_own and station.way.words[0] == "ssh":
        port = remote.ask("free_port")["port"]
        tunnels.start(station.host, port, parse(made.url).port, made.folder, made.pool)
        url = _at(url, "127.0.0.1", port)
    address = parse(url)
    if why := remote.ask("reach", host=address.host, port=address.port)["why"]:
        raise HostFailed(
            "broker",
            f"{address.host} port {address.port} cannot be reached from there: {why}",
            "open that port, or name another way to this host with --address, or say --tunnel"
            if made.is_own
            else "all hosts have to reach the broker of -q by this name: is it right there, and is the port open?",
        )
    secrets = {"url": url, "key": made.key, "connected": "{folder}/connected"}
    argv = [station.python, "-m", "pymar", "worker", "--pool", made.pool, "-w", str(station.slots), "--from-stdin"]
    argv += ["--log-file", "{folder}/worker.log", *lasting(options)]
    station.may_run = True
    try:
        started = remote.ask(
            "start",
            json.dumps(secrets).encode(),
            folder=_folder(made, station.host),
            argv=argv,
            files={"ca.pem": certificate} if certificate else {},
            linger=station.way.lingers,
            bare=options.bare,
        )
    except HostFailed as error:
        station.may_run = error.is_cut
        raise
    if station.way.lingers:
        remote.linger()
    station.started = {
        **started,
        "slots_used": station.slots,
        "python": station.python,
        "tunnel": port,
    }


def lasting(options: Options) -> list[str]:
    """Return the options of a worker that say when it ends by itself."""
    return ["--idle", str(options.idle), "--away", str(options.away)]


def _environment(station: Station, options: Options, packages: Packages, archive: bytes) -> dict[str, Any]:
    """Make the environment of a host, or find it; without an archive, only find it."""
    assert station.remote is not None
    return station.remote.ask(
        "environment",
        archive,
        patience=INSTALL if archive else ANSWER,
        key=packages.key(station.facts, options.python),
        python=options.python,
        wants=minor(),
        requirements=packages.requirements,
        pins=packages.pins,
    )


def _as_seen_by(station: Station, made: Cluster, options: Options) -> tuple[str, str]:
    """Return the address of the broker for a host, and the text of the CA's certificate; "" for the system's."""
    address = parse(made.url)
    query = {}
    certificate = ""
    if address.cafile:
        certificate = Path(address.cafile).read_text(encoding="ascii")
        query["cafile"] = "{quoted}/ca.pem"
    if address.insecure:
        query["insecure"] = "1"
    host = (options.address or station.facts["from"] or "127.0.0.1") if made.is_own else address.host
    plain = urlunsplit(urlsplit(made.url)._replace(query=urlencode(query, safe="{}/")))
    return _at(plain, host, address.port), certificate


def seen_by(record: dict[str, Any], made: Cluster) -> tuple[str, str]:
    """Return the same for a host of a cluster that is up."""
    station = _station(record)
    station.facts = record["facts"]
    url, certificate = _as_seen_by(station, made, Options(**made.settings))
    return (_at(url, "127.0.0.1", record["tunnel"]) if record.get("tunnel") else url), certificate


def _at(url: str, host: str, port: int) -> str:
    """Return the address with another host and port."""
    parts = urlsplit(url)
    user = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{user}@{f'[{host}]' if ':' in host else host}:{port}"))


def _ended(made: Cluster, records: Sequence[dict[str, Any]], grace: float, say: Callable[[str], None]) -> Cluster:
    """End the workers on these hosts, and return the cluster without those where that has worked.

    Raises:
        ClusterFailed: it has not worked on all of them.
    """
    stations = [_station(record) for record in records]
    asked = {shown(_host(record)): record["asked"] for record in records}
    width = _width(stations)
    failed: list[str] = []
    try:
        for station in _at_once(partial(_end_at, made=made, asked=asked, grace=grace), stations):
            if station.is_good:
                say(f"{shown(station.host).ljust(width)}  {'ended' if station.started['ran'] else 'nothing ran'}")
                tunnels.end(made.pool, station.host)
                left = [one for one in made.hosts if shown(_host(one)) != shown(station.host)]
                made = made._replace(hosts=left)
            else:
                failed.append(shown(station.host))
                say(station.line(width))
    finally:
        try:
            state.write(made)
        except UsageError as error:  # a full disk: to forget hosts can wait
            say(str(error))
    if failed:
        raise ClusterFailed(
            f"{', '.join(failed)}: what runs there could not be ended; it ends by itself once it has not reached the "
            f"broker for {made.settings['away']:g} s. The same command tries again; with --forget it is left to "
            "itself"
        )
    return made


def _end_at(station: Station, made: Cluster, asked: dict[str, str], grace: float) -> None:
    with Remote(station.way, asked[shown(station.host)]) as remote:
        station.started = remote.ask("stop", patience=ANSWER + grace, folder=_folder(made, station.host), grace=grace)


def _at_once(step: Callable[[Station], None], stations: Sequence[Station]) -> Iterator[Station]:
    """Do a step at all hosts that have not failed, at once; yield each when it is done. `failure` says if it failed."""
    with _begun(step, stations) as done:
        yield from done


@contextmanager
def _begun(step: Callable[[Station], None], stations: Sequence[Station]) -> Iterator[Iterator[Station]]:
    """Begin a step at all hosts that have not failed; yield an iterator over them, each when it is done."""

    def one(station: Station) -> Station:
        try:
            step(station)
        except HostFailed as error:
            station.failure = error
        return station

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        futures: list[Future[Station]] = []
        try:
            futures = [threads.submit(one, station) for station in stations if station.is_good]
            yield (future.result() for future in as_completed(futures))
        except BaseException:  # also Ctrl-C: the threads must not go on waiting for their hosts
            for future in futures:
                future.cancel()
            with abandoning():
                threads.shutdown()
            raise


def _check_enough(stations: Sequence[Station], need: int, what: str, why: str = "") -> None:
    good = sum(one.is_good for one in stations)
    if good < need:
        raise ClusterFailed(f"{good} of {len(stations)} hosts {what}, {need} are needed {why}".rstrip())


def _folder(made: Cluster, host: Host) -> str:
    """Return the name of the folder of the worker on a host; hosts may share their home."""
    name = "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in shown(host))
    return f"{made.pool}~{name}"


def _station(record: dict[str, Any]) -> Station:
    return Station(_host(record), Way(tuple(record["way"]), record["lingers"]))


def _host(record: dict[str, Any]) -> Host:
    return Host(**{name: record[name] for name in Host._fields})


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Let one command at a time change a cluster.

    Raises:
        UsageError: another one does.
    """
    import fcntl

    path = state.home() / f"{state.folder_of(name).name}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        opened = open(path, "w")  # noqa: SIM115 - closed below
    except OSError as error:
        raise state.unwritable(path, error) from None
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"another command changes the cluster {name!r} now: wait until it has ended") from None
        yield
