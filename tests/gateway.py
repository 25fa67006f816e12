"""A real gateway process for tests: started with given settings, observed from outside, drained or killed.

It is `python -m tusgate serve` in a fresh directory, without the TUSGATE_* settings of the tester. It keeps
its port over restarts, so that clients go on at the URL they know. Fixtures: `gateway` is ready, with the
default settings; `start_gateway(settings)` makes others.
"""

from __future__ import annotations

import http.client
import itertools
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Self

import pytest

from tests.servers.process import ServerProcess, StartFailedError, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tests.servers.s3 import S3Server

EXIT_SECONDS = 30.0
TUSGATE = (sys.executable, "-m", "tusgate")


class Gateway(ServerProcess):
    """One `tusgate serve`. Enter it to have it ready; leaving kills it.

    Attributes:
        environment: all of its environment; what a test changes counts from the next `start`.
        home: its working directory and HOME; the data directory is `home / "data"` unless set.
        url: address of the server, without a trailing slash.
        endpoint: where uploads are created.
        log_path: what it wrote, over all starts; `log()` is the end of that.
    """

    def __init__(self, home: Path, settings: Mapping[str, str] | None = None) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **_environment_without_settings(),
            "HOME": str(home),
            "PYTHONUNBUFFERED": "1",
            "TUSGATE_HOST": "127.0.0.1",
            "TUSGATE_PORT": str(self.port),
            "TUSGATE_DATA_DIR": str(home / "data"),
            **(settings or {}),
        }
        self.endpoint = self.url + self.environment.get("TUSGATE_BASE_PATH", "/files")
        self.log_path = home / "gateway.log"
        command = [*TUSGATE, "serve"]
        super().__init__("gateway", command, self.answers_ready, self.log_path, environment=self.environment)

    def migrate(self) -> None:
        """Bring its database to our schema, as an operator does before the first start with PostgreSQL."""
        if "TUSGATE_DATABASE_URL" in self.environment:
            subprocess.run([*TUSGATE, "migrate"], env=self.environment, cwd=self.home, check=True, capture_output=True)

    def __enter__(self) -> Self:
        self.migrate()
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()

    @property
    def control(self) -> ServerProcess:
        """Itself, under the name by which the report of a failed test finds the logs of servers."""
        return self

    def answers_ready(self) -> bool:
        """Tell whether `/readyz` answers 200 now."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (http.client.HTTPException, OSError):
            return False
        finally:
            connection.close()

    def terminate(self) -> None:
        """Ask it to drain (SIGTERM) and do not wait."""
        self._started().terminate()

    def exit_code(self, seconds: float = EXIT_SECONDS) -> int:
        """Wait for the process to end by itself and return its exit code.

        Raises:
            AssertionError: it still ran after `seconds`; it has been killed.
        """
        process = self._started()
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the gateway did not end within {seconds:g} s\n{self.log()}") from None
        self._process = None
        return code

    def restart(self) -> None:
        """Drain it, and start it again on the same port, data and settings."""
        self.stop()
        self.start()

    def crash_and_start(self) -> None:
        """Kill it as a power cut would, and start it again."""
        self.kill()
        self.start()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise StartFailedError("the gateway is not running")
        return self._process


def minio_settings(server: S3Server, bucket: str) -> dict[str, str]:
    """Return the settings that make a gateway store into `bucket`."""
    return {
        "TUSGATE_S3_ENDPOINT": server.endpoint,
        "TUSGATE_S3_BUCKET": bucket,
        "TUSGATE_S3_REGION": server.region,
        "TUSGATE_S3_ACCESS_KEY": server.access_key,
        "TUSGATE_S3_SECRET_KEY": server.secret_key,
    }


@pytest.fixture
def start_gateway(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Start gateways: `start_gateway(settings)` returns a ready one, by default on SQLite and a directory.

    With the `home` of another one it shares that one's data. All are killed when the test ends; a failure
    shows their logs.
    """
    started: list[Gateway] = []
    numbers = itertools.count(1)

    def start(settings: Mapping[str, str] | None = None, *, home: Path | None = None) -> Gateway:
        gateway = Gateway(home or tmp_path / f"gateway-{next(numbers)}", settings)
        started.append(gateway)
        gateway.migrate()
        gateway.start()
        return gateway

    yield start
    for gateway in started:
        gateway.kill()
        print(f"--- end of the log of {gateway.url}\n{gateway.log()}")


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    """Give a ready gateway with the default settings."""
    with Gateway(tmp_path / "gateway") as running:
        yield running


def _environment_without_settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("TUSGATE_", "AWS_"))}
