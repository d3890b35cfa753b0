"""Schemathesis over the whole interface: nothing answers 5xx, or other than it is documented."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from service.keys import create_key
from service.roles import Role
from tests.indexer.archives_made import run_index
from tests.service.conftest import run_here, serving

CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
#: The committed document; another test looks whether it is the service's.
OPENAPI = Path(__file__).resolve().parents[2] / "docs" / "openapi.json"
#: Requests for each operation; more in `make nightly`.
EXAMPLES = int(os.environ.get("BINET_EXAMPLES", "12"))


@pytest.fixture(scope="module")
def address_and_key(
    tmp_path_factory: pytest.TempPathFactory, pictures: Path
) -> Iterator[tuple[str, str]]:
    place = tmp_path_factory.mktemp("service") / "gallery"
    run_index(place, [pictures / "door", pictures / "yard"])
    options = {"roots": (pictures,), "run_job": partial(run_here, place), "rate": "99999/second"}
    with serving(place, **options) as (address, service):
        yield address, create_key(service.store, "fuzzer", Role.ADMIN)[1]


schema = schemathesis.openapi.from_path(OPENAPI)


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_the_interface_is_as_it_is_documented(case: Any, address_and_key: tuple[str, str]) -> None:
    address, key = address_and_key
    headers = {"Authorization": f"Bearer {key}"}
    response = case.call(base_url=address, headers=headers, timeout=30)
    case.validate_response(response, checks=CHECKS, headers=headers)
