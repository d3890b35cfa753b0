"""RoIAlign on a CPU as one weighted gather.

torchvision's CPU kernel walks a channels-first map one value at a time on one core. In a
channels-last map every sampling point is four contiguous rows, so that a bin is a weighted sum of
rows: `embedding_bag`, which is vectorised, parallel, and knows bfloat16. `perf/inference.py`
measures both; a test holds this to torchvision's RoIAlign.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def gather_roi_align(
    maps: Tensor, boxes: list[Tensor], size: tuple[int, int], stride: int, sampling_ratio: int
) -> Tensor:
    """Do what `torchvision.ops.roi_align(..., aligned=True)` does, without a gradient.

    Parameters
    ----------
    maps
        [B, C, H, W]; free of a copy when it is channels-last.
    boxes
        xyxy [n, 4] of each scene, in pixels of the network's input.
    size
        Height and width of the result.
    stride
        Pixels of the network's input per cell of the map.
    sampling_ratio
        Sampling points per bin and direction.

    Returns
    -------
    Tensor
        [N, C, *size], channels-last, in the type of `maps`.
    """
    batch, channels, height, width = maps.shape
    rois = torch.cat(boxes).float() / stride - 0.5  # [N, 4] in cells, 0 at the centre of a cell
    scene = torch.repeat_interleave(
        torch.arange(batch), torch.tensor([len(b) for b in boxes])
    )  # [N]
    rows, row_weights = _taps(rois[:, 1], rois[:, 3], size[0], height, sampling_ratio)
    columns, column_weights = _taps(rois[:, 0], rois[:, 2], size[1], width, sampling_ratio)
    # Every tap of a bin's rows with every tap of its columns: [N, h, w, 2r, 2r].
    index = rows[:, :, None, :, None] * width + columns[:, None, :, None, :]
    index = index + (scene * height * width).view(-1, 1, 1, 1, 1)
    weight = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
    taps = (2 * sampling_ratio) ** 2
    bins = F.embedding_bag(
        index.reshape(-1, taps),
        maps.permute(0, 2, 3, 1).reshape(-1, channels),
        mode="sum",
        per_sample_weights=weight.reshape(-1, taps).to(maps.dtype),
    )
    return bins.view(-1, *size, channels).permute(0, 3, 1, 2)


def _taps(
    low: Tensor, high: Tensor, bins: int, cells: int, sampling_ratio: int
) -> tuple[Tensor, Tensor]:
    """Cells and weights of linear interpolation along one axis, mean over a bin's points.

    Parameters
    ----------
    low, high
        Ends of the boxes in cells, [N].
    bins, cells
        Length of the result and of the map.

    Returns
    -------
    tuple
        Cell numbers int64 and weights float32, both [N, bins, 2 * sampling_ratio].
    """
    points = bins * sampling_ratio
    step = (high - low) / points
    position = low[:, None] + (torch.arange(points) + 0.5) * step[:, None]  # [N, points]
    # As torchvision: up to one cell outside the map the border counts, beyond it nothing does.
    inside = (position >= -1) & (position <= cells)
    position = position.clamp(0, cells - 1)
    first = position.long()
    second = (first + 1).clamp(max=cells - 1)
    share = position - first
    weight = torch.stack([1 - share, share], dim=-1) * inside[..., None] / sampling_ratio
    cell = torch.stack([first, second], dim=-1)
    shape = (len(low), bins, 2 * sampling_ratio)
    return cell.view(shape), weight.view(shape)
