"""Recipes: readable files, checked fields, and the paper's numbers."""

from itertools import pairwise
from pathlib import Path

import pytest

from model import VARIANTS
from training.errors import RecipeError
from training.recipe import FOLDER, Augmentation, Recipe, load_recipe

NAMES = sorted(path.stem for path in FOLDER.glob("*.toml"))


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_valid_and_says_what_it_is(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.network_config(num_pids=483).num_pids == 483
    first = (FOLDER / f"{name}.toml").read_text().splitlines()[0]
    assert first.startswith("# ")
    assert ("ours" in first.lower()) == ("in the paper" not in first)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("name", "steps", "drop", "queue", "sides"),
    [("cuhk-sysu", 50_000, 40_000, 5000, (600, 1000)), ("prw", 30_000, 20_000, 500, (900, 1500))],
)
def test_the_papers_numbers(
    name: str, steps: int, drop: int, queue: int, sides: tuple[int, int], variant: str
) -> None:
    """Sec. 4.3, for every system of the paper."""
    recipe = load_recipe(f"{name}/{variant}")
    assert recipe.variant == variant
    assert (recipe.batch_size, recipe.accumulation, recipe.optimiser) == (2, 1, "sgd")
    assert (recipe.momentum, recipe.weight_decay, recipe.steps) == (0.9, 1e-4, steps)
    assert (recipe.warmup_steps, recipe.clip_norm, recipe.ema) == (0, 0, 0)
    assert recipe.lr_at(0) == recipe.lr_at(drop - 1) == 1e-3
    assert recipe.lr_at(drop) == recipe.lr_at(steps - 1) == pytest.approx(1e-4)
    config = recipe.network_config(num_pids=482)
    assert (config.backbone, config.queue_size, config.temperature) == ("resnet50", queue, 1.0)
    assert (config.preprocessing.min_side, config.preprocessing.max_side) == sides


def test_warm_up_and_cosine() -> None:
    recipe = Recipe(lr=1.0, steps=110, warmup_steps=10, cosine=True)
    rates = [recipe.lr_at(step) for step in range(110)]
    assert rates[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert rates[10] == 1.0
    assert rates[60] == pytest.approx(0.5)
    assert all(a > b for a, b in pairwise(rates[10:]))


def test_settings_override_fields() -> None:
    recipe = load_recipe(
        "prw", ["lr=0.01", "network.temperature=0.3", "network.backbone=mobilenet_v2", "seed=7"]
    )
    config = recipe.network_config(num_pids=1)
    assert (recipe.lr, recipe.seed) == (0.01, 7)
    assert (config.temperature, config.backbone, config.queue_size) == (0.3, "mobilenet_v2", 500)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("market", [], "no recipe 'market': choose .*cpu-small"),
        ("none.toml", [], "no recipe"),
        ("prw/binet-9", [], "binet-4"),
        ("prw", ["learning_rate=1"], "learning_rate: Extra inputs"),
        ("prw", ["network.colour=1"], "colour"),
        ("prw", ["network.num_pids=1"], "comes from the data"),
        ("prw", ["lr=fast"], "lr: "),
        ("prw", ["lr"], "key=value"),
        ("prw", ["cosine=true"], "exclude each other"),
    ],
)
def test_mistakes_are_named(name: str, settings: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(name, settings)


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('variant = "siamese"\nsteps = 10\n')
    assert load_recipe(str(path)) == Recipe(variant="siamese", steps=10)
    path.write_text("variant = ")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(str(path))


def test_every_field_is_explained() -> None:
    """A comment stands above each field of the recipe."""
    import training.recipe

    lines = Path(training.recipe.__file__).read_text().splitlines()
    for field in (*Recipe.model_fields, *Augmentation.model_fields):
        (at,) = [i for i, line in enumerate(lines) if line.startswith(f"    {field}: ")]
        assert lines[at - 1].strip().startswith("#: "), field
