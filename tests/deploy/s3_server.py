"""An S3-compatible server (moto's) for a module of tests; the environment names it as a deployment's would.

It answers real HTTP requests of the real client, conditional writes included. It keeps objects in memory and does not
check signatures, so credentials are not under test here.
"""

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A boto3 client of the server. No bucket is made beforehand: the store makes its own."""
    moto = pytest.importorskip("moto.server", reason="the S3 server of the tests is moto[server]")
    boto3 = pytest.importorskip("boto3")
    s3fs = pytest.importorskip("s3fs")
    s3fs.S3FileSystem.clear_instance_cache()  # kept clients know the address of another module's server
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    names = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "AKIATESTKEY",
        "AWS_SECRET_ACCESS_KEY": "testsecret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in names.items():
            patch.setenv(name, value)
        yield boto3.client("s3")
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()
