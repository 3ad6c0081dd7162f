"""The pool on two nodes that are started from the command line, over TCP and over TLS: the contract of the local pool."""

from __future__ import annotations

import os
import shutil
import subprocess

import numpy as np
import pytest

from tests.integrations.conftest import library
from tests.integrations.dask_nodes import Nodes, wait_for
from tests.integrations.test_dask import CONTRACT, _threads

distributed = library("distributed")
ours = library("arrowpool.integrations.dask")

pytestmark = pytest.mark.timeout(180)
LIMIT = 60

globals().update(CONTRACT)


@pytest.fixture(autouse=True)
def _census(request):
    """In place of the one for all tests: Dask's client keeps connections and threads. Ours must be gone."""
    if "pool" in request.fixturenames and request.node.get_closest_marker("own_pool") is None:
        request.getfixturevalue("_pool_for_all")
    before = _threads()
    yield
    request.node.funcargs.clear()
    wait_for(lambda: not _threads() - before, 10)


def _certificate(folder):
    """A private authority, and a certificate for scheduler, nodes and client."""
    openssl = shutil.which("openssl") or pytest.skip("openssl is not installed")

    def run(*options):
        subprocess.run([openssl, *options], cwd=folder, check=True, capture_output=True, timeout=LIMIT)

    new = "req", "-newkey", "rsa:2048", "-nodes", "-subj"
    run(*new, "/CN=authority", "-x509", "-days", "1", "-keyout", "ca-key.pem", "-out", "ca.pem")
    run(*new, "/CN=node", "-keyout", "key.pem", "-out", "request.pem")
    signed = "-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial", "-days", "1"
    run("x509", "-req", "-in", "request.pem", *signed, "-out", "cert.pem")
    return {name: str(folder / f"{name}.pem") for name in ("ca", "cert", "key")}


@pytest.fixture(scope="module", params=["tcp", "tls"])
def client(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    options, security = (), None
    if request.param == "tls":
        files = _certificate(folder)
        options = [
            f"--tls-{kind}={files[name]}" for kind, name in (("ca-file", "ca"), ("cert", "cert"), ("key", "key"))
        ]
        security = distributed.Security(
            tls_ca_file=files["ca"], tls_client_cert=files["cert"], tls_client_key=files["key"], require_encryption=True
        )
    with Nodes(folder, options) as nodes:
        for _ in range(2):
            nodes.add()
        with distributed.Client(
            scheduler_file=nodes.scheduler_file, security=security, timeout=LIMIT, set_as_default=False
        ) as client:
            client.wait_for_workers(2, timeout=LIMIT)
            yield client


@pytest.fixture(scope="module")
def _pool_for_all(client):
    with ours.Pool(client) as pool:
        yield pool
    pool.join()


@pytest.fixture
def pool(request, client):
    """A pool of two nodes, of one process each."""
    if request.node.get_closest_marker("own_pool") is None:
        yield request.getfixturevalue("_pool_for_all")
    else:
        with ours.Pool(client) as pool:
            yield pool
        pool.join()


def test_tasks_run_on_both_nodes(pool, client):
    assert len(set(pool.map(_node, range(40), 1))) == 2
    assert all(address.startswith(client.scheduler.address[:6]) for address in client.scheduler_info()["workers"])


def _node(_):
    return os.getppid()


def test_large_data(pool):
    array = np.random.default_rng(0).random(1_000_000)
    for back in pool.imap(_same, [array, array + 1]):
        assert back.flags.writeable
        assert back[0] in (array[0], array[0] + 1)


def _same(value):
    return value
