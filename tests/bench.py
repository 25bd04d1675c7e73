"""Measured ratios.

    python tests/bench.py loading [--clip FILE ...]
    python tests/bench.py steps [--batch N] [--amp bf16] [--compile] [--channels-last]
    python tests/bench.py smad [--batch N] [--amp bf16]
    python tests/bench.py select [--items N] [--scenes N]

loading: training clips per CPU-second (random clip, random resized crop, flip, normalise; one thread) of this project
and, where they are installed, of torchcodec and decord with torchvision.transforms.v2.

steps: time and memory of ALBAR's training step with its backward passes over those of the plain step. A forward pass
is 1 and its backward pass 2: plain 3, ALBAR 9 (moving 3, static 1, its gradient 1, the derivative of both 4). The floor
of the ratio is thus 3, and 4 for the products of two activations in attention. The optimiser's own step is not in it.
smad: likewise of SMAD's step with two aspects (365 scenes, 1000 objects), of its two parts, and the share of the
operations that SAAR adds to a forward pass.
select: seconds and peak memory of `omnidebias.py select` on many web items, from their labels alone.
On a CPU one thread works and CPU-seconds count; the peak is that of torch's allocator, not the process's.
"""

import argparse
import itertools
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's chatter, where it finds no GPU

import av  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402
from torchvision.transforms import v2  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import albar  # noqa: E402
import common  # noqa: E402
import smad  # noqa: E402

MEAN, STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)


def write_video(path, codec, width, height, frames, **options):
    """A texture that moves, with noise: about the bits per pixel of real footage."""
    rng = np.random.default_rng(0)
    texture = torch.from_numpy(rng.random((1, 3, height // 8, width // 8), dtype=np.float32))
    texture = torch.nn.functional.interpolate(texture, (2 * height, 2 * width), mode="bicubic")[0].clamp(0, 1)
    texture = (texture.permute(1, 2, 0).numpy() * 230).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for t in range(frames):
            y, x = (2 * t) % height, (3 * t) % width
            image = texture[y : y + height, x : x + width] + rng.integers(0, 9, (height, width, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())
    return Path(path)


def full_decode(path):
    """Every frame by the plainest loop, uint8 (n, H, W, 3): the truth that the readers are compared with."""
    with av.open(str(path), metadata_errors="replace") as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return torch.from_numpy(np.stack(frames))


def readers():
    """name -> open(path) -> (n, read); read(indices) -> uint8 (T, 3, H, W). One decoding thread each."""

    def ours(path):
        return common.num_frames(path), lambda i: common.read_clip(path, i).permute(0, 3, 1, 2)

    found = {"this project": ours}
    try:
        from torchcodec.decoders import VideoDecoder

        def torchcodec(path):
            decoder = VideoDecoder(str(path), num_ffmpeg_threads=1)
            return len(decoder), lambda i: decoder.get_frames_at(i.tolist()).data

        found["torchcodec"] = torchcodec
    except (ImportError, RuntimeError, OSError) as error:
        print("torchcodec is not measured:", str(error).strip().splitlines()[0])
    try:
        from decord import VideoReader

        def decord(path):
            reader = VideoReader(str(path), num_threads=1)
            return len(reader), lambda i: torch.from_numpy(reader.get_batch(i).asnumpy()).permute(0, 3, 1, 2)

        found["decord"] = decord
    except (ImportError, OSError) as error:
        print("decord is not measured:", str(error).strip().splitlines()[0])
    return found


def batch(name, clip, size):
    """Frames, uint8 (T, 3, H, W) -> a batch of one for the network, float (1, 3, T, size, size); collating included."""
    if name == "this project":
        clip = torch.stack([common.train_transform(size)(clip).transpose(0, 1)])
        return common.normalise(clip, MEAN, STD)
    crop = v2.RandomResizedCrop(size, antialias=True)
    chain = [crop, v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    return torch.stack([v2.Compose(chain)(clip).transpose(0, 1)])


def measure(path, frames, stride, size, rounds, repeat):
    """One row a reader. The rounds of the readers alternate, so that a slow spell of the machine hits them all."""
    truth, found = full_decode(path), readers()
    draws = [common.random_clip(len(truth), frames, stride, np.random.default_rng(i)) for i in range(rounds * repeat)]
    first, exact, decoding, whole = {}, {}, {}, {}
    for name, reader in found.items():
        start = time.process_time()
        n, read = reader(path)
        clips = [read(draws[0])]
        first[name] = 1e3 * (time.process_time() - start)  # with the index, which is built once for a file
        clips += [read(i) for i in draws[1:10]]
        same = [torch.equal(clip.permute(0, 2, 3, 1), truth[i]) for clip, i in zip(clips, draws, strict=False)]
        exact[name] = f"{sum(same)} of {len(same)}" + (f", n = {n}, not {len(truth)}" if n != len(truth) else "")
    for r in range(rounds):
        for name, reader in found.items():
            torch.manual_seed(r)  # the same crops for all
            spent = [0.0, 0.0]
            for i in draws[r * repeat : (r + 1) * repeat]:
                t0 = time.process_time()
                clip = reader(path)[1](i)
                t1 = time.process_time()
                batch(name, clip, size)
                spent = [spent[0] + t1 - t0, spent[1] + time.process_time() - t0]
            decoding.setdefault(name, []).append(1e3 * spent[0] / repeat)
            whole.setdefault(name, []).append(repeat / spent[1])
    base = statistics.median(whole.get("torchcodec", whole["this project"]))
    for name in found:
        rate = statistics.median(whole[name])
        print(f"| {path.name} | {frames}x{stride} @{size} | {name} | {rate:.1f} | {rate / base:.2f} | "
              f"{statistics.median(decoding[name]):.1f} | {first[name]:.1f} | {exact[name]} |", flush=True)  # fmt: skip


def loading(args):
    torch.set_num_threads(1)
    print("| clip | frames | reader | clips / CPU-s | ratio to torchcodec | reading, ms | first reading, ms | exact |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        clips = [(Path(path), args.frames, args.stride, args.size) for path in args.clip] or [
            (write_video(f"{folder}/h264.mp4", "libx264", 340, 256, 300), 32, 2, 224),
            (write_video(f"{folder}/mpeg4.avi", "mpeg4", 320, 240, 180, b="900k", bf="2"), 32, 2, 224),
            (write_video(f"{folder}/embedded.mp4", "libx264", 64, 64, 32), 16, 2, 56),
        ]
        for clip in clips:
            measure(*clip, args.rounds, args.repeat)


SHAPES = {"swin3d_t": (8, 112), "r3d_18": (16, 112)}  # frames and side of a clip
STEPS = {  # weights of Eqs. (2) to (4), and whether the moving clip's backward pass comes before the static clip
    "plain": ((0, 0, 0), False),
    "ALBAR, moving then static (train)": ((1, 4, 10), True),
    "ALBAR, one sum, one backward": ((1, 4, 10), False),
    "ALBAR without the penalty": ((1, 4, 0), True),
}


def peak_memory(run, device):
    """Most bytes that were allocated at a time while run() worked, above those allocated when it began."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]  # every allocation
    return max(itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))


def step_cost(name, args, device):
    """One row a kind of step. Their rounds alternate; the ratio is the median of the rounds' own."""
    frames, side = SHAPES[name]
    net = albar.build_model(albar.Args(model=name), num_classes=101).to(device)
    net = net.to(memory_format=torch.channels_last_3d) if args.channels_last else net
    model = torch.compile(net) if args.compile else net  # as train() does: the static clip goes through net itself
    size = args.batch or (8 if device.type == "cuda" else 2)
    clip = torch.randn(size, 3, frames, side, side, device=device)
    clip = clip.contiguous(memory_format=torch.channels_last_3d) if args.channels_last else clip
    data = dict(clip=clip, label=torch.arange(size, device=device) % 101)
    scaler = torch.amp.GradScaler(device.type, enabled=args.amp == "fp16")

    def step(model, weights, apart):
        names = ("w_adv", "w_ent", "w_gp")
        settings = albar.Args(model=name, amp=args.amp, **dict(zip(names, weights, strict=True)))
        backward = lambda loss: scaler.scale(loss).backward()  # noqa: E731
        backward(albar.training_step(model, data, settings, backward if apart else None)[0])

    runs = {kind: partial(step, model, *how) for kind, how in STEPS.items()}
    if args.compile:
        runs["plain, not compiled"] = partial(step, net, *STEPS["plain"])
    compare(name, f"{size} x {frames} x {side} x {side}", {k: (net, run) for k, run in runs.items()}, args, device)


def compare(name, shape, runs, args, device):
    """One row for each of {kind: (network, a step of it)}, "plain" among them. Their rounds alternate."""
    on_cuda = device.type == "cuda"

    def seconds(net, run):  # CPU-seconds, which other programs disturb least; of a GPU, those that pass
        clock, repeat = (time.perf_counter, 10) if on_cuda else (time.process_time, 1)
        start = clock()
        for _ in range(repeat):
            net.zero_grad(set_to_none=True)
            run()
        if on_cuda:
            torch.cuda.synchronize()
        return (clock() - start) / repeat

    for net, run in runs.values():
        seconds(net, run)  # the first time compiles, chooses algorithms and leaves gradients
    memory = {kind: peak_memory(run, device) for kind, (_, run) in runs.items()}
    spent = [{kind: seconds(*run) for kind, run in runs.items()} for _ in range(args.rounds)]
    for kind in runs:
        ratio = sorted(round_[kind] / round_["plain"] for round_ in spent)
        print(f"| {name} | {shape} | {kind} | "
              f"{1e3 * statistics.median(round_[kind] for round_ in spent):.0f} | {statistics.median(ratio):.2f} | "
              f"{ratio[0]:.2f} to {ratio[-1]:.2f} | {memory[kind] / 1e6:.0f} | {memory[kind] / memory['plain']:.2f} |",
              flush=True)  # fmt: skip


def begin(args, more=""):
    """Say what is measured on what. -> device"""
    torch.set_num_threads(1)
    device = common.start(0)[2]
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name() if device.type == 'cuda' else 'one CPU core'}, "
          f"amp {args.amp}{more}; the peak is above weights and gradients")
    print("| model | batch | step | ms | ratio | rounds | peak, MB | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    return device


def steps(args):
    device = begin(args, f", compile {args.compile}, channels last {args.channels_last}")
    for name in args.models:
        step_cost(name, args, device)


SMAD_SHAPES = {"slowonly_r18": (8, 224), "tsn_r50": (3, 224), "r3d_18": (16, 112), "tiny": (8, 32)}
ASPECTS = {"scene": 365, "object": 1000}


def smad_cost(args):
    """Rows of SMAD's step; then SAAR's operations over those of the backbone in a forward pass."""
    device, share = begin(args), {}
    for name, (frames, side) in SMAD_SHAPES.items():
        size, runs, work = args.batch or (8 if device.type == "cuda" or name == "tiny" else 2), {}, {}
        clip = torch.randn(size, 3, frames, side, side, device=device)
        batch = dict(clip=clip, label=torch.arange(size, device=device), tags=set())
        soft = {key: torch.rand(size, n, device=device).softmax(1) for key, n in ASPECTS.items()}
        kinds = {"plain": (False, {}), "SAAR": (True, {}), "MAAT": (False, soft), "SMAD": (True, soft)}
        for kind, (saar, aspects) in kinds.items():
            flags = (smad.TOY if name == "tiny" else {}) | dict(model=name, saar=saar, amp=args.amp)
            settings = smad.Args(**flags)
            net = smad.build_model(settings, 400)
            net.add_adversaries({key: ASPECTS[key] for key in aspects})
            net.to(device)
            scaler = torch.amp.GradScaler(device.type, enabled=args.amp == "fp16")

            def step(net=net, settings=settings, aspects=aspects, scaler=scaler, batch=batch):
                scaler.scale(smad.training_step(net, batch | dict(aspects=aspects), settings)[0]).backward()
            runs[kind] = net, step
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                net(clip[:1])
            work[kind] = counter.get_total_flops()
        share[name] = 100 * (work["SAAR"] / work["plain"] - 1)
        compare(name, f"{size} x {frames} x {side} x {side}", runs, args, device)
    print("SAAR's operations over the backbone's:", ", ".join(f"{name} {value:.2f} %" for name, value in share.items()))


def select(args):
    with tempfile.TemporaryDirectory() as folder:
        rng, folder = np.random.default_rng(0), Path(folder)
        paths = [f"{i % 400:03d}/{i % 20:02d}/{i:06d}.jpg" for i in range(args.items)]
        (folder / "web.txt").write_text("".join(f"{path} {i % 400}\n" for i, path in enumerate(paths)))
        p = 0.5 * rng.random((args.items, args.scenes), dtype=np.float32)
        p[np.arange(args.items), (rng.zipf(1.6, args.items) - 1) % args.scenes] += args.scenes / 2
        p = (p / p.sum(1, keepdims=True)).astype(np.float16)
        names = [*map(str, range(args.scenes))]
        np.savez_compressed(folder / "scenes.npz", paths=paths, probabilities=p, categories=names)
        words = ["omnidebias.py", "select", f"{folder}/web.txt", "--labels", f"{folder}/scenes.npz", "--out",
                 f"{folder}/lists"]
        code = (f"import runpy, sys; sys.argv = {words}; runpy.run_path(sys.argv[0], run_name='__main__'); "
                "print(open('/proc/self/status').read())")                   # getrusage's peak may be its parent's
        since = time.time()
        said = subprocess.run([sys.executable, "-c", code], check=True, text=True, stdout=subprocess.PIPE,
                              cwd=Path(__file__).resolve().parents[1]).stdout
        used = int(re.search(r"VmHWM:\s+(\d+) kB", said)[1]) / 2 ** 20
        print(f"{args.items} items, {args.scenes} scenes: {time.time() - since:.0f} s, {used:.2f} GiB at the peak, "
              f"{len((folder / 'lists/unbias.txt').read_text().splitlines())} in unbias.txt")


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("loading", help="clips per CPU-second of the training pipeline")
    command.add_argument("--clip", nargs="+", default=[], metavar="FILE", help="real clips (else some are drawn)")
    command.add_argument("--frames", type=int, default=32, help="frames of a clip, for --clip")
    command.add_argument("--stride", type=int, default=2, help="step between them, for --clip")
    command.add_argument("--size", type=int, default=224, help="side of the crop, for --clip")
    command.add_argument("--rounds", type=int, default=7, help="rounds, whose median is printed")
    command.add_argument("--repeat", type=int, default=8, help="clips of a round")
    command.set_defaults(run=loading)
    command = commands.add_parser("steps", help="time and memory of the training step over the plain one")
    command.add_argument("--models", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    command.add_argument("--batch", type=int, default=0, help="clips of a step (none: 2, on CUDA 8)")
    command.add_argument("--rounds", type=int, default=5, help="rounds, whose median is printed")
    command.add_argument("--amp", default="none", choices=("none", "bf16", "fp16"))
    command.add_argument("--compile", action="store_true", help="torch.compile for the moving clip")
    command.add_argument("--channels-last", action="store_true", help="weights and clips in channels_last_3d")
    command.set_defaults(run=steps)
    command = commands.add_parser("smad", help="time and memory of SMAD's step over the plain one, SAAR's operations")
    command.add_argument("--batch", type=int, default=0, help="clips of a step (none: 2, on CUDA 8)")
    command.add_argument("--rounds", type=int, default=5, help="rounds, whose median is printed")
    command.add_argument("--amp", default="none", choices=("none", "bf16", "fp16"))
    command.set_defaults(run=smad_cost)
    command = commands.add_parser("select", help="seconds and memory of omnidebias.py's selection")
    command.add_argument("--items", type=int, default=1_000_000, help="web items")
    command.add_argument("--scenes", type=int, default=365, help="categories of their labels")
    command.set_defaults(run=select)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
