"""A private MariaDB server, in a time zone that changes its clocks."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from conftest import free_port, need, wait_until


class MariaDB:
    """A server with a port, a folder and a password of its own."""

    password = "a-secret-word"

    def __init__(self):
        binary = shutil.which("mariadbd", path=f"{os.environ['PATH']}:/usr/sbin")
        need(binary, "mariadb-server-core")
        self.folder = Path(tempfile.mkdtemp(prefix="pymar-mariadb-", dir="/tmp"))
        self.port = free_port()
        self.url = f"mysql://pymar:{self.password}@127.0.0.1:{self.port}/test"
        self.log = open(self.folder / "log", "wb")  # noqa: SIM115 (closed by `remove`)
        user = ["--user=root"] if os.geteuid() == 0 else []
        settings = ["--no-defaults", *user, f"--datadir={self.folder / 'data'}"]
        (self.folder / "start.sql").write_text(
            f"CREATE DATABASE IF NOT EXISTS test;\nCREATE USER pymar@'127.0.0.1' IDENTIFIED BY '{self.password}';\n"
            "GRANT ALL ON *.* TO pymar@'127.0.0.1' WITH GRANT OPTION;\n"
        )
        self.process = None
        try:
            self._start(binary, settings)
        except BaseException:
            self.remove()
            raise

    def _start(self, binary, settings):
        done = subprocess.run(
            ["mariadb-install-db", *settings, "--auth-root-authentication-method=normal", "--skip-test-db"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        self.process = subprocess.Popen(
            [
                binary,
                *settings,
                f"--port={self.port}",
                "--bind-address=127.0.0.1",
                f"--socket={self.folder / 'socket'}",
                f"--pid-file={self.folder / 'pid'}",
                f"--init-file={self.folder / 'start.sql'}",
                "--innodb-flush-log-at-trx-commit=0",
            ],
            env={**os.environ, "TZ": "Europe/Berlin"},
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        wait_until(self.answers, "MariaDB to answer", 60)

    def _connected(self):
        import pymysql

        return pymysql.connect(
            host="127.0.0.1", port=self.port, user="pymar", password=self.password, database="test", autocommit=True
        )

    def answers(self):
        import pymysql

        try:
            self._connected().close()
        except pymysql.OperationalError:
            return False
        return True

    def execute(self, *statements):
        """Execute statements; return the rows of the last."""
        with self._connected() as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall()

    def remove(self):
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)
