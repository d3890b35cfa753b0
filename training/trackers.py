"""What follows a run: a progress bar and TensorBoard. Others need `record.Tracker`."""

from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from training.errors import RunError


class ProgressBar:
    """Steps, time left, loss parts, and how long a step and its data take."""

    def __init__(self, steps: int) -> None:
        self.progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        self.task = self.progress.add_task("", total=steps)
        self.progress.start()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Show the numbers of a step."""
        parts = " ".join(
            f"{name} {value:.3g}" for name, value in values.items() if name not in ("lr", "data_s")
        )
        share = values["data_s"] / values["step_s"]
        self.progress.update(
            self.task, completed=step, description=f"{parts} lr {values['lr']:.2g} data {share:.0%}"
        )

    def validation(self, step: int, values: dict[str, float]) -> None:
        """Leave a line above the bar."""
        parts = " ".join(f"{name} {value:.3f}" for name, value in values.items())
        self.progress.console.print(f"step {step}, held out: {parts}")

    def pictures(self, step: int, pictures: dict[str, Tensor]) -> None:
        """Show none: this is a terminal."""

    def close(self) -> None:
        """Leave the last line on the screen."""
        self.progress.stop()


class TensorBoard:
    """Event files in the run's folder: `tensorboard --logdir RUN`."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise RunError(f"--tensorboard needs pip install 'binet[train]' ({error})") from error
        self.writer = SummaryWriter(str(folder))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Write the numbers of a step."""
        for name, value in values.items():
            group = "time" if name.endswith("_s") else "lr" if name == "lr" else "loss"
            self.writer.add_scalar(f"{group}/{name}", value, step)

    def validation(self, step: int, values: dict[str, float]) -> None:
        """Write what was measured on held-out scenes."""
        for name, value in values.items():
            self.writer.add_scalar(f"validation/{name}", value, step)

    def pictures(self, step: int, pictures: dict[str, Tensor]) -> None:
        """Write scenes with boxes: green is true, red is found."""
        for name, picture in pictures.items():
            self.writer.add_image(f"scenes/{name}", picture, step)

    def close(self) -> None:
        """Write what is buffered."""
        self.writer.close()
