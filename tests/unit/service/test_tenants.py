"""Rates of tenants, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.service.rig import SCOPE, Sender, World, some_bytes
from tests.virtual_time import run
from tusgate.core.errors import Draining, TenantUnknown, Throttled, TooManyRequests
from tusgate.core.model import State
from tusgate.core.tenant import Tenant
from tusgate.service.tenants import Pace, Tenants

pytestmark = pytest.mark.usefixtures("small_scale")


def test_what_is_within_the_rate_waits_for_nothing():
    async def scenario():
        pace = Pace(10.0, 1.0)
        assert [pace.try_one() for _ in range(12)].count(True) == 10
        await asyncio.sleep(0.5)
        assert [pace.try_one() for _ in range(12)].count(True) == 5

    run(scenario())


def test_a_rate_below_one_in_the_burst_lets_single_requests_through():
    async def scenario():
        tenants = Tenants([Tenant(name="a", request_rate=0.1)])
        tenants.admit("a", creates=True)
        with pytest.raises(TooManyRequests):
            tenants.admit("a", creates=True)
        with pytest.raises(Throttled):
            tenants.admit("a")
        await asyncio.sleep(10)
        tenants.admit("a")

    run(scenario())


def test_tenants_do_not_share_a_pace():
    async def scenario():
        tenants = Tenants([], others=Tenant(request_rate=0.1))
        for name in ("a", "b", "c"):
            tenants.admit(name)
        with pytest.raises(Throttled):
            tenants.admit("a")

    run(scenario())


def test_nobody_else_is_known_unless_that_was_said():
    async def scenario():
        assert Tenants().of("anybody").name == "anybody"
        with pytest.raises(TenantUnknown):
            Tenants([Tenant(name="a")]).of("b")

    run(scenario())


@pytest.mark.parametrize("clients", [1, 4])
def test_all_uploads_of_a_tenant_together_keep_to_its_bandwidth(clients):
    async def scenario():
        world = World(part_size=100)
        process = world.process(budget=10_000, tenants=Tenants([Tenant(name=SCOPE.tenant, bandwidth=100)]))
        begin = asyncio.get_running_loop().time()
        uploads = [process.create(1000, Sender(some_bytes(1000), chunks=(50,))) for _ in range(clients)]
        made = await asyncio.gather(*uploads)
        seconds = asyncio.get_running_loop().time() - begin
        assert {upload.state for upload in made} == {State.COMPLETE}
        assert 10 * clients - 1 <= seconds <= 10 * clients + 1
        await process.completion.stop()

    run(scenario())


def test_a_body_that_waits_for_its_pace_ends_at_once_when_the_process_does():
    async def scenario():
        world = World(part_size=100)
        process = world.process(budget=10_000, tenants=Tenants([Tenant(name=SCOPE.tenant, bandwidth=1)]))
        upload = await process.create(1000)
        sending = asyncio.create_task(process.append(upload, Sender(some_bytes(1000), chunks=(50,))))
        await asyncio.sleep(10)
        begin = asyncio.get_running_loop().time()
        await process.writers.drain()
        with pytest.raises(Draining):
            await sending
        assert asyncio.get_running_loop().time() - begin < 1
        assert (await process.committed(upload.id)).offset == 50

    run(scenario())
