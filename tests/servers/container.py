"""One server in a container, by testcontainers, with the same Control as a process."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from testcontainers.core.container import DockerContainer

from tests.servers.process import LOG_TAIL_BYTES, wait_until

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Mapping, Sequence


class ServerContainer:
    """A container with one published port; implements Control.

    The host port is chosen by us: a port chosen by Docker changes when the container is restarted.
    """

    def __init__(
        self,
        name: str,
        image: str,
        ports: tuple[int, int],
        ready: Callable[[], bool],
        *,
        command: Sequence[str] = (),
        environment: Mapping[str, str],
    ) -> None:
        inside, outside = ports
        self.name = name
        self._ready = ready
        container = DockerContainer(image).with_bind_ports(inside, outside).with_envs(**environment)
        self._container = container.with_command(list(command)) if command else container
        self._created = False

    @property
    def pid(self) -> int:
        docker = self._container.get_wrapped_container()
        docker.reload()
        return int(docker.attrs["State"]["Pid"])

    def start(self) -> None:
        if self._created:
            self._container.get_wrapped_container().start()
        else:
            self._container.start()
            self._created = True
        wait_until(self._ready, f"{self.name} in its container")

    def stop(self, how: signal.Signals | None = None) -> None:
        self.resume()
        docker = self._container.get_wrapped_container()
        if how is not None:
            docker.kill(signal=how.name)
            docker.wait()
        else:
            docker.stop()

    def kill(self) -> None:
        self._container.get_wrapped_container().kill()

    def pause(self) -> None:
        self._container.get_wrapped_container().pause()

    def resume(self) -> None:
        docker = self._container.get_wrapped_container()
        docker.reload()
        if docker.status == "paused":
            docker.unpause()

    def log(self) -> str:
        return bytes(self._container.get_wrapped_container().logs())[-LOG_TAIL_BYTES:].decode(errors="replace")

    def remove(self) -> None:
        """Remove the container and its data. Idempotent."""
        with contextlib.suppress(Exception):
            self._container.stop()
