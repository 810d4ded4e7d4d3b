"""A private PostgreSQL server, which the tests of SQL may stop and restart."""

import contextlib
import copy
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from conftest import free_port, need, wait_until


def binaries():
    """Return the folder of the newest server on this machine; None if there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4]))
    on_path = shutil.which("postgres")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


class Postgres:
    """A server with a port, a folder and a password of its own. Root runs it as `nobody`, since it refuses root."""

    password = "a-secret-word"

    def __init__(self):
        self.bin = binaries()
        need(self.bin, "postgresql")
        self.folder = Path(tempfile.mkdtemp(prefix="pymar-pg-", dir="/tmp"))
        self.port = free_port()
        self.url = f"postgresql://pymar:{self.password}@127.0.0.1:{self.port}/postgres"
        self.user = ()
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self.user = ("setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups")
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
        (self.folder / "password").write_text(self.password)
        os.chmod(self.folder / "password", 0o644)
        self._run("initdb", "-D", str(self.data), "-U", "pymar", "-A", "scram-sha-256", "--no-sync", "-E", "UTF8",
                  f"--pwfile={self.folder / 'password'}")  # fmt: skip
        self.start()

    @property
    def data(self):
        return self.folder / "data"

    def _run(self, program, *arguments):
        done = subprocess.run(
            [*self.user, str(self.bin / program), *arguments], capture_output=True, text=True, cwd=self.folder
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self):
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off", "autovacuum": "off"}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with open(os.devnull, "w") as null:
            self.process = subprocess.Popen(
                [*self.user, str(self.bin / "postgres"), "-D", str(self.data), "-p", str(self.port), *options],
                stdout=null,
                stderr=null,
                cwd=self.folder,
                start_new_session=True,
            )
        wait_until(self.answers, "PostgreSQL to answer", 60)

    def answers(self):
        import psycopg

        with contextlib.suppress(psycopg.OperationalError):
            self.execute("SELECT 1")
            return True
        return False

    def execute(self, *statements):
        """Execute statements, each in a transaction of its own; return the rows of the last."""
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else None

    def standby(self):
        """Return a server that follows this one, and can only be read."""
        other = copy.copy(self)
        other.folder = Path(tempfile.mkdtemp(prefix="pymar-pg-", dir="/tmp"))
        other.port = free_port()
        other.url = self.url.replace(f":{self.port}/", f":{other.port}/")
        if self.user:
            shutil.chown(other.folder, "nobody", pwd.getpwnam("nobody").pw_gid)
        other._run("pg_basebackup", "-D", str(other.data), "-d", self.url, "-R", "-X", "stream", "-c", "fast")
        other.start()
        return other

    def stop(self):
        self.process.send_signal(signal.SIGINT)  # PostgreSQL's "fast" shutdown, which ends connections
        self.process.wait(30)

    def restart(self):
        self.stop()
        self.start()

    def remove(self):
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
