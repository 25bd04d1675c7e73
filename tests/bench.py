"""Measured ratios.

    python tests/bench.py loading [--clip FILE ...]

prints training clips per CPU-second (random clip, random resized crop, flip, normalise; one thread) of this project
and, where they are installed, of torchcodec and decord with torchvision.transforms.v2.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np
import torch
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import common  # noqa: E402

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
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
