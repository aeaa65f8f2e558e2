"""README's recipes for a deployment: servers, nginx, a unit of systemd and Celery, with the files that stand there."""

import asyncio
import shutil
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection

from tests.needs import need
from tests.processes.chat import HOST, free_port
from tests.processes.site import Site, heard
from tests.readme import block, shell

NGINX = """
daemon off;
master_process off;
pid nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    {}
}}
"""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A site, none of whose processes runs."""
    return Site(tmp_path)


async def told(site: Site, crowd: list[ClientConnection]) -> None:
    """What one of them says, and what another process says, reaches them all, in every process."""
    await crowd[0].send("hello")
    assert {await heard(client) for client in crowd} == {"hello"}
    await asyncio.to_thread(shell, "python manage.py say 'a command speaks'", site.folder, **site.variables)
    assert {await heard(client) for client in crowd} == {"a command speaks"}


@pytest.mark.parametrize(
    ("recipe", "processes"),
    [(block("deploy: daphne"), 1), (block("deploy: uvicorn"), 2), (block("deploy: gunicorn"), 2)],
    ids=["daphne", "uvicorn", "gunicorn"],
)
async def test_server(site: Site, recipe: str, processes: int) -> None:
    """With each server, messages go between its processes, and come in from another one."""
    with site.running(site.here(recipe)):
        async with site.crowd(processes) as crowd:
            await told(site, crowd)


async def test_unit(site: Site) -> None:
    """systemd finds the unit in order, and what it would run serves the site, after the checks and the migrations."""
    need(shutil.which("systemd-analyze"), "needs systemd-analyze (Debian's package systemd)")
    unit = site.folder / "mysite.service"
    unit.write_text(site.here(block("deploy: unit")))
    assert shell(f"systemd-analyze verify {unit}", site.folder) == ""
    service = _service(unit)
    assert service["WorkingDirectory"] == [str(site.folder)]
    variables = dict(pair.split("=") for pair in service["Environment"])
    for command in service["ExecStartPre"]:
        await asyncio.to_thread(shell, command, site.folder, **variables)
    assert (site.folder / "db-channels.sqlite3").exists()
    with site.running(*service["ExecStart"]):
        async with site.crowd(processes=2) as crowd:
            await told(site, crowd)


def _service(unit: Path) -> dict[str, list[str]]:
    """The section [Service]: what may stand there several times is a list of lines."""
    lines = unit.read_text().split("[Service]\n")[1].split("\n[")[0].splitlines()
    found: dict[str, list[str]] = {}
    for name, _, value in (line.partition("=") for line in lines if line):
        found.setdefault(name, []).append(value)
    return found


async def test_nginx(site: Site) -> None:
    """A WebSocket through nginx hears what is told to the room."""
    need(shutil.which("nginx"), "needs nginx (Debian's package nginx-light)")
    port = free_port()
    server = site.here(block("deploy: nginx")).replace("listen 80", f"listen {HOST}:{port}")
    (site.folder / "nginx.conf").write_text(NGINX.format(server))
    nginx = site.running(f"nginx -p {site.folder} -c nginx.conf", port=port)
    with site.running(site.here(block("deploy: daphne"))), nginx:
        async with site.crowd(1, port) as crowd:
            await told(site, crowd)


async def test_worker(site: Site) -> None:
    """What is sent to a background worker's channel is done there, and the room hears of it."""
    worker = site.running(block("deploy: worker"))  # what is sent before it has begun waits
    with site.running(site.here(block("deploy: daphne"))), worker:
        async with site.crowd(1) as crowd:
            send = "from channels.layers import get_channel_layer as get; get().sync.send('jobs', MESSAGE)"
            message = "dict(type='work', what='the job')"
            command = f'python manage.py shell -c "{send.replace("MESSAGE", message)}"'
            await asyncio.to_thread(shell, command, site.folder, **site.variables)
            assert await heard(crowd[0]) == "the job is done"


async def test_celery(site: Site) -> None:
    """What a task sends in a process of the worker's reaches a WebSocket."""
    task = "import django; django.setup(); from rooms.tasks import announce; announce.delay('hi')"
    worker = site.running(block("deploy: celery worker"), says="[queues]")
    with site.running(site.here(block("deploy: daphne"))), worker:
        async with site.crowd(1) as crowd:
            await asyncio.to_thread(shell, f'python -c "{task}"', site.folder, **site.variables)
            assert await heard(crowd[0]) == "hi"
