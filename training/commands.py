"""Commands of training."""

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[str, typer.Option(help="A recipe, NAME/VARIANT, or a .toml file.")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="A dataset's folder.")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run's folder.")],
    crops: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Person crops that join the batches; may be repeated."),
    ] = None,
    crops_held_out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Crops of other people, to validate on."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a field.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after the last saved state of RUN.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1; auto takes a GPU.")] = "auto",
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write TensorBoard's event files.")
    ] = False,
) -> None:
    """Train a network; under torchrun on several processes."""
    import os

    import torch
    import torch.distributed as dist

    from model.allocator import keep_freed_memory
    from model.factory import check_device
    from training.datasets.crops import number_crops, read_crops
    from training.datasets.opening import open_dataset
    from training.loop import FINAL, Process
    from training.loop import train as run
    from training.recipe import load_recipe
    from training.record import Tracker
    from training.trackers import ProgressBar, TensorBoard
    from training.validation import hold_out

    resolved = load_recipe(recipe, settings or [])
    dataset = open_dataset(data)
    scenes, held_out, pids = hold_out(dataset.train, resolved.hold_out, resolved.seed)
    # Where people of the scenes are held out, crops of theirs must not be trained on.
    labelled_crops, pids = number_crops(
        crops or [], pids, None if resolved.hold_out else dataset.pid_of
    )
    process = Process.from_environment()
    if device == "auto":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        device = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    check_device(device)
    if device == "cpu":
        keep_freed_memory()
    if process.world_size > 1:
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    trackers: list[Tracker] = []
    if process.writes:
        trackers.append(ProgressBar(resolved.steps))
        if tensorboard:
            trackers.append(TensorBoard(out / "tensorboard"))
    try:
        run(
            resolved,
            scenes,
            pids,
            out,
            device,
            resume,
            trackers,
            process,
            labelled_crops,
            held_out,
            read_crops(crops_held_out) if crops_held_out else None,
        )
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    if process.writes:
        typer.echo(f"{out / FINAL}: {resolved.variant} after {resolved.steps} steps")


def ablation(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Worlds, runs and the report.")],
    backbone: Annotated[
        str, typer.Option(metavar="FILE", help="ImageNet weights; `download` fetches them.")
    ] = "download",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each system, with own worlds.")] = 3,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, one thread each.")] = 2,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="As in `binet train`.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A dataset, in place of drawn worlds.")
    ] = None,
    systems: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Some of the systems: baseline,binet.")
    ] = None,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Write the report of what is finished.")
    ] = False,
) -> None:
    """Train the paper's systems on drawn worlds and compare them; goes on where it was stopped."""
    from rich.progress import track

    from model import VARIANTS
    from training.ablation import SYSTEMS, Plan, run_all
    from training.ablation_report import write_report
    from training.errors import RecipeError

    chosen = tuple(systems.split(",")) if systems else SYSTEMS
    unknown = [name for name in chosen if name not in VARIANTS]
    if unknown:
        raise RecipeError(f"--systems {','.join(unknown)}: choose some of {', '.join(VARIANTS)}")
    plan = Plan(out, backbone, seeds, tuple(settings or []), data, chosen)
    waiting = [run for run in plan.runs() if plan.metrics_of(run) is None]
    if not report_only:
        for run in track(run_all(plan, jobs), "training", total=len(waiting)):
            typer.echo(f"finished {run.name}")
    typer.echo(str(write_report(plan)))
