"""Parts of a SimCLR step in torch: batched views on the device, NT-Xent, and Kornia's and lightly's forms of them."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import functional

from benchmarks import peers
from benchmarks.gpu_rows import figures, settings
from benchmarks.gpu_rows.figures import Figure, Job

TEMPERATURE, DIM, IMAGES = 0.1, 128, 512
LOSS_ROWS = (8192, 16384, 65536)


def device(job: Job) -> torch.device:
    """The GPU, or in a tiny job the CPU where there is none; without one a row is left out."""
    if not job.tiny and not torch.cuda.is_available():
        raise figures.LeftOut("torch sees no GPU")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait() -> None:
    """Until the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def repeat(call: Callable[[], Any]) -> figures.Run:
    """A run that makes calls and waits for the last one."""

    def run(times: int) -> None:
        for _ in range(times):
            call()
        wait()

    return run


def _peak(run: figures.Run) -> int | None:
    """The most memory that one step allocates; None on a CPU."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.reset_peak_memory_stats()
    run(1)
    return torch.cuda.max_memory_allocated()


def rate(name: str, run: figures.Run, views: int, *, job: Job, **facts: Any) -> Figure:
    """The figure of a run whose step makes `views` views."""
    times = figures.clock(run, job)
    version = f"torch {torch.__version__}"
    return figures.rate(
        name, times, amount=views, views=views, peak_bytes=_peak(run), note=version, torch=version, **facts
    )


def make_views(images: torch.Tensor, *, size: int, strength: float, blurs: bool) -> torch.Tensor:
    """One SimCLR view of every image, all at once: uint8 [B, 3, H, W] -> float32 [B, 3, size, size] in [0, 1].

    Kornia's way: a crop is a grid, what a view draws is a column of numbers. Cheaper than ours in three ways: the
    resize reads 16 pixels without anti-aliasing, the jitter has one order, hue is a rotation in YIQ.
    """
    count = len(images)

    def draw(low: float, high: float) -> torch.Tensor:
        return torch.empty(count, 1, 1, 1, device=images.device).uniform_(low, high)

    x = _crop(images.float() / 255, size=size)
    jittered = (x * draw(1 - 0.8 * strength, 1 + 0.8 * strength)).clamp(0, 1)
    mean = _gray(jittered).mean(dim=(2, 3), keepdim=True)
    jittered = torch.lerp(mean, jittered, draw(1 - 0.8 * strength, 1 + 0.8 * strength)).clamp(0, 1)
    jittered = torch.lerp(_gray(jittered), jittered, draw(1 - 0.8 * strength, 1 + 0.8 * strength)).clamp(0, 1)
    jittered = _turn_hue(jittered, 2 * math.pi * draw(-0.2 * strength, 0.2 * strength)).clamp(0, 1)
    x = torch.where(draw(0, 1) < 0.8, jittered, x)
    x = torch.where(draw(0, 1) < 0.2, _gray(x), x)
    if blurs:
        x = torch.where(draw(0, 1) < 0.5, _blur(x, draw(0.1, 2.0), taps=2 * (size // 20) + 1), x)
    return x.clamp(0, 1)


def _crop(x: torch.Tensor, *, size: int) -> torch.Tensor:
    """A random box of 8 to 100 % of each image, flipped by chance, resized by bicubic interpolation."""
    count = len(x)
    drawn = torch.rand(5, count, device=x.device)
    area = 0.08 + 0.92 * drawn[0]
    ratio = torch.exp(math.log(4 / 3) * (2 * drawn[1] - 1))
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    flip = torch.where(drawn[4] < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(width)
    across = torch.stack([flip * width, zero, (2 * drawn[2] - 1) * (1 - width)], dim=1)
    down = torch.stack([zero, height, (2 * drawn[3] - 1) * (1 - height)], dim=1)
    grid = functional.affine_grid(torch.stack([across, down], dim=1), [count, 3, size, size], align_corners=False)
    return functional.grid_sample(x, grid, mode="bicubic", padding_mode="border", align_corners=False).clamp(0, 1)


def _gray(x: torch.Tensor) -> torch.Tensor:
    """Luma [B, 1, H, W]."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=x.device)
    return (x * weights[None, :, None, None]).sum(dim=1, keepdim=True)


def _turn_hue(x: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Turns the two chroma axes of YIQ by an angle [B, 1, 1, 1]."""
    to_yiq = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    to_yiq = to_yiq.to(x.device)
    y, i, q = torch.einsum("kc,bchw->bkhw", to_yiq, x).split(1, dim=1)
    turned = torch.cat([y, i * angle.cos() - q * angle.sin(), i * angle.sin() + q * angle.cos()], dim=1)
    return torch.einsum("kc,bchw->bkhw", torch.linalg.inv(to_yiq), turned)


def _blur(x: torch.Tensor, sigma: torch.Tensor, *, taps: int) -> torch.Tensor:
    """Gaussian blur with a sigma [B, 1, 1, 1] for each image: two grouped convolutions over all of them at once."""
    count, channels, height, width = x.shape
    at = torch.arange(taps, device=x.device) - taps // 2
    kernel = torch.exp(-0.5 * (at / sigma.reshape(-1, 1)) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)[:, None]
    flat = x.reshape(1, count * channels, height, width)
    for shape, padding in (((taps, 1), (taps // 2, 0)), ((1, taps), (0, taps // 2))):
        flat = functional.conv2d(flat, kernel.reshape(-1, 1, *shape), padding=padding, groups=count * channels)
    return flat.reshape(x.shape)


def views(job: Job) -> Iterator[Figure]:
    """One view of each of 512 images by `make_views` and by Kornia, 224 and 32 pixels."""
    for name, size in ((settings.RESNET50, 224), (settings.CIFAR, 32)):
        config = settings.load(name, job)
        count, side, recipe = 8 if job.tiny else IMAGES, settings.canvas(name, job), config["augment"]
        images = torch.randint(256, (count, 3, side, side), dtype=torch.uint8, device=device(job))
        view = {"size": recipe["image_size"], "strength": recipe["color_jitter_strength"]}
        taps = 2 * (view["size"] // 20) + 1
        with torch.no_grad():
            call = functools.partial(make_views, images, **view, blurs=recipe["blur_probability"] > 0)
            yield rate(f"torch views {size}", repeat(call), count, job=job)
            try:
                chain = peers.kornia_views(**view, blur=(taps, recipe["blur_probability"])).to(device(job))
            except ModuleNotFoundError as error:
                yield figures.left_out(f"Kornia views {size}", f"{error.name} is not installed")
                continue
            call = functools.partial(lambda chain, images: chain(images.float() / 255), chain, images)
            yield rate(f"Kornia views {size}", repeat(call), count, job=job)


def loss(job: Job) -> Iterator[Figure]:
    """NT-Xent and its gradient in full float32, as ours: in a few lines, and lightly's where it is installed."""
    torch.set_float32_matmul_precision("highest")
    forms = {"torch": peers.torch_nt_xent, "lightly": peers.lightly_nt_xent}
    for rows in (64, 128) if job.tiny else LOSS_ROWS:
        z = torch.randn(rows, DIM, device=device(job), requires_grad=True)
        for name, make in forms.items():
            try:
                call = functools.partial(lambda form, z: torch.autograd.grad(form(z), z), make(TEMPERATURE), z)
                times = figures.clock(repeat(call), job)
                yield figures.duration(f"{name} loss {rows}", times, peak_bytes=_peak(repeat(call)))
            except ModuleNotFoundError as error:
                yield figures.left_out(f"{name} loss {rows}", f"{error.name} is not installed")
            except torch.OutOfMemoryError:
                yield figures.left_out(f"{name} loss {rows}", "out of memory")
                torch.cuda.empty_cache()
