"""detect, embed_boxes and embed_crops: what a caller relies on."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torchvision.ops import box_iou

from model import BINet, Detections, Picture, Scene, roi
from model.cropping import cut
from model.roi import are_parts, vote
from tests.conftest import (
    random_picture,
    random_targets,
    small_network,
)


def assert_same(one: Detections, other: Detections, atol: float = 1e-4) -> None:
    assert len(one) == len(other)
    np.testing.assert_allclose(one.boxes_xyxy, other.boxes_xyxy, atol=100 * atol)
    np.testing.assert_allclose(one.scores, other.scores, atol=atol)
    np.testing.assert_allclose(one.embeddings, other.embeddings, atol=atol)


def test_batched_equals_single(network: BINet) -> None:
    sizes = [(120, 160), (90, 200), (120, 160), (64, 64), (120, 160), (200, 90)]
    scenes = [random_picture(h, w, seed=i) for i, (h, w) in enumerate(sizes)]
    together = network.detect(scenes, batch_size=2)
    assert sum(len(d) for d in together) > 10
    for scene, detections in zip(scenes, together, strict=True):
        assert_same(detections, network.detect([scene])[0])


def test_crops_batched_equals_single(network: BINet) -> None:
    crops = [random_picture(h, w, seed=h) for h, w in ((80, 30), (224, 96), (33, 57), (5, 3))]
    together = network.embed_crops(crops, batch_size=3)
    assert together.shape == (4, 256)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    for crop, embedding in zip(crops, together, strict=True):
        np.testing.assert_allclose(network.embed_crops([crop])[0], embedding, atol=1e-4)


def test_crops_of_original_size(network: BINet) -> None:
    original = small_network("binet-o")
    crops = [random_picture(80, 30), random_picture(500, 300, seed=1), random_picture(224, 96)]
    embeddings = original.embed_crops(crops)
    for crop, embedding in zip(crops, embeddings, strict=True):
        np.testing.assert_allclose(original.embed_crops([crop])[0], embedding, atol=1e-4)
    # At exactly the patch's size RoIAlign has the map's own grid: nearly what `resized` gives.
    resized = network.embed_crops([crops[2]])[0]
    assert resized @ embeddings[2] > 0.9


def test_detections_are_inside_the_scene_and_best_first(network: BINet) -> None:
    detections = network.detect([random_picture(480, 640)])[0]
    assert len(detections) > 3
    assert (detections.boxes_xyxy >= 0).all()
    assert (detections.boxes_xyxy <= np.array([640, 480, 640, 480]) + 1e-3).all()
    assert (np.diff(detections.scores) <= 0).all()
    assert (detections.scores > network.config.score_threshold).all()


def test_boxes_are_in_the_scenes_own_pixels(network: BINet) -> None:
    scene = network.preprocessing.scene(random_picture(100, 150))
    larger = Scene(scene.pixels, width=600, height=300)  # the same input from a larger picture
    own, scaled = network.detect([scene, larger])
    assert len(own) > 3
    np.testing.assert_allclose(
        scaled.boxes_xyxy, own.boxes_xyxy * np.array([4, 3, 4, 3]), rtol=1e-4, atol=1e-2
    )
    boxes = np.array([[10.0, 5, 60, 90]])
    np.testing.assert_allclose(
        network.embed_boxes(larger, boxes * np.array([4, 3, 4, 3])),
        network.embed_boxes(scene, boxes),
        atol=1e-5,
    )


def test_score_threshold(network: BINet) -> None:
    picture = random_picture(120, 160)
    everything, default, nothing = (
        network.detect([picture], score_threshold=t)[0] for t in (0.0, None, 1.0)
    )
    assert len(everything) > len(default) > len(nothing) == 0
    assert nothing.embeddings.shape == (0, 256)
    assert nothing.boxes_xyxy.shape == (0, 4)


def test_no_scenes_no_crops_no_boxes(network: BINet) -> None:
    assert network.detect([]) == []
    assert network.embed_crops([]).shape == (0, 256)
    assert network.embed_boxes(random_picture(64, 64), np.zeros((0, 4))).shape == (0, 256)


def test_embed_boxes_is_what_detect_pools_at_a_proposal() -> None:
    network = small_network()
    torch.nn.init.zeros_(network.predictor.box.bias)
    torch.nn.init.zeros_(network.predictor.box.weight)  # boxes stay where their proposals are
    picture = random_picture(128, 128)
    detections = network.detect([picture])[0]
    assert len(detections) > 3
    embeddings = network.embed_boxes(picture, detections.boxes_xyxy)
    np.testing.assert_allclose(embeddings, detections.embeddings, atol=1e-3)


def test_scores_and_boxes_from_the_map_before_it_is_pooled() -> None:
    """Weights that give each cell its share of the pooled ones' give the same people."""
    pooled, ours = small_network(), small_network(detection_from="map")
    state = pooled.state_dict()
    for name in ("predictor.score.weight", "predictor.box.weight"):
        cells = 7 * 3
        shared = state[name][:, :, None].expand(-1, -1, cells) / cells
        state[name] = shared.reshape(len(shared), -1)
    ours.load_state_dict(state)
    scenes = [random_picture(240, 320), random_picture(90, 200, seed=1)]
    for one, other in zip(pooled.detect(scenes), ours.detect(scenes), strict=True):
        assert_same(one, other)
    ours.train()
    prepared = [ours.preprocessing.scene(scene) for scene in scenes]
    losses = ours(prepared, [random_targets([0, 1]), random_targets([2], seed=1)])
    losses["roi_box"].backward()
    assert ours.predictor.box.weight.grad is not None
    assert bool(ours.predictor.box.weight.grad.any())


def test_the_rpn_alone_finds_people_where_the_configuration_says_so() -> None:
    """They are its proposals, less those below the threshold and those covered by better ones."""
    network = small_network(detection_from="rpn", rpn_convs=2, rpn_post_nms_test=50)
    scenes = [random_picture(240, 320), random_picture(240, 320, seed=1)]
    prepared = [network.preprocessing.scene(scene) for scene in scenes]
    images, sizes = network.normalise([scene.pixels for scene in prepared])
    with torch.inference_mode():
        proposals, scores = network.propose_scored(images, network.trunk_maps(images), sizes)
        same, _ = network.propose(images, network.trunk_maps(images), sizes)
    threshold = float(scores[0].median())
    found = network.detect(scenes, threshold)
    for scene, boxes, plain, score, people in zip(
        prepared, proposals, same, scores, found, strict=True
    ):
        torch.testing.assert_close(boxes, plain)
        kept: list[int] = []
        for i in range(len(boxes)):
            if score[i] <= threshold:
                continue
            others = torch.stack([boxes[j] for j in kept]) if kept else boxes[:0]
            if not (box_iou(boxes[i : i + 1], others) > network.config.detection_nms_iou).any():
                kept.append(i)
        assert 0 < len(kept) < len(boxes)
        np.testing.assert_allclose(people.scores, score[kept], rtol=1e-6)
        expected = boxes[kept] / scene.scale
        np.testing.assert_allclose(people.boxes_xyxy, expected, rtol=1e-5)
    at_boxes = network.embed_boxes(scenes[0], found[0].boxes_xyxy)
    np.testing.assert_allclose(found[0].embeddings, at_boxes, atol=1e-4)


def test_large_people_are_those_of_the_half_scene() -> None:
    """A picture whose pixels are all doubled: its half is what it was made from."""
    network = small_network(detection_from="rpn", rpn_post_nms_test=50, detect_large=True)
    plain = small_network(detection_from="rpn", rpn_post_nms_test=50)
    plain.load_state_dict(network.state_dict())
    small = torch.from_numpy(random_picture(248, 170)).permute(2, 0, 1)
    doubled = small.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)

    def proposed(net: BINet, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        images, sizes = net.normalise([pixels])
        with torch.inference_mode():
            boxes, scores = net.propose_scored(images, net.trunk_maps(images), sizes)
        return boxes[0], scores[0]

    boxes, scores = proposed(plain, doubled)
    half_boxes, half_scores = proposed(plain, small)
    expected = [
        (score, box)
        for score, box in zip(scores.tolist(), boxes.tolist(), strict=True)
        if box[3] - box[1] <= 288
    ]
    usual = len(expected)
    expected += [
        (score, [2 * side for side in box])
        for score, box in zip(half_scores.tolist(), half_boxes.tolist(), strict=True)
        if 2 * (box[3] - box[1]) > 224
    ]
    assert 0 < usual < len(expected)
    expected.sort(key=lambda pair: -pair[0])
    found, found_scores = proposed(network, doubled)
    np.testing.assert_allclose(found_scores, [score for score, _ in expected], rtol=1e-4)
    np.testing.assert_allclose(found, [box for _, box in expected], atol=0.1)


def test_the_half_scene_is_looked_at_where_there_is_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenes with a hint beside scenes without: each is as it is alone."""
    network = small_network(detection_from="rpn", detect_large=True)
    pixels = [random_picture(248, 170, seed=seed) for seed in range(8)]
    images, sizes = network.normalise([torch.from_numpy(p).permute(2, 0, 1) for p in pixels])
    with torch.inference_mode():
        maps = network.trunk_maps(images)
        monkeypatch.setattr(roi, "HINT_SCORE", 1.0)
        plain, scores = network.propose_scored(images, maps, sizes)
        best = [
            float(score[boxes[:, 3] - boxes[:, 1] > roi.HINT_PX].max())
            for boxes, score in zip(plain, scores, strict=True)
        ]
        monkeypatch.setattr(roi, "HINT_SCORE", float(np.median(best)))
        together, _ = network.propose_scored(images, maps, sizes)
        for place, boxes in enumerate(together):
            only = slice(place, place + 1)
            (alone,), _ = network.propose_scored(images[only], maps[only], sizes[only])
            torch.testing.assert_close(boxes, alone, atol=0.1, rtol=0)
            changed = boxes.shape != plain[place].shape or not torch.equal(boxes, plain[place])
            assert changed == (best[place] > np.median(best))


def test_parts_of_somebody_large_are_nobody() -> None:
    boxes = {
        "large": [100.0, 0, 250, 500],
        "legs": [120.0, 250, 230, 500],
        "far away, before them": [150.0, 100, 180, 200],
        "beside them": [200.0, 100, 350, 450],
        "as large, behind them": [110.0, 20, 240, 490],
        "elsewhere": [400.0, 0, 480, 240],
        "legs elsewhere": [410.0, 120, 470, 240],
    }
    parts = are_parts(torch.tensor(list(boxes.values()))).tolist()
    assert [name for name, part in zip(boxes, parts, strict=True) if part] == ["legs"]
    stage = small_network(detection_from="rpn", detect_large=True).roi_stage
    two = torch.tensor([boxes["legs"], boxes["large"]])
    for threshold, kept in ((0.1, ["large"]), (0.5, ["legs"])):
        found = stage.select(two, torch.tensor([0.9, 0.3]), threshold)[0]
        assert found.tolist() == [boxes[name] for name in kept]


def test_large_people_need_an_rpn_that_detects() -> None:
    with pytest.raises(ValidationError, match="detection_from='rpn'"):
        small_network(detect_large=True)


def test_boxes_are_means_of_those_that_overlap_them() -> None:
    """Against a loop over pairs of boxes, in float64."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 40, (60, 2))
    voters = np.concatenate([corners, corners + rng.uniform(20, 60, (60, 2))], axis=1)
    weights = rng.uniform(0, 1, 60)
    weights[:5] = 0  # what nothing is sure of keeps its place
    expected = []
    for x0, y0, x1, y1 in voters[:20]:
        boxes, shares = [], []
        for (a0, b0, a1, b1), weight in zip(voters, weights, strict=True):
            shared = max(min(x1, a1) - max(x0, a0), 0) * max(min(y1, b1) - max(y0, b0), 0)
            if shared / ((x1 - x0) * (y1 - y0) + (a1 - a0) * (b1 - b0) - shared) >= 0.6:
                boxes.append((a0, b0, a1, b1))
                shares.append(max(weight, 1e-12))
        expected.append(np.average(boxes, axis=0, weights=shares))
    every, sure = torch.from_numpy(voters), torch.from_numpy(weights)
    found = vote(every[:20], every, sure, 0.6)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):  # as in an RPN of bfloat16
        found = vote(every[:20].float(), every.float(), sure.float(), 0.6)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert 0 < np.isclose(found, voters[:20]).all(axis=1).sum() < 20


def test_a_detector_whose_boxes_vote() -> None:
    """Scores and order stay; a box that only agrees with itself does, too."""
    plain = small_network(detection_from="rpn", rpn_post_nms_test=50)
    scenes = [random_picture(120, 160, seed=seed) for seed in range(2)]
    images, sizes = plain.normalise([plain.preprocessing.scene(scene).pixels for scene in scenes])
    found = {}
    for iou in (None, 0.5, 1.0):
        network = small_network(detection_from="rpn", rpn_post_nms_test=50, vote_iou=iou)
        network.load_state_dict(plain.state_dict())
        with torch.inference_mode():
            found[iou] = network.propose_scored(images, network.trunk_maps(images), sizes)
    for place in range(len(scenes)):
        boxes = {iou: found[iou][0][place] for iou in found}
        torch.testing.assert_close(boxes[1.0], boxes[None], atol=1e-3, rtol=0)
        assert ((boxes[0.5] - boxes[None]).abs().amax(dim=1) > 1).any()
        torch.testing.assert_close(found[0.5][1][place], found[None][1][place])


def test_votes_need_an_rpn_that_detects() -> None:
    with pytest.raises(ValidationError, match="detection_from='rpn'"):
        small_network(vote_iou=0.7)


def test_an_rpn_that_is_the_detector_learns_alone() -> None:
    network = small_network(detection_from="rpn").train()
    prepared = [network.preprocessing.scene(random_picture(128, 128))]
    losses = network(prepared, [random_targets([0, 1])])
    assert "roi_score" not in losses
    assert "roi_box" not in losses
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in network.named_parameters():
        # Every parameter that is trained gets a gradient, or several processes could not.
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_a_mirrored_crop_has_the_same_embedding_where_the_configuration_says_so() -> None:
    plain, ours = small_network(), small_network(mirror=True)
    crops = [random_picture(h, w, seed=h) for h, w in ((80, 30), (224, 96), (33, 57))]
    mirrored = [crop[:, ::-1] for crop in crops]
    found = ours.embed_crops(crops, batch_size=2)
    np.testing.assert_allclose(found, ours.embed_crops(mirrored), atol=1e-5)
    both = plain.embed_crops(crops) + plain.embed_crops(mirrored)
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    np.testing.assert_allclose(found, both, atol=1e-5)
    assert np.abs(found - plain.embed_crops(crops)).max() > 0.01
    with pytest.raises(ValidationError, match="needs instance_branch"):
        small_network("baseline", mirror=True)


def test_people_are_embedded_as_crops_where_the_configuration_says_so() -> None:
    """Boxes and scores stay; the embeddings are those of crops of the picture itself."""
    plain = small_network(rpn_post_nms_test=40)
    ours = small_network(rpn_post_nms_test=40, gallery_branch="instance")
    pictures = [random_picture(240, 320), random_picture(90, 200, seed=1)]
    nobody = np.zeros((50, 70, 3), np.uint8)
    expected = plain.detect(pictures)
    found = ours.detect([*pictures, nobody], score_threshold=ours.config.score_threshold)
    for picture, one, other in zip(pictures, expected, found, strict=False):
        np.testing.assert_array_equal(one.boxes_xyxy, other.boxes_xyxy)
        np.testing.assert_array_equal(one.scores, other.scores)
        pixels = torch.from_numpy(picture).permute(2, 0, 1)
        np.testing.assert_allclose(
            other.embeddings, plain.embed_crops(cut(pixels, one.boxes_xyxy)), atol=1e-5
        )
        if len(one):
            people = ours.embed_people(picture, one.boxes_xyxy)
            np.testing.assert_allclose(people, other.embeddings, atol=1e-5)
            searched = plain.embed_people(picture, one.boxes_xyxy)
            np.testing.assert_array_equal(searched, plain.embed_boxes(picture, one.boxes_xyxy))
    unprepared = plain.preprocessing.scene(pictures[0])
    with pytest.raises(ValueError, match="prepare scenes with its own"):
        ours.detect([unprepared])
    with pytest.raises(ValidationError, match="needs instance_branch"):
        small_network("baseline", gallery_branch="instance")


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[10, 10, 10, 40]], "box 0"),
        ([[0, 0, 9, 9], [70, 0, 90, 9]], "box 1"),
        ([[0, 0, np.nan, 9]], "box 0"),
        ([0, 0, 9, 9], "shape"),
    ],
)
def test_boxes_without_area_in_the_picture_are_refused(
    network: BINet, boxes: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        network.embed_boxes(random_picture(64, 64), np.array(boxes, np.float32))


def test_a_box_that_reaches_past_the_picture_is_cut(network: BINet) -> None:
    picture = random_picture(64, 64)
    past, cut = network.embed_boxes(picture, np.array([[-20, 10, 30, 99], [0, 10, 30, 64]]))
    np.testing.assert_allclose(past, cut, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (1, 1), (8000, 40), (30, 8000), (1, 3000)])
def test_extreme_sizes(network: BINet, height: int, width: int) -> None:
    picture = random_picture(height, width)
    detections = network.detect([picture], score_threshold=0.0)[0]
    limit = np.array([width, height, width, height])
    assert (detections.boxes_xyxy <= limit + 1e-2).all()
    assert network.embed_crops([picture]).shape == (1, 256)


def test_a_large_scene(network: BINet) -> None:
    assert len(network.detect([random_picture(4500, 8000)])[0]) > 0


def test_a_scene_with_nobody() -> None:
    network = small_network()
    torch.nn.init.constant_(network.predictor.score.bias, 0)
    with torch.no_grad():
        network.predictor.score.bias[1] = -100
    detections = network.detect([random_picture(120, 160)])[0]
    assert len(detections) == 0


def pictures() -> dict[str, tuple[Picture, Picture]]:
    """Each kind of picture, and the RGB array that it stands for."""
    rgb = random_picture(60, 90)
    grey = rgb[:, :, 0].copy()
    grey_rgb = np.repeat(grey[:, :, None], 3, axis=2)
    image = Image.fromarray(rgb)

    alpha = np.full((60, 90, 1), 255, np.uint8)
    alpha[:20] = 0
    on_white = rgb.copy()
    on_white[:20] = 255

    rotated = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # the picture has to be turned by 90 degrees clockwise
    image.transpose(Image.Transpose.ROTATE_90).save(rotated, "PNG", exif=exif)

    return {
        "PIL": (image, rgb),
        "grey array": (grey, grey_rgb),
        "grey array with an axis": (grey[:, :, None], grey_rgb),
        "grey PIL": (Image.fromarray(grey), grey_rgb),
        "palette": (image.quantize(256), np.array(image.quantize(256).convert("RGB"))),
        "16 bit": (Image.fromarray(grey.astype(np.uint16) * 257), grey_rgb),
        "alpha array": (np.concatenate([rgb, alpha], axis=2), on_white),
        "alpha PIL": (Image.fromarray(np.concatenate([rgb, alpha], axis=2)), on_white),
        "CMYK": (image.convert("CMYK"), np.array(image.convert("CMYK").convert("RGB"))),
        "EXIF": (Image.open(rotated), rgb),
        "tensor": (torch.from_numpy(rgb).permute(2, 0, 1), rgb),
        "grey tensor": (torch.from_numpy(grey)[None], grey_rgb),
        "negative strides": (rgb[::-1, ::-1], rgb[::-1, ::-1].copy()),
    }


@pytest.mark.parametrize("kind", pictures())
def test_pictures_of_every_kind(network: BINet, kind: str) -> None:
    picture, rgb = pictures()[kind]
    assert_same(network.detect([picture])[0], network.detect([rgb])[0], atol=1e-6)
    np.testing.assert_allclose(
        network.embed_crops([picture]), network.embed_crops([rgb]), atol=1e-6
    )


def test_inference_needs_eval_mode() -> None:
    network = small_network().train()
    with pytest.raises(RuntimeError, match="eval"):
        network.detect([random_picture(64, 64)])
