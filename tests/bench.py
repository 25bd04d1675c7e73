"""Measured ratios.

    python tests/bench.py loading [--clip FILE ...]
    python tests/bench.py steps [--batch N] [--amp bf16] [--compile] [--channels-last]
    python tests/bench.py smad [--batch N] [--amp bf16]
    python tests/bench.py select [--items N] [--scenes N]

loading: training clips per CPU-second (random clip, random resized crop, flip, normalise; one
thread) of this project and, where they are installed, of torchcodec and decord with
torchvision.transforms.v2.

steps: time and memory of ALBAR's training step with its backward passes over those of the plain
step. A forward pass is 1 and its backward pass 2: plain 3, ALBAR 9 (moving 3, static 1, its
gradient 1, the derivative of both 4). The floor of the ratio is thus 3, and 4 for the products of
two activations in attention. The optimiser's own step is not in it.
smad: likewise of SMAD's step with two aspects (365 scenes, 1000 objects), of its two parts, and the
share of the operations that SAAR adds to a forward pass.
select: seconds and peak memory of `omnidebias.py select` on many web items, from their labels
alone.
On a CPU one thread works and CPU-seconds count; the peak is that of torch's allocator, not the
process's.

Measured, on one CPU core in fp32 and on an H200 with torch 2.11:
  loading, 32 frames, stride 2, at 224   over torchcodec 0.17: 1.56, 1.46, 1.38 on real 340 x 256
                                         H.264 clips, 1.49, 1.45, 1.42 on real AVI
  steps     time, memory on the CPU      on the GPU                   floor of the time
  swin3d_t  3.28, 2.58                   3.50 (bf16 3.47), 2.66       3     8 x 112 x 112
  r3d_18    3.72, 1.69                   7.25 (bf16 7.46), 2.29       3     16 x 112 x 112
  both, without the penalty 2.0, 1.0     1.9 to 2.0, 1.0              2
  smad      1.03, 1.06                                                slowonly_r18 8 x 224 x 224
  select    a million items with labels of 365 scenes: 21 s, 2.3 GiB
"""

import argparse
import importlib
import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's chatter, where it finds no GPU

import av  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402
from torchvision.transforms import v2  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import albar  # noqa: E402
import common  # noqa: E402
import smad  # noqa: E402

MEAN = (0.43216, 0.394666, 0.37645)
STD = (0.22803, 0.22145, 0.216989)


# ---- loading -------------------------------------------------------------------------------------
def write_video(path, codec, width, height, frames, **options):
    """A texture that moves, with noise: about the bits per pixel of real footage."""
    rng = np.random.default_rng(0)
    texture = torch.from_numpy(rng.random((1, 3, height // 8, width // 8), dtype=np.float32))
    texture = torch.nn.functional.interpolate(texture, (2 * height, 2 * width), mode="bicubic")[0]
    texture = (texture.clamp(0, 1).permute(1, 2, 0).numpy() * 230).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options)
        stream.width = width
        stream.height = height
        stream.pix_fmt = "yuv420p"
        for t in range(frames):
            y = 2 * t % height
            x = 3 * t % width
            noise = rng.integers(0, 9, (height, width, 3), dtype=np.uint8)
            image = texture[y : y + height, x : x + width] + noise
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())
    return Path(path)


def full_decode(path):
    """Every frame by the plainest loop, uint8 (n, H, W, 3): the truth for the readers."""
    with av.open(str(path), metadata_errors="replace") as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return torch.from_numpy(np.stack(frames))


# A reader is open(path) -> n, read; read(indices) -> uint8 (T, 3, H, W), by one decoding thread.
def open_ours(path):
    def read(indices):
        return common.read_clip(path, indices).permute(0, 3, 1, 2)

    return common.num_frames(path), read


def open_torchcodec(path):
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(path), num_ffmpeg_threads=1)

    def read(indices):
        return decoder.get_frames_at(indices.tolist()).data

    return len(decoder), read


def open_decord(path):
    from decord import VideoReader

    reader = VideoReader(str(path), num_threads=1)

    def read(indices):
        return torch.from_numpy(reader.get_batch(indices).asnumpy()).permute(0, 3, 1, 2)

    return len(reader), read


def installed_readers():
    """-> {name: reader} of this project and of those others that can be imported"""
    readers = {"this project": open_ours}
    others = {"torchcodec.decoders": open_torchcodec, "decord": open_decord}
    for module, reader in others.items():
        name = module.split(".")[0]
        try:
            importlib.import_module(module)
            readers[name] = reader
        except (ImportError, RuntimeError, OSError) as error:
            print(f"{name} is not measured:", str(error).strip().splitlines()[0])
    return readers


def make_batch(name, clip, size):
    """Frames uint8 (T, 3, H, W) -> a batch of one for the network, float (1, 3, T, size, size);
    collating included."""
    if name == "this project":
        clip = torch.stack([common.train_transform(size)(clip).transpose(0, 1)])
        return common.normalise(clip, MEAN, STD)
    chain = v2.Compose(
        [
            v2.RandomResizedCrop(size, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    return torch.stack([chain(clip).transpose(0, 1)])


class Clip(NamedTuple):
    """A video, and the clips that are read from it."""

    path: Path
    frames: int
    stride: int
    size: int


class First(NamedTuple):
    milliseconds: float  # of the first reading, with the index, which is built once for a file
    exact: str


def read_first(reader, path, draws, truth):
    """-> First: time of the first reading, and whether ten readings give the true frames"""
    start = time.process_time()
    n, read = reader(path)
    clips = [read(draws[0])]
    milliseconds = 1e3 * (time.process_time() - start)
    clips += [read(indices) for indices in draws[1:10]]
    right = 0
    for clip, indices in zip(clips, draws, strict=False):
        right += torch.equal(clip.permute(0, 2, 3, 1), truth[indices])
    exact = f"{right} of {len(clips)}"
    if n != len(truth):
        exact += f", n = {n}, not {len(truth)}"
    return First(milliseconds, exact)


def measure_readers(clip, rounds, repeat):
    """Print a row a reader. Their rounds alternate: a slow spell of the machine hits them all."""
    path, frames, stride, size = clip
    truth = full_decode(path)
    draws = []
    for seed in range(rounds * repeat):
        rng = np.random.default_rng(seed)
        draws.append(common.random_clip(len(truth), frames, stride, rng))
    readers = installed_readers()
    first = {}
    for name, reader in readers.items():
        first[name] = read_first(reader, path, draws, truth)
    decoding = {name: [] for name in readers}  # milliseconds a clip, of each round
    rates = {name: [] for name in readers}  # clips per second, of each round
    for number in range(rounds):
        for name, reader in readers.items():
            torch.manual_seed(number)  # the same crops for all
            decoded = 0.0
            done = 0.0
            for indices in draws[number * repeat : (number + 1) * repeat]:
                start = time.process_time()
                _, read = reader(path)
                images = read(indices)
                decoded += time.process_time() - start
                make_batch(name, images, size)
                done += time.process_time() - start
            decoding[name].append(1e3 * decoded / repeat)
            rates[name].append(repeat / done)
    base = median(rates.get("torchcodec", rates["this project"]))
    for name in readers:
        rate = median(rates[name])
        print(
            f"| {path.name} | {frames}x{stride} @{size} | {name} | {rate:.1f} | {rate / base:.2f} "
            f"| {median(decoding[name]):.1f} | {first[name].milliseconds:.1f} "
            f"| {first[name].exact} |",
            flush=True,
        )


def loading(args):
    torch.set_num_threads(1)
    print(
        "| clip | frames | reader | clips / CPU-s | ratio to torchcodec | reading, ms "
        "| first reading, ms | exact |"
    )
    print("|---|---|---|---|---|---|---|---|")
    clips = [Clip(Path(path), args.frames, args.stride, args.size) for path in args.clip]
    with tempfile.TemporaryDirectory() as folder:
        if not clips:
            h264 = write_video(f"{folder}/h264.mp4", "libx264", 340, 256, 300)
            mpeg4 = write_video(f"{folder}/mpeg4.avi", "mpeg4", 320, 240, 180, b="900k", bf="2")
            embedded = write_video(f"{folder}/embedded.mp4", "libx264", 64, 64, 32)
            clips = [Clip(h264, 32, 2, 224), Clip(mpeg4, 32, 2, 224), Clip(embedded, 16, 2, 56)]
        for clip in clips:
            measure_readers(clip, args.rounds, args.repeat)


# ---- steps and smad ------------------------------------------------------------------------------
def peak_memory(run, device):
    """Most bytes that were allocated at a time while run() worked, above those when it began."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True) as profiler:
        run()
    events = profiler.profiler.kineto_results.events()
    allocations = [event for event in events if event.name() == "[memory]"]
    allocations.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in allocations))


def begin(args, more=""):
    """Say what is measured on what. -> device"""
    torch.set_num_threads(1)
    _, _, device = common.start(0)
    name = "one CPU core"
    if device.type == "cuda":
        name = torch.cuda.get_device_name()
    print(
        f"torch {torch.__version__}, {name}, amp {args.amp}{more}; the peak is above weights and "
        "gradients"
    )
    print("| model | batch | step | ms | ratio | rounds | peak, MB | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    return device


@dataclass
class Step:
    """A kind of training step that is measured."""

    net: torch.nn.Module
    run: object  # run() does it, with its backward passes


def seconds(step, device):
    """CPU-seconds of a step, which other programs disturb least; on a GPU those that pass."""
    clock = time.process_time
    repeat = 1
    if device.type == "cuda":
        clock = time.perf_counter
        repeat = 10
    start = clock()
    for _ in range(repeat):
        step.net.zero_grad(set_to_none=True)
        step.run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (clock() - start) / repeat


def compare(name, shape, steps, args, device):
    """Print a row for each of {kind: Step}, "plain" among them. Their rounds alternate; a ratio is
    the median of the rounds' own."""
    for step in steps.values():
        seconds(step, device)  # the first compiles, chooses algorithms and leaves gradients
    memory = {kind: peak_memory(step.run, device) for kind, step in steps.items()}
    rounds = []
    for _ in range(args.rounds):
        rounds.append({kind: seconds(step, device) for kind, step in steps.items()})
    for kind in steps:
        milliseconds = 1e3 * median(spent[kind] for spent in rounds)
        ratios = [spent[kind] / spent["plain"] for spent in rounds]
        print(
            f"| {name} | {shape} | {kind} | {milliseconds:.0f} | {median(ratios):.2f} "
            f"| {min(ratios):.2f} to {max(ratios):.2f} | {memory[kind] / 1e6:.0f} "
            f"| {memory[kind] / memory['plain']:.2f} |",
            flush=True,
        )


ALBAR_SHAPES = {"swin3d_t": (8, 112), "r3d_18": (16, 112)}  # frames and side of a clip
PLAIN = dict(w_adv=0.0, w_ent=0.0, w_gp=0.0)
NO_PENALTY = dict(w_adv=1.0, w_ent=4.0, w_gp=0.0)
ALL = dict(w_adv=1.0, w_ent=4.0, w_gp=10.0)
# Weights of Eqs. (2) to (4), and whether the moving clip's backward pass is before the static clip.
ALBAR_STEPS = {
    "plain": (PLAIN, False),
    "ALBAR, moving then static (train)": (ALL, True),
    "ALBAR, one sum, one backward": (ALL, False),
    "ALBAR without the penalty": (NO_PENALTY, True),
}


def albar_step(model, batch, args, apart, scaler):
    """A training step of ALBAR and its backward passes."""

    def backward(loss):
        scaler.scale(loss).backward()

    loss, _ = albar.training_step(model, batch, args, backward if apart else None)
    backward(loss)


def steps(args):
    device = begin(args, f", compile {args.compile}, channels last {args.channels_last}")
    size = args.batch or (8 if device.type == "cuda" else 2)
    layout = torch.channels_last_3d if args.channels_last else torch.contiguous_format
    scaler = torch.amp.GradScaler(device.type, enabled=args.amp == "fp16")
    for name in args.models:
        frames, side = ALBAR_SHAPES[name]
        net = albar.build_model(albar.Args(model=name), num_classes=101)
        net.to(device, memory_format=layout)
        # As train() does: the static clip goes through net itself.
        model = torch.compile(net) if args.compile else net
        clip = torch.randn(size, 3, frames, side, side, device=device)
        batch = {
            "clip": clip.contiguous(memory_format=layout),
            "label": torch.arange(size, device=device) % 101,
        }
        kinds = {}
        for kind, (weights, apart) in ALBAR_STEPS.items():
            settings = albar.Args(model=name, amp=args.amp, **weights)
            kinds[kind] = Step(net, partial(albar_step, model, batch, settings, apart, scaler))
        if args.compile:
            settings = albar.Args(model=name, amp=args.amp, **PLAIN)
            run = partial(albar_step, net, batch, settings, False, scaler)
            kinds["plain, not compiled"] = Step(net, run)
        compare(name, f"{size} x {frames} x {side} x {side}", kinds, args, device)


SMAD_SHAPES = {"slowonly_r18": (8, 224), "tsn_r50": (3, 224), "r3d_18": (16, 112), "tiny": (8, 32)}
ASPECTS = {"scene": 365, "object": 1000}
# Whether it has SAAR, and its heads.
SMAD_STEPS = {
    "plain": (False, {}),
    "SAAR": (True, {}),
    "MAAT": (False, ASPECTS),
    "SMAD": (True, ASPECTS),
}


def smad_step(net, batch, args, scaler):
    """A training step of SMAD and its backward pass."""
    loss, _ = smad.training_step(net, batch, args)
    scaler.scale(loss).backward()


def operations(net, clip):
    """Floating point operations of a forward pass."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(clip)
    return counter.get_total_flops()


def smad_cost(args):
    """Print rows of SMAD's step; then SAAR's operations over those of the backbone in a forward
    pass."""
    device = begin(args)
    scaler = torch.amp.GradScaler(device.type, enabled=args.amp == "fp16")
    shares = []
    for name, (frames, side) in SMAD_SHAPES.items():
        size = args.batch or (8 if device.type == "cuda" or name == "tiny" else 2)
        clip = torch.randn(size, 3, frames, side, side, device=device)
        label = torch.arange(size, device=device)
        soft = {}
        for aspect, width in ASPECTS.items():
            soft[aspect] = torch.rand(size, width, device=device).softmax(1)
        preset = smad.TOY if name == "tiny" else {}
        kinds = {}
        work = {}
        for kind, (saar, heads) in SMAD_STEPS.items():
            settings = smad.Args(**preset | dict(model=name, saar=saar, amp=args.amp))
            net = smad.build_model(settings, 400, heads).to(device)
            aspects = {aspect: soft[aspect] for aspect in heads}
            batch = {"clip": clip, "label": label, "aspects": aspects, "tags": set()}
            kinds[kind] = Step(net, partial(smad_step, net, batch, settings, scaler))
            work[kind] = operations(net, clip[:1])
        shares.append(f"{name} {100 * (work['SAAR'] / work['plain'] - 1):.2f} %")
        compare(name, f"{size} x {frames} x {side} x {side}", kinds, args, device)
    print("SAAR's operations over the backbone's:", ", ".join(shares))


# ---- select --------------------------------------------------------------------------------------
def write_web(folder, items, scenes):
    """A list of web items, and the folder of their scene labels, as `sdn.py scenes` writes it."""
    rng = np.random.default_rng(0)
    paths = [f"{i % 400:03d}/{i % 20:02d}/{i:06d}.jpg" for i in range(items)]
    lines = [f"{path} {i % 400}\n" for i, path in enumerate(paths)]
    (folder / "web.txt").write_text("".join(lines))
    p = 0.5 * rng.random((items, scenes), dtype=np.float32)
    p[np.arange(items), (rng.zipf(1.6, items) - 1) % scenes] += scenes / 2
    labels = folder / "scenes"
    labels.mkdir()
    np.save(labels / "labels.npy", (p / p.sum(1, keepdims=True)).astype(np.float16))
    (labels / "paths.txt").write_text("".join(f"{path}\n" for path in paths))
    (labels / "categories.txt").write_text("".join(f"{i}\n" for i in range(scenes)))
    (labels / "made.json").write_text("{}")


def select(args):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write_web(folder, args.items, args.scenes)
        words = ["omnidebias.py", "select", f"{folder}/web.txt"]
        words += ["--labels", f"{folder}/scenes", "--out", f"{folder}/lists"]
        # The process says its own peak: getrusage's of a child may be its parent's.
        code = (
            f"import runpy, sys; sys.argv = {words}; "
            "runpy.run_path(sys.argv[0], run_name='__main__'); "
            "print(open('/proc/self/status').read())"
        )
        since = time.time()
        process = subprocess.run(
            [sys.executable, "-c", code], check=True, text=True, stdout=subprocess.PIPE, cwd=ROOT
        )
        spent = time.time() - since
        peak = int(re.search(r"VmHWM:\s+(\d+) kB", process.stdout)[1]) / 2**20
        chosen = len((folder / "lists/unbias.txt").read_text().splitlines())
        print(
            f"{args.items} items, {args.scenes} scenes: {spent:.0f} s, {peak:.2f} GiB at the peak, "
            f"{chosen} in unbias.txt"
        )


# ---- Command line --------------------------------------------------------------------------------
def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    commands = parser.add_subparsers(required=True)

    command = commands.add_parser("loading", help="clips per CPU-second of the training pipeline")
    command.add_argument("--clip", nargs="+", default=[], help="real clips, else some are drawn")
    command.add_argument("--frames", type=int, default=32, help="frames of a clip, for --clip")
    command.add_argument("--stride", type=int, default=2, help="step between them, for --clip")
    command.add_argument("--size", type=int, default=224, help="side of the crop, for --clip")
    command.add_argument("--rounds", type=int, default=7, help="rounds, whose median is printed")
    command.add_argument("--repeat", type=int, default=8, help="clips of a round")
    command.set_defaults(run=loading)

    of_steps = argparse.ArgumentParser(add_help=False)
    of_steps.add_argument("--batch", type=int, default=0, help="clips; none: 2, on CUDA 8")
    of_steps.add_argument("--rounds", type=int, default=5, help="rounds, whose median is printed")
    of_steps.add_argument("--amp", default="none", choices=("none", "bf16", "fp16"))

    help = "time and memory of ALBAR's training step over the plain one"
    command = commands.add_parser("steps", help=help, parents=[of_steps])
    names = list(ALBAR_SHAPES)
    command.add_argument("--models", nargs="+", default=names, choices=names)
    command.add_argument("--compile", action="store_true", help="torch.compile for the moving clip")
    command.add_argument("--channels-last", action="store_true", help="channels_last_3d")
    command.set_defaults(run=steps)

    help = "time and memory of SMAD's step over the plain one, SAAR's operations"
    command = commands.add_parser("smad", help=help, parents=[of_steps])
    command.set_defaults(run=smad_cost)

    command = commands.add_parser("select", help="seconds and memory of omnidebias.py's selection")
    command.add_argument("--items", type=int, default=1_000_000, help="web items")
    command.add_argument("--scenes", type=int, default=365, help="categories of their labels")
    command.set_defaults(run=select)

    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
