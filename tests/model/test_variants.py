"""Every system of the paper is one class with switches, and the switches do what they say."""

import copy
from collections.abc import Sequence

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from model import VARIANTS, BINet, BINetConfig, Crops, Target, total_loss, variant_config
from model.branches import cut_patches
from tests.conftest import random_picture, random_targets, small_config, small_network

DETECTION = {"rpn_objectness", "rpn_box", "roi_score", "roi_box"}
SIAMESE = DETECTION | {"oim_search", "oim_instance"}
FULL = SIAMESE | {"feature_interaction", "prediction_interaction"}
#: The table of the paper's systems: which losses each has.
LOSSES = {
    "baseline": DETECTION | {"oim_search"},
    "oim": DETECTION | {"oim_search"},
    "siamese": SIAMESE,
    "re-id-o": SIAMESE,
    "binet": FULL,
    "binet-1": FULL,
    "binet-2": FULL,
    "binet-3": FULL - {"prediction_interaction"},
    "binet-4": FULL - {"feature_interaction"},
    "binet-o": FULL,
}


def variant_network(variant: str) -> BINet:
    fields = {"backbone": "resnet50"} if variant == "oim" else {}
    return small_network(variant, **fields)


def step(network: BINet, targets: list[Target] | None = None) -> dict[str, Tensor]:
    network.train()
    targets = targets or [random_targets([0, 1, -1]), random_targets([2, -1], seed=1)]
    scenes = [
        network.preprocessing.scene(random_picture(120, 130 + 10 * i, seed=i))
        for i in range(len(targets))
    ]
    torch.manual_seed(1)  # the sampling of RoIs
    losses: dict[str, Tensor] = network(scenes, targets)
    return losses


def test_the_table_is_complete() -> None:
    assert set(LOSSES) == set(VARIANTS)


@pytest.mark.parametrize("variant", LOSSES)
def test_a_variant_has_its_losses_and_trains(variant: str) -> None:
    network = variant_network(variant)
    step(network)  # fills the look-up table
    losses = step(network)
    assert set(losses) == LOSSES[variant]
    assert all(loss.isfinite() and loss.ndim == 0 for loss in losses.values())
    assert all(loss > 0 for loss in losses.values())
    total_loss(losses).backward()
    without = [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert not without


def test_binet_has_exactly_the_parameters_of_the_baseline() -> None:
    def parameters(variant: str) -> dict[str, torch.Size]:
        return {n: p.shape for n, p in small_network(variant).named_parameters()}

    baseline = parameters("baseline")
    for variant in set(VARIANTS) - {"oim"}:
        assert parameters(variant) == baseline, variant


def test_the_search_branch_is_the_same_with_and_without_the_instance_branch() -> None:
    binet, baseline = small_network("binet"), small_network("baseline")
    baseline.load_state_dict(binet.state_dict())
    picture = random_picture(120, 160)
    with_branch, without = binet.detect([picture])[0], baseline.detect([picture])[0]
    assert len(with_branch) > 0
    assert (with_branch.boxes_xyxy == without.boxes_xyxy).all()
    assert (with_branch.scores == without.scores).all()
    assert (with_branch.embeddings == without.embeddings).all()


class Unshared(BINet):
    """BINet whose instance-aware branch has a trunk of its own, to tell the gradients apart."""

    def separate_instance_branch(self) -> None:
        self.instance_trunk = copy.deepcopy(self.trunk)

    def instance_maps(self, patches: Sequence[Tensor]) -> Tensor:
        own, self.trunk = self.trunk, self.instance_trunk
        try:
            return super().instance_maps(patches)
        finally:
            self.trunk = own


@pytest.mark.parametrize("patches", ["resized", "original"])
@pytest.mark.parametrize(
    ("direction", "search_learns", "instance_learns"),
    [
        ("both", True, True),
        ("instance_to_search", True, False),
        ("search_to_instance", False, True),
    ],
)
@pytest.mark.parametrize("loss", ["feature_interaction", "prediction_interaction"])
def test_direction_decides_which_branch_learns(
    loss: str, direction: str, search_learns: bool, instance_learns: bool, patches: str
) -> None:
    network = Unshared(small_config("binet", direction=direction, patches=patches), "random")
    network.separate_instance_branch()
    step(network)  # fills the look-up table
    step(network)[loss].backward()

    def learns(*modules: nn.Module) -> bool:
        grads = [p.grad for m in modules for p in m.parameters() if p.grad is not None]
        return any(bool(g.any()) for g in grads)

    assert learns(network.trunk) == search_learns
    assert learns(network.instance_trunk) == instance_learns
    # L_fi acts on the feature before the embedding layer (sec. 4.4), L_pi behind it.
    assert learns(network.predictor.embedding) == (loss == "prediction_interaction")
    assert not learns(network.predictor.score, network.predictor.box, network.rpn)


def test_the_oim_losses_reach_only_what_is_for_identities() -> None:
    network = small_network("binet")
    step(network)
    losses = step(network)
    (losses["oim_search"] + losses["oim_instance"]).backward()
    assert network.predictor.embedding.weight.grad is not None
    assert network.predictor.score.weight.grad is None
    assert network.rpn.head.conv[0][0].weight.grad is None


def test_both_branches_write_into_the_memory_in_order() -> None:
    network = small_network("siamese")
    step(network, [random_targets([-1])])
    position = int(network.search_memory.queue_position)
    assert network.search_memory.queue.any()
    assert not network.search_memory.lut.any()
    separate = small_network("siamese", memory="separate")
    step(separate, [random_targets([-1])])
    assert separate.instance_memory is not None
    # The same RoIs: shared counts them twice, separate once in each.
    assert position == 2 * int(separate.search_memory.queue_position) % 8
    assert separate.instance_memory.queue.any()


@pytest.mark.parametrize("pids", [[-1, -1], []])
@pytest.mark.parametrize("variant", ["baseline", "siamese", "binet", "binet-o"])
def test_scenes_of_unlabelled_persons_or_nobody_give_finite_losses(
    variant: str, pids: list[int]
) -> None:
    network = small_network(variant)
    for _ in range(2):
        losses = step(network, [random_targets(pids)])
        assert all(loss.isfinite() for loss in losses.values())
        assert losses["oim_search"].item() == 0
        total_loss(losses).backward()


def test_unlabelled_persons_take_part_in_both_interaction_losses() -> None:
    network = small_network("binet")
    step(network)  # a look-up table to compare with
    losses = step(network, [random_targets([-1, -1])])
    assert losses["feature_interaction"] > 0
    assert losses["prediction_interaction"] > 0


@pytest.mark.parametrize("reading", ["logits", "probabilities"])
def test_the_readings_of_eq4_and_the_reductions(reading: str) -> None:
    network = small_network("binet", interaction_input=reading)
    step(network)
    total = step(network)["prediction_interaction"].item()
    mean = small_network("binet", interaction_input=reading, interaction_reduction="mean")
    step(mean)
    assert 0 < step(mean)["prediction_interaction"].item() < total


def test_frozen_layers_do_not_learn() -> None:
    network = small_network("binet")
    frozen = {n for n, p in network.named_parameters() if not p.requires_grad}
    assert {n for n in frozen if n.startswith("trunk.stem")}
    step(network)
    batchnorms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert batchnorms
    assert not any(m.training or m.weight.requires_grad for m in batchnorms)

    head_only = small_network("binet", freeze_batchnorm="trunk").train()
    for part, trained in ((head_only.trunk, False), (head_only.head, True)):
        layers = [m for m in part.modules() if isinstance(m, nn.BatchNorm2d)]
        assert layers
        assert all(m.training == m.weight.requires_grad == trained for m in layers)

    free = small_network("binet", freeze_batchnorm="none", freeze_stem=False)
    assert all(p.requires_grad for p in free.parameters())
    free.train()
    assert any(m.training for m in free.modules() if isinstance(m, nn.BatchNorm2d))


def test_patches_hold_nothing_from_outside_their_box() -> None:
    image = torch.zeros(1, 3, 40, 30)
    image[:, :, 10:20, 5:12] = 1
    inside, sliver = cut_patches(image, [torch.tensor([[5.2, 9.8, 12.4, 20.3], [3, 3, 3.2, 3.1]])])
    assert inside.shape == (3, 10, 7)
    assert inside.min() == 1
    assert sliver.shape == (3, 1, 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"instance_branch": False}, "instance_branch"),
        ({"backbone": "mobilenet_v2", "split": "conv4_3"}, "resnet50 only"),
        ({"roi_size": (14, 14)}, "patch_size"),
        ({"colour": "red"}, "colour"),
        ({"num_pids": 0}, "num_pids"),
        ({"preprocessing": {"min_side": 9, "max_side": 8}}, "min_side"),
    ],
)
def test_contradictions_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        BINetConfig(**fields)  # type: ignore[arg-type]


def test_an_unknown_variant_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="binet-4"):
        variant_config("binet-5")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"boxes_xyxy": torch.tensor([[0.0, 0, 9, 9]]), "pids": torch.tensor([6])}, "num_pids"),
        ({"boxes_xyxy": torch.tensor([[9.0, 0, 9, 9]]), "pids": torch.tensor([0])}, "empty"),
        ({"boxes_xyxy": torch.tensor([[0.0, 0, 9]]), "pids": torch.tensor([0])}, "expected boxes"),
        ({"boxes_xyxy": torch.tensor([[0.0, 0, 9, 9]]), "pids": torch.tensor([0.0])}, "int64"),
    ],
)
def test_bad_targets_are_named(target: Target, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        step(small_network("baseline"), [target])


def test_losses_need_training_mode() -> None:
    network = small_network("baseline")
    with pytest.raises(RuntimeError, match="train"):
        network([network.preprocessing.scene(random_picture(64, 64))], [random_targets([0])])


def test_crops_are_positives_of_the_instance_branch_only() -> None:
    """A crop changes L_oim^r, and no other loss, as one more RoI with its identity would."""
    network = small_network().train()
    network.search_memory.lut.copy_(torch.nn.functional.normalize(torch.eye(6, 256) + 0.1, dim=1))
    scene = network.preprocessing.scene(random_picture(120, 120))
    crops: Crops = {
        "pixels": [network.preprocessing.patch(random_picture(90, 40, seed=i)) for i in range(3)],
        "pids": torch.tensor([4, 5, -1]),
    }
    losses, memories = [], []
    for batch in (None, crops):
        torch.manual_seed(0)
        model = copy.deepcopy(network)
        losses.append(model([scene], [random_targets([0, 1, -1])], batch))
        memories.append(model.search_memory)
    without, with_crops = losses
    for name in without:
        same = torch.equal(without[name], with_crops[name])
        assert same == (name != "oim_instance"), name
    changed = (memories[0].lut != memories[1].lut).any(dim=1)
    assert changed.tolist() == [False, False, False, False, True, True]
    assert memories[1].queue_position == memories[0].queue_position + 1

    # One mean over RoIs and crops alike; it tells how many labelled RoIs there were.
    embeddings = torch.from_numpy(network.eval().embed_crops(crops["pixels"]))
    own = network.search_memory.logits(embeddings).log_softmax(dim=1)[[0, 1], [4, 5]]
    mean, mean_with = (each["oim_instance"].item() for each in losses)
    rois = (float(-own.sum()) - 2 * mean_with) / (mean_with - mean)
    assert rois == pytest.approx(round(rois), abs=0.02)
    assert round(rois) >= 2


def test_crops_that_cannot_be_used_are_refused() -> None:
    scene = small_network().preprocessing.scene(random_picture(120, 120))
    patch = torch.zeros(3, 224, 96, dtype=torch.uint8)
    with pytest.raises(ValueError, match="crops need an instance-aware branch"):
        small_network("baseline").train()(
            [scene], [random_targets([0])], {"pixels": [patch], "pids": torch.tensor([0])}
        )
    with pytest.raises(ValueError, match=r"identities must be -1 \(unlabelled\) or 0..5"):
        small_network().train()(
            [scene], [random_targets([0])], {"pixels": [patch], "pids": torch.tensor([6])}
        )
