"""The client against the service itself, on a socket of this machine."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from service.client import Client, ServiceError
from service.keys import create_key
from service.roles import Role
from tests.service.conftest import serving
from tests.service.test_search import png


@pytest.fixture
def served(folder: Path) -> Iterator[tuple[str, str]]:
    """Address of a service, and an administrator's secret."""
    with serving(folder) as (address, service):
        yield address, create_key(service.store, "admin", Role.ADMIN)[1]


def test_the_client_searches_looks_and_makes_keys(served: tuple[str, str], tmp_path: Path) -> None:
    address, secret = served
    admin = Client(f"{address}/", secret)
    (tmp_path / "crop.png").write_bytes(png(1))
    found = admin.search([tmp_path / "crop.png"], k=5, reason="theft", group_by="frame")
    assert found.meaning == "similar, not identified"
    assert len(found.results) == 5
    assert sum(len(group.results) for group in found.groups) == 5
    assert admin.search([png(1)], k=5).results == found.results
    best = found.results[0]
    for data in (
        admin.crop(best.box_id),
        admin.frame_picture(best.frame.id),
        admin.frame_picture(best.frame.id, draw=[best.box_id]),
    ):
        with Image.open(io.BytesIO(data)) as image:
            assert image.format == "JPEG"
    again = admin.search(
        box_ids=[best.box_id],
        not_box_ids=[found.results[-1].box_id],
        not_crops=[png(2)],
        cameras=[best.frame.camera],
        after=best.frame.captured_at,
        case="case 7",
    )
    assert all(r.frame.camera == best.frame.camera for r in again.results)
    assert admin.search(scene=png(3, (60, 60))).people
    assert admin.search(scene=png(3, (60, 60)), box=(1, 2, 30, 40)).results
    assert admin.stats().frames == 7

    made = admin.create_key("desk", cameras=["door"])
    desk = Client(address, made.secret)
    assert [camera.name for camera in desk.cameras()] == ["door"]
    with pytest.raises(ServiceError, match="role admin") as refused:
        desk.list_keys()
    assert refused.value.status == 403
    assert [key.name for key in admin.list_keys()] == ["admin", "desk"]
    admin.revoke_key(made.id)
    with pytest.raises(ServiceError, match="not valid"):
        desk.cameras()


def test_the_client_reviews(served: tuple[str, str]) -> None:
    address, secret = served
    one = Client(address, secret)
    two = Client(address, one.create_key("second", Role.VIEWER).secret)
    case = one.create_case("theft")
    found = one.search([png(1)], k=2, case="theft")
    first, other = (result.box_id for result in found.results)
    for box in (first, other):
        assert one.propose(case.id, box, found.audit_id, "look").reviews[-1].box_id == box
    one.confirm(case.id, first)
    assert two.confirm(case.id, first).reviews[0].state == "confirmed"
    assert two.reject(case.id, other, "no").reviews[1].note == "no"
    assert two.cases()[0].counts == {"confirmed": 1, "rejected": 1}
    assert two.case(case.id).reviews[0].score == pytest.approx(found.results[0].score, abs=1e-4)
    with zipfile.ZipFile(io.BytesIO(two.export_case(case.id))) as archive:
        assert archive.testzip() is None


def test_what_cannot_be_asked(served: tuple[str, str]) -> None:
    address, _ = served
    with pytest.raises(ServiceError, match="Give a key") as refused:
        Client(address).cameras()
    assert refused.value.status == 401
    with pytest.raises(ServiceError, match="cannot be reached") as away:
        Client("http://127.0.0.1:1").cameras()
    assert away.value.status == 0
    with pytest.raises(ValueError, match="no address"):
        Client("file:///etc/passwd")
