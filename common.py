"""What two scripts or more share: flags, reading videos, sampling, lists, clips, labels, boxes, a
small network, checkpoints, logs. No method, no loss, no model of a paper, and nothing of ours is
imported. Of the papers there is only what evaluate.py measures with, too: SDN's masking of humans,
and the mutual information.
"""

import argparse
import atexit
import errno
import fcntl
import gc
import importlib
import json
import math
import os
import re
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import warnings
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import timedelta
from functools import lru_cache, wraps
from hashlib import sha1
from pathlib import Path

import av
import numpy as np
import torch
import torch.distributed as dist
import torchvision
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision.transforms import v2
from tqdm import tqdm


class UserError(Exception):
    """Bad input. Its message says what, where, what to do. The command line prints it in one line
    and exits with 2."""


def shortened(names, count=5):
    """Some names in one line: the first, and how many more there are."""
    names = [str(name) for name in names]
    text = ", ".join(names[:count])
    if len(names) > count:
        text += f" and {len(names) - count} more"
    return text


@lru_cache(None)
def warn(text):
    """Say something on stderr, once, from the first of torchrun's processes."""
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"warning: {one_line(text)}", file=sys.stderr, flush=True)


def one_line(fault):
    """What an error says, or a text, in one line of 400 characters at most."""
    text = str(fault)
    if isinstance(fault, OSError) and fault.strerror:
        text = f"{fault.filename or 'file system'}: {fault.strerror}"
    if "Original Traceback" in text:
        # A loader process's error arrives with its traceback: the last line is what it says.
        text = text.strip().splitlines()[-1].partition("Error: ")[2]
    text = " ".join(text.split())
    if len(text) > 400:
        text = f"{text[:275]} ... {text[-120:]}"
    return text


@contextmanager
def whole(path):
    """A name to write a file or a folder under, which takes the name `path` when all of it is
    written; what is there of it is removed where that fails."""
    path = Path(path)
    # Process numbers would not do: in containers each is 1.
    part = path.with_name(f"{path.name}.part-{secrets.token_hex(4)}")
    try:
        yield part
        part.replace(path)
    except BaseException:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)
        raise


# ---- Flags ---------------------------------------------------------------------------------------
# Where --help lists the flags that several scripts have. What is not here is the script's own.
GROUPS = {
    "data": "train val val_share root split lists test frames stride size resize scale flip mean "
    "std",
    "model": "model weights init dropout",
    "training": "epochs batch_size optimizer lr weight_decay clip_grad schedule milestones "
    "patience warmup seed",
    "machine": "out resume overwrite accumulate amp channels_last compile workers cache max_bad "
    "log_every tensorboard",
}


def arg(default, help, choices=None, low=None, high=None, positional=False):
    """A field of Args that is a flag: its default, a line of help, what is allowed, the least, the
    greatest."""
    metadata = dict(help=help, choices=choices, low=low, high=high, positional=positional)
    return field(default=default, metadata=metadata)


def cli(Args, main, presets=None, steps=None, argv=None):
    """Read flags into the dataclass Args and run main(args). A UserError ends with one line and
    exit code 2.

    presets: {NAME: {field: value}}, flags --NAME that stand for several values; flags given beside
    them win. Without --train the preset "toy" is taken, the embedded data set. steps: {WORD: (Args,
    main, presets)}, sub-commands such as `python sdn.py scenes`; no word means main.
    """
    argv = sys.argv[1:] if argv is None else argv
    program = os.path.basename(sys.argv[0])
    description = sys.modules[Args.__module__].__doc__
    if steps and argv and argv[0] in steps:
        program = f"{program} {argv[0]}"
        Args, main, presets = steps[argv[0]]
        description = main.__doc__
        argv = argv[1:]
    presets = presets or {}
    parser = make_parser(Args, presets, program, description)
    given = vars(parser.parse_intermixed_args(argv))
    try:
        main(make_args(Args, presets, given))
        return
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (UserError, OSError) as error:
        # OSError: a folder that cannot be written, a full disk, no more open files.
        text = one_line(error)
    except (MemoryError, RuntimeError) as error:
        text = out_of_memory(error)
        if not text:
            raise
    print("error:", text, file=sys.stderr)
    raise SystemExit(2)


def out_of_memory(error):
    """What to say of an error that a lack of memory raises; nothing of another."""
    text = str(error)
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return "no memory is left: lower --batch-size or --workers"
    if isinstance(error, torch.OutOfMemoryError):
        return "no memory is left on the GPU: lower --batch-size, or raise --accumulate"
    # The system kills processes when memory runs out.
    if "DataLoader worker (pid" in text and "Original Traceback" not in text:
        return f"{one_line(text)}: if no memory was left, lower --workers"
    return ""


def make_parser(Args, presets, program, description):
    """ArgumentParser with a flag for each field of Args and each preset. Flags that are not given
    are left out."""
    parser = argparse.ArgumentParser(
        prog=program,
        usage="%(prog)s [flags], which --help lists",
        description=description,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    own = parser.add_argument_group("method" if presets else "options")
    groups = {}
    for title, names in GROUPS.items():
        group = parser.add_argument_group(title)
        for name in names.split():
            groups[name] = group
    for f in fields(Args):
        name = f.name.replace("_", "-")
        options = {"help": f"{f.metadata['help']} [{f.default}]".replace("%", "%%")}
        if isinstance(f.default, bool):
            options["action"] = argparse.BooleanOptionalAction
        elif isinstance(f.default, tuple):
            options["type"] = type(f.default[0]) if f.default else str
            options["nargs"] = "*"
            # A flag of several values may be repeated: --aspect scene=A --aspect object=B.
            if not f.metadata["positional"]:
                options["action"] = "extend"
        else:
            options["type"] = type(f.default)
            options["choices"] = f.metadata["choices"]
            # A missing one is the script's to tell.
            if f.metadata["positional"]:
                options["nargs"] = "?"
        if not f.metadata["positional"]:
            name = f"--{name}"
        groups.get(f.name, own).add_argument(name, **options)
    for name, values in presets.items():
        settings = ", ".join(f"{key} {value}" for key, value in values.items()).replace("%", "%%")
        own.add_argument(f"--{name}", action="store_true", help=f"these values: {settings}")
    return parser


def make_args(Args, presets, given):
    """Args of the flags that were given, over the presets that were named, over the defaults."""
    chosen = [name for name in presets if given.pop(name, False)]
    if "toy" in presets and "toy" not in chosen and not given.get("train"):
        chosen.insert(0, "toy")
    values = {}
    for name in chosen:
        values |= presets[name]
    for name, value in given.items():
        values[name] = tuple(value) if isinstance(value, list) else value
    args = Args(**values)
    for f in fields(Args):
        check_range(f, getattr(args, f.name))
    if "toy" in chosen:
        draw_toy(args)
    return args


def check_range(f, value):
    """UserError where the value of a field of Args is out of its range."""
    flag = f"--{f.name.replace('_', '-')}"
    low = f.metadata.get("low")
    high = f.metadata.get("high")
    values = value if isinstance(value, tuple) else (value,)
    if isinstance(f.default, tuple) and f.default and len(values) != len(f.default):
        raise UserError(f"{flag} takes {len(f.default)} numbers, not {len(values)}")
    for number in values:
        if low is not None and not number >= low:
            raise UserError(f"{flag} {number}: must be at least {low}")
        if high is not None and not number <= high:
            raise UserError(f"{flag} {number}: must be at most {high}")


def draw_toy(args):
    """Have tests/toy.py make what is missing of the embedded data set. Of torchrun's processes the
    first does."""
    missing = []
    for name, value in asdict(args).items():
        for word in value if isinstance(value, tuple) else (value,):
            # An aspect is NAME=FOLDER, NAME=FOLDER,FOLDER or NAME=FOLDER:CATEGORY.
            for path in str(word).rpartition("=")[2].partition(":")[0].split(","):
                in_a_world = path.startswith("data/toy") and path.count("/") > 1
                if in_a_world and name != "out" and not os.path.exists(path):
                    missing.append(path)
    if not missing:
        return
    toy = Path(__file__).with_name("tests") / "toy.py"
    if not toy.exists():
        raise UserError(
            "name a list of your own with --train: tests/toy.py, which draws the embedded one, is "
            "not here"
        )
    if int(os.environ.get("RANK", 0)) == 0:
        alone = {
            k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")
        }
        if subprocess.run([sys.executable, toy, *missing], env=alone).returncode:
            raise UserError(f"{toy}: it did not make {', '.join(missing)}")
    while not all(os.path.exists(path) for path in missing):
        time.sleep(1)


# ---- Video ---------------------------------------------------------------------------------------
# Frame-exact random access. A frame's number is its place in the order in which the decoder gives
# it.
IMAGES = (".jpg", ".jpeg", ".png", ".webp")

# What a series of frames is called that is RGB, and not optical flow or depth.
RGB_NAMES = ("", "img", "image", "frame", "rgb")

# What the system says of a file that is itself at fault; all else is the system's own trouble.
FILE_FAULTS = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EACCES,
    errno.EPERM,
    errno.ELOOP,
    errno.ENAMETOOLONG,
)

# What FFmpeg passes on of the system's own trouble: no files, a failing disk, a mount that is gone.
SYSTEM_FAULTS = (errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE, errno.ENOTCONN)

# What each process keeps at most of where the frames of its videos are, of files and of folders.
CACHE_BYTES = 128 * 2**20


def num_frames(path) -> int:
    """Frames of a video file, a folder of frame images or one image (1); UserError if there are
    none. Damage inside an MP4 or MKV shows only when it is read: read_clip then loops the frames
    that come before it."""
    images = _images(path)
    if images:
        return len(images)
    return len(_index(*_key(path), False).packet)


def read_clip(path, indices) -> torch.Tensor:
    """Frames `indices` (any order, repeats allowed) -> uint8 (T, H, W, 3) RGB, turned upright, the
    very bits of a decoding of the whole file. Indices past the end wrap round: short clips loop.
    UserError if none; OSError where not the video but the system is at fault."""
    images = _images(path)
    if images:
        wanted = [int(i) % len(images) for i in indices]
        frames = {i: read_clip(images[i], [0])[0] for i in set(wanted)}
        if len({frame.shape for frame in frames.values()}) > 1:
            raise _unreadable(path, "its images differ in size")
        return torch.stack([frames[i] for i in wanted])
    # The first index trusts the container; where its frames do not come, the second is made by
    # decoding them all.
    for damaged in (False, True):
        index = _index(*_key(path), damaged)
        wanted = [int(i) % len(index.packet) for i in indices]
        frames = _decode(path, index, set(wanted))
        if frames is not None:
            return torch.from_numpy(np.stack([frames[i] for i in wanted]))
    raise _unreadable(path, "its frames cannot be decoded")


def _unreadable(path, why):
    return UserError(f"cannot read {path}: {why}; replace it, or leave it out of the list")


@contextmanager
def _file_faults(path):
    """Turn what the system says of a file into a UserError where the file is at fault."""
    try:
        yield
    except ValueError:
        raise _unreadable(path, "no file has such a name") from None
    except OSError as error:
        if error.errno not in FILE_FAULTS:
            raise
        raise _unreadable(path, error.strerror) from None


@contextmanager
def _damage_ends(path):
    """What is inside ends where FFmpeg meets damage. Whose fault that is the system knows: its
    OSError, such as of a failing disk, is raised."""
    try:
        yield
    except av.FFmpegError as error:
        _ask_system(path, error)


def _ask_system(path, error):
    """OSError where FFmpeg's error is the system's, or may be (its own have large numbers) and the
    file cannot be read whole either. It says EIO of damage, too: there the file decides."""
    if error.errno in SYSTEM_FAULTS and error.errno != errno.EIO:
        raise OSError(error.errno, os.strerror(error.errno), str(path))
    if error.errno < 4096:
        with _file_faults(path), open(path, "rb") as file:
            while file.read(2**20):
                pass


def _key(path):
    """What the caches know a file by: written anew, it is read anew."""
    with _file_faults(path):
        status = os.stat(path)
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise _unreadable(path, "it is no regular file")
    return str(path), status.st_mtime_ns, status.st_size


def _remembered(read):
    """Keep what read(path, mtime, size, ...) returned, each with .nbytes, up to CACHE_BYTES; then
    the oldest goes."""
    kept = {}
    held = 0

    @wraps(read)
    def remembered(*key):
        nonlocal held
        if key not in kept:
            value = read(*key)
            while kept and held + value.nbytes > CACHE_BYTES:
                held -= kept.pop(next(iter(kept))).nbytes
            kept[key] = value
            held += value.nbytes
        return kept[key]

    return remembered


@dataclass
class Folder:
    """The images of a folder of frames, in their order."""

    images: list[str]

    @property
    def nbytes(self):
        return 500 + sum(100 + len(image) for image in self.images)


def _images(path):
    """The images of a folder of frames; None of a file"""
    key = _key(path)
    return _folder(*key).images if os.path.isdir(path) else None


@_remembered
def _folder(path, mtime, size):
    """Folder in natural order (2.jpg before 10.jpg). Of several numbered series, such as img_1.jpg
    and flow_x_1.jpg, the RGB one; UserError where their names do not tell which it is."""
    series = {}  # {name without its numbers: [(numbers, name)]}
    with _file_faults(path):
        names = os.listdir(path)
    for name in names:
        # macOS leaves files that begin with ._ in archives.
        if name.lower().endswith(IMAGES) and not name.startswith("."):
            stem = os.path.splitext(name)[0]
            numbers = re.findall("[0-9]+", stem)
            key = re.sub("[0-9]+", "", stem)
            series.setdefault(key, []).append(([int(n) for n in numbers], name))
    if not series:
        raise _unreadable(path, f"the folder holds no image ({', '.join(IMAGES)})")
    if len(series) > 1:
        rgb = [key for key in series if key.strip(" _.-").lower() in RGB_NAMES]
        if len(rgb) != 1:
            first = shortened((numbered[0][1] for numbered in series.values()), 3)
            raise _unreadable(
                path, f"its images are {len(series)} series ({first}), none or several of them RGB"
            )
        series = {rgb[0]: series[rgb[0]]}
    (numbered,) = series.values()
    return Folder([os.path.join(path, name) for _, name in sorted(numbered)])


def _open(path):
    """-> container, its video stream, the stream's decoder"""
    try:
        # HMDB51 has titles that are not UTF-8.
        container = av.open(f"file:{path}", metadata_errors="replace")
    except av.FFmpegError as error:
        _ask_system(path, error)
        raise _unreadable(path, error.strerror) from None
    stream = _shown_stream(container)
    if stream is None:
        container.close()
        raise _unreadable(path, "it has no video stream")
    codec = stream.codec_context
    if codec is None:
        container.close()
        raise _unreadable(path, "no decoder knows its codec")
    # More threads cost CPU time, and the loaders are parallel already.
    codec.thread_type = "NONE"
    codec.thread_count = 1
    return container, stream, codec


def _shown_stream(container):
    """The video stream that a player shows: the default one, else the first; None if there is
    none."""
    shown = None
    for stream in container.streams.video:
        # The picture of a cover is a stream too, sometimes the first.
        if stream.disposition & Disposition.attached_pic:
            continue
        if stream.disposition & Disposition.default:
            return stream
        shown = shown or stream
    return shown


def _is_start(packet, codec):
    """Whether a decoder that begins at this packet is exact from its frame on. Of what H.264 files
    call key frames, only IDR pictures (NAL type 5) are such; in MP4 and MKV each NAL unit follows
    its length."""
    if not packet.is_keyframe or codec.name != "h264":
        return packet.is_keyframe
    data = bytes(packet)
    config = codec.extradata or b"\0"
    # The bytes of a length; a stream without lengths is one unit.
    size = (config[4] & 3) + 1 if config[0] == 1 else len(data)
    position = 0
    while position + size < len(data):
        if data[position + size] & 31 == 5:
            return True
        position += size + int.from_bytes(data[position : position + size], "big")
    return False


@dataclass
class Index:
    """Where the frames of a video are. Packets are numbered in file order."""

    packet: np.ndarray  # (n,) the packet of each frame
    start: np.ndarray  # (n,) the packet where decoding must begin for each frame
    seek: dict  # {such a packet: (dts to seek to, pts to know it by)}; empty: read from the start

    @property
    def nbytes(self):
        return 1000 + self.packet.nbytes + self.start.nbytes + 250 * len(self.seek)


@_remembered
def _index(path, mtime, size, damaged):
    """Index of a video.

    Presentation times give the order, without decoding, if the container has true ones and the
    codec makes a frame of each packet. AVI has none (with those that FFmpeg makes up, B-frames of
    UCF101 and HMDB51 would change places): there, and if the file is `damaged`, one full decode
    gives the order."""
    if path.lower().endswith(IMAGES):
        return Index(np.zeros(1, np.int32), np.zeros(1, np.int32), {})
    container, stream, codec = _open(path)
    with container:
        timed = container.format.name.startswith(("mov", "matroska"))
        timed = timed and codec.name in ("h264", "hevc", "vp9", "av1", "libdav1d")
        index = None
        if timed and not damaged:
            index = _index_by_times(path, container, stream, codec)
    if index is not None:
        return index
    container, stream, codec = _open(path)
    with container:
        index = _index_by_decoding(path, container, stream, codec, damaged or timed)
    if not len(index.packet):
        raise _unreadable(path, "no frame can be decoded")
    return index


def _index_by_times(path, container, stream, codec):
    """Index by the packets' presentation times, or None where they cannot be trusted."""
    shown = []  # (time, packet) of each frame
    seek = {}
    complete = False
    with _damage_ends(path):
        for number, packet in enumerate(container.demux(stream)):
            if packet.is_corrupt:
                return None
            if not packet.size:
                continue
            if _is_start(packet, codec):
                seek[number] = (packet.pts if packet.dts is None else packet.dts, packet.pts)
            if not packet.is_discard:  # by an edit list
                shown.append((packet.pts, number))
        complete = True
    times = [time for time, _ in shown]
    if not complete or 0 not in seek or None in times or len(set(times)) < len(times):
        return None
    if codec.has_b_frames != (times != sorted(times)):
        return None
    packet = np.array([number for _, number in sorted(shown)], np.int32)
    return Index(packet, _starts(packet, list(seek)), seek)


def _index_by_decoding(path, container, stream, codec, damaged):
    """Index by one decoding of the whole file. A file that ends early gives what it has."""
    shown = []  # the packet of each frame
    keys = set()
    with _damage_ends(path):
        for number, packet in enumerate(container.demux(stream)):
            if packet.size and _is_start(packet, codec):
                keys.add(number)
            # A frame carries the time of its packet, so that one knows whose it is.
            packet.pts = number
            for frame in codec.decode(packet):
                shown.append(frame.pts)
                # An AVI's list of key frames may be wrong.
                if damaged or not frame.key_frame:
                    keys.discard(frame.pts)
            damaged = damaged or packet.is_corrupt
    packet = np.array(shown, np.int32)
    return Index(packet, _starts(packet, list(keys)), {})


def _starts(packet, keys):
    """(n,) the last packet of `keys` that is shown before or with each frame: pictures that follow
    a key frame in the file but precede it in time need the key frame before it."""
    return np.maximum.accumulate(np.where(np.isin(packet, keys), packet, 0))


def _decode(path, index, wanted):
    """{i: RGB image (H, W, 3)} of the frames i in `wanted`; None if what comes is not what the
    index says."""
    frame_of = {packet: i for i, packet in enumerate(index.packet.tolist())}
    images = {}
    last = -1
    container, stream, codec = _open(path)
    width, height = codec.width, codec.height
    to_rgb = VideoReformatter()
    with container, _damage_ends(path):
        for frame in _decoded(container, stream, codec, index, wanted):
            # What a decoder shows in place of damage depends on where it began.
            if index.seek and frame.is_corrupt:
                return None
            i = frame_of.get(frame.pts)
            if i is None:
                continue
            if i < last:
                return None
            last = i
            if i in wanted:
                plane = to_rgb.reformat(frame, width, height, "rgb24", threads=1).planes[0]
                rows = np.frombuffer(plane, np.uint8).reshape(height, -1)[:, : 3 * width]
                images[i] = np.rot90(rows.reshape(height, width, 3), frame.rotation // 90)
    return images if len(images) == len(wanted) else None


def _decoded(container, stream, codec, index, wanted):
    """Yield the frames that decoding gives on its way to the frames `wanted`. The pts of each is
    its packet's number."""
    needed = np.zeros(index.packet.max() + 1, np.int8)
    for i in wanted:
        needed[index.start[i] : index.packet[i] + 1] = 1
    spans = np.flatnonzero(np.diff(needed, prepend=0, append=0)).reshape(-1, 2).tolist()
    targets = set(index.packet[list(wanted)].tolist())
    number = 0  # of the packet that comes next
    for first, end in spans:
        target = None
        if first > number and first in index.seek:
            # This may lead to a key frame before the packet.
            dts, target = index.seek[first]
            container.seek(dts, stream=stream)
        for packet in container.demux(stream):
            if target is not None:
                if packet.pts != target:
                    continue
                number = first
                target = None
            if number >= first:
                # H.264 frames that no other refers to may be left out; other codecs promise less.
                may_skip = index.seek and codec.name == "h264" and number not in targets
                codec.skip_frame = "NONREF" if may_skip else "DEFAULT"
                packet.pts = number
                yield from codec.decode(packet)
            number += 1
            if number == end:
                yield from codec.decode(None)
                break
        codec.flush_buffers()


def frame_rate(path):
    """Frames a second of a video file, 25 of a folder of images"""
    if _images(path):
        return 25
    with av.open(str(path)) as container:
        return container.streams.video[0].average_rate or 25


def write_video(path, frames, rate, pix_fmt="yuv420p", crf=23):
    """frames (T, H, W, 3) uint8 -> an MP4 of H.264; yuv420p takes even sides alone"""
    with whole(path) as part, av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        # One thread, and no tree of macroblocks: else two files of the same frames differ.
        stream.options = {"crf": str(crf), "threads": "1", "x264-params": "mbtree=0"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())


def write_picture(path, picture):
    """picture (H, W, 3) uint8 -> a PNG"""
    av.VideoFrame.from_ndarray(picture, "rgb24").save(str(path))


# ---- Sampling ------------------------------------------------------------------------------------
# int64 indices in [0, n), a function of n >= 1 frames; shorter videos loop (index % n). Those that
# draw nothing take rng too, as Videos passes it, and ignore it.
def random_clip(n, frames, stride, rng):
    """(frames,) indices of a dense training clip, evenly from all that fit; rng: numpy
    Generator."""
    starts = max(n - (frames - 1) * stride, 1)
    return (rng.integers(starts) + np.arange(frames) * stride) % n


def centre_clip(n, frames, stride, rng=None):
    """(frames,) indices of the clip in the middle of the video (ALBAR App. B: its single clip at
    test)."""
    return uniform_clips(n, frames, stride, 1)[0]


def uniform_clips(n, frames, stride, clips, rng=None):
    """(clips, frames) indices of clips with evenly spaced starts (SMAD Sec. 6.1: ten for SlowOnly).
    The paper is silent; as in mmaction2 the first begins and the last ends with the video, one is
    the centre."""
    last_start = max(n - (frames - 1) * stride - 1, 0)
    starts = np.array([last_start // 2])
    if clips > 1:
        starts = np.rint(np.arange(clips) * last_start / (clips - 1)).astype(np.int64)
    return (starts[:, None] + np.arange(frames) * stride) % n


def tsn_segments(n, segments, rng=None):
    """(segments,) indices, in order, one in each of equal parts of the video: drawn with rng (TSN:
    3), else the middle (SMAD Sec. 6.1: 25 at test; as mmaction2). A video of fewer frames repeats
    some, in order."""
    if rng is None:
        return (2 * np.arange(segments) + 1) * n // (2 * segments)
    edges = np.arange(segments + 1) * n // segments
    low = edges[:-1]
    high = edges[1:]
    return rng.integers(low, np.maximum(high, low + 1))


def evenly(n, frames, rng=None):
    """(frames,) indices, the middles of equal parts of the video."""
    return tsn_segments(n, frames)


# ---- Lists ---------------------------------------------------------------------------------------
@dataclass
class VideoList:
    paths: list[str]  # as in the list, less `./` and the like; the key of a video everywhere
    labels: list[int]  # from 0, into classes
    classes: list[str]
    root: Path
    kind: str  # the format it was seen as
    sha1: str  # of the list file; for HMDB51 of the chosen lines
    missing: tuple = ()  # paths that `existing` has left out

    def __len__(self):
        return len(self.paths)

    def full(self, i):
        return self.root / self.paths[i]


@dataclass
class Row:
    """A line of a list."""

    place: str  # "file:number"
    path: str
    label: int


@dataclass
class WaterbirdsRow(Row):
    part: str  # train, val or test
    background: str  # land or water


# What the numbers mean in the columns of Waterbirds' metadata.csv.
WATERBIRDS = {
    "y": {"0": "landbird", "1": "waterbird"},
    "split": {"0": "train", "1": "val", "2": "test"},
    "place": {"0": "land", "1": "water"},
}


def read_lines(file):
    """[("file:number", text)] of the lines that are not blank; UTF-8 with or without BOM, LF or
    CRLF."""
    file = Path(file)
    try:
        lines = file.read_bytes().decode("utf-8-sig").split("\n")
    except OSError as error:
        raise UserError(f"{file}: cannot read it: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: cannot read it: not UTF-8 text") from None
    return [(f"{file}:{i}", line.strip()) for i, line in enumerate(lines, 1) if line.strip()]


def read_list(path, root="", part="train", split=1, classes=None):
    """VideoList of a list file, or of HMDB51's folder of <class>_test_splitN.txt.

    The kind is told by what is on disk: HMDB51's is a folder; UCF101's has classInd.txt beside it;
    Waterbirds' metadata.csv has its header; else a line is `path label`, or `folder frames label`
    where there is such a folder of frames. part: train, val or test, of those that have parts;
    HMDB51's val is its test part.
    Class names come from classInd.txt, k400_actions.txt (ARAS) or classes.txt beside the list, else
    from the videos' folders if they go one to one with the labels, else they are the labels. root:
    the videos' folder, "" for the list's. classes: the training run's, which the list's own must
    agree with. A video comes as often as it is listed (ARAS' test list balances its classes so).
    """
    path = Path(path)
    if path.is_dir():
        root = Path(root or path)
        kind = "HMDB51"
        names, rows = read_hmdb51(path, part, split)
    else:
        root = Path(root or path.parent)
        kind, names, rows = read_file(path, root, part)
    if not rows:
        raise UserError(f"{path}: empty list")
    check_classes(path, names, classes)
    check_labels(rows, classes or names)
    if part != "train":
        check_folders(rows, classes or names)
    if path.is_dir():
        content = "".join(f"{row.path} {row.label}\n" for row in rows).encode()
    else:
        content = path.read_bytes()
    return VideoList(
        paths=[row.path for row in rows],
        labels=[row.label for row in rows],
        classes=list(classes or names or names_of_folders(rows)),
        root=root,
        kind=kind,
        sha1=sha1(content).hexdigest(),
    )


def read_made_list(path, root, part, split, classes):
    """read_list of SCUBA or Confl-FG. These are made: where one lies beside its list, as albar.py
    leaves them, the list's folder is theirs, and root is the test videos' alone."""
    beside = read_list(path, "", part, split, classes)
    if not root or os.path.exists(beside.full(0)):
        return beside
    return read_list(path, root, part, split, classes)


def read_file(path, root, part):
    """-> kind, class names or [], rows of a list file"""
    lines = read_lines(path)
    if is_waterbirds(path, lines):
        rows = [row for row in read_waterbirds(lines) if row.part == part]
        if not rows:
            raise UserError(f"{path}: no image of the {part} part in its column split")
        return "Waterbirds", list(WATERBIRDS["y"].values()), rows
    if path.with_name("classInd.txt").exists():
        names = [text.split()[-1] for _, text in read_lines(path.with_name("classInd.txt"))]
        if any(text.split("/")[0] in names for _, text in lines):
            return "UCF101", names, read_ucf101(lines, names)
    names = []
    for file in ("k400_actions.txt", "classes.txt"):
        if path.with_name(file).exists():
            names = [text for _, text in read_lines(path.with_name(file))]
    return "plain", names, read_plain(path, lines, root)


def read_plain(path, lines, root):
    """Rows of `path label`, labels from 0, or of `folder frames label`."""
    named = path.with_name("classes.txt").exists()
    if lines and not named and all("/v_" in text and "_g" in text for _, text in lines):
        # UCF101's own lists count from 1, or have no label.
        if not any(text.split()[-1] == "0" for _, text in lines):
            raise UserError(
                f"{path}: UCF101's ids from 1, or none: put its classInd.txt beside the list"
            )
    rows = []
    counts = {}  # {row: (folder, frames)} of the rows that may be `folder frames label`
    for place, text in lines:
        row = Row(place, *split_label(place, text))
        folder, _, frames = row.path.rpartition(" ")
        # A path may end in a number too: what lies on disk tells.
        is_count = frames.isdecimal() and len(frames) < 10
        if folder and is_count and not os.path.exists(root / row.path):
            counts[len(rows)] = (folder.strip(), int(frames))
        rows.append(row)
    check_frame_rows(root, rows, counts)
    folders = [os.path.isdir(root / folder) for folder, _ in counts.values()]
    if any(folders) or len(counts) == len(rows):
        for i, row in enumerate(rows):
            if i not in counts:
                raise UserError(
                    f"{row.place}: expected `folder frames label` as in other lines: "
                    f"{f'{row.path} {row.label}'[:70]!r}"
                )
            row.path = counts[i][0]
        compare_counts(path, root, counts.values())
    return rows


def check_frame_rows(root, rows, counts):
    """UserError for a row that is almost `folder frames label`: its folder is a file, or a third
    number comes before."""
    for i, (folder, _) in counts.items():
        start, _, number = folder.rpartition(" ")
        offset = start and number.isdecimal() and not os.path.isdir(root / folder)
        if offset or os.path.isfile(root / folder):
            raise UserError(
                f"{rows[i].place}: expected `path label`, or `folder frames label` where folder is "
                f"one of images; no further numbers: {f'{rows[i].path} {rows[i].label}'[:70]!r}"
            )


def compare_counts(path, root, counts):
    """Warn of the folders that hold another number of frames than a list says; lists are often one
    apart."""
    differing = []
    for folder, frames in counts:
        if os.path.isdir(root / folder):
            with suppress(UserError):  # one without images is told when it is read
                if abs(num_frames(root / folder) - frames) > 1:
                    differing.append(folder)
    if differing:
        warn(
            f"{path}: {len(differing)} of {len(counts)} folders hold another number of frames than "
            f"the list says: {shortened(differing)}"
        )


def split_label(place, text):
    """`path label` -> path, label"""
    words = text.rsplit(maxsplit=1)
    label = words[-1]
    # Nine digits: more are no label, and int() refuses thousands of them.
    is_label = label.isascii() and label.isdecimal() and len(label) < 10
    if len(words) < 2 or not is_label:
        raise UserError(f"{place}: expected `path label`, the label a number from 0: {text[:70]!r}")
    return words[0], int(label)


def read_ucf101(lines, names):
    """Rows of `Class/v_Class_gNN_cNN.avi id`: ids from 1, in mmaction2's lists from 0, in test
    lists none. The label is the place of the class folder in classInd.txt, and an id must agree
    with it."""
    words = [text.split() for _, text in lines]
    first_id = 0 if any(len(line) > 1 and line[1] == "0" for line in words) else 1
    rows = []
    for (place, text), (path, *ids) in zip(lines, words, strict=True):
        folder = path.split("/")[0]
        label = names.index(folder) if folder in names else -1
        if label < 0 or ids not in ([], [str(label + first_id)]):
            raise UserError(
                f"{place}: class folder or id does not agree with classInd.txt: {text[:70]!r}"
            )
        rows.append(Row(place, path, label))
    return rows


def read_hmdb51(folder, part, split):
    """Files <class>_test_splitN.txt of `name flag` lines, flag 1 for training, 2 for test, 0 for
    neither. -> class names, sorted; rows"""
    wanted = 1 if part == "train" else 2
    ending = f"_test_split{split}.txt"
    # macOS leaves files that begin with a dot in archives.
    names = sorted(file.name.removesuffix(ending) for file in folder.glob(f"[!.]*{ending}"))
    rows = []
    for label, name in enumerate(names):
        for place, text in read_lines(folder / f"{name}{ending}"):
            video, flag = split_label(place, text)
            if flag > 2:
                raise UserError(f"{place}: expected `name flag`, flag 0, 1 or 2: {text[:70]!r}")
            if flag == wanted:
                rows.append(Row(place, f"{name}/{video}", label))
    if not rows:
        raise UserError(f"{folder}: no {part} videos in *{ending}")
    return names, rows


def is_waterbirds(path, lines):
    """Whether the lines of a file begin with the header of Waterbirds' metadata.csv"""
    if Path(path).suffix != ".csv" or not lines:
        return False
    header = lines[0][1].split(",")
    return {"img_filename", *WATERBIRDS} <= set(header)


def read_waterbirds(lines):
    """Rows of Waterbirds' metadata.csv (Sagawa et al. 2020), of all its parts"""
    header = lines[0][1].split(",")
    rows = []
    for place, text in lines[1:]:
        cells = text.split(",")
        row = dict(zip(header, cells, strict=False))
        known = [row.get(column) in meanings for column, meanings in WATERBIRDS.items()]
        if len(cells) != len(header) or not row["img_filename"] or not all(known):
            raise UserError(
                f"{place}: expected {','.join(header)}, y and place 0 or 1, split 0 to 2: "
                f"{text[:70]!r}"
            )
        part = WATERBIRDS["split"][row["split"]]
        background = WATERBIRDS["place"][row["place"]]
        rows.append(WaterbirdsRow(place, row["img_filename"], int(row["y"]), part, background))
    return rows


def parts_of(path):
    """The parts that a list has; any other is one, whatever part it is read as."""
    if Path(path).is_dir():
        return ("train", "test")
    lines = read_lines(path)
    if is_waterbirds(path, lines):
        there = {row.part for row in read_waterbirds(lines)}
        return tuple(part for part in WATERBIRDS["split"].values() if part in there)
    return ("train",)


def check_classes(path, names, classes):
    """UserError where the names beside a list are not the training run's classes."""
    if are_others(names, classes):
        raise UserError(f"{path}: its classes are not the training run's, or in another order")


def are_others(names, classes):
    """Whether the names beside a list are known to be other classes than a run's, or in another
    order. A run that knew no names called its classes 0, 1, ..."""
    if not names or not classes or classes[0].isdigit():
        return False
    ours = [name.replace("_", " ").lower() for name in names]
    theirs = [name.replace("_", " ").lower() for name in classes]
    return ours != theirs


def check_labels(rows, names):
    """UserError for a label without a name (of a million, where there are no names), or a video
    with two labels."""
    limit = len(names) or 10**6
    seen = {}
    for row in rows:
        row.path = os.path.normpath(row.path)
        if row.label >= limit:
            raise UserError(
                f"{row.place}: label {row.label} is outside the {limit} classes, 0 to {limit - 1}"
            )
        other = seen.setdefault(row.path, row)
        if other.label != row.label:
            raise UserError(
                f"{row.place}: {row.path!r} has label {row.label} here and {other.label} at "
                f"{other.place}"
            )


def check_folders(rows, names):
    """UserError where the folder of a video is that of another class than its label's. (Of web
    items, which are for training, it says what was sought, not what was found.)"""
    label_of = {name.replace("_", " ").lower(): label for label, name in enumerate(names)}
    if not label_of or names[0].isdigit():
        return
    for row in rows:
        folder = os.path.basename(os.path.dirname(row.path))
        label = label_of.get(folder.replace("_", " ").lower(), row.label)
        if label != row.label:
            raise UserError(
                f"{row.place}: label {row.label} is {names[row.label]!r}, and the folder is that "
                f"of class {label}: {row.path!r}"
            )


def names_of_folders(rows):
    """Class names of a list that has none: the folders of the videos if one to one with the labels,
    else the labels."""
    pairs = {(row.label, os.path.basename(os.path.dirname(row.path))) for row in rows}
    folder_of = dict(pairs)
    if not len(pairs) == len(folder_of) == len(set(folder_of.values())):
        folder_of = {}
    count = max(row.label for row in rows) + 1
    return [folder_of.get(label) or str(label) for label in range(count)]


def write_lists(out, lists, classes=()):
    """Lists {NAME: [(path, label)]} and their classes in a new folder."""
    with whole(out) as part:
        part.mkdir(parents=True)
        for name, rows in lists.items():
            lines = [f"{path} {label}\n" for path, label in rows]
            (part / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
        if classes:
            (part / "classes.txt").write_text(
                "".join(f"{name}\n" for name in classes), encoding="utf-8"
            )


def subset(videos, keep):
    """The videos at these places of the list."""
    paths = [videos.paths[i] for i in keep]
    labels = [videos.labels[i] for i in keep]
    return replace(videos, paths=paths, labels=labels)


def each_once(videos, file):
    """The videos without those that came before in their list, lest one that is held out is trained
    on, too."""
    first_places = {}
    for i, path in enumerate(videos.paths):
        first_places.setdefault(path, i)
    again = len(videos) - len(first_places)
    if again:
        warn(f"{file}: {again} lines name a video again: each is used once")
    return subset(videos, first_places.values())


def split_list(videos, share, seed):
    """Hold out a share of the videos at random, seeded. -> VideoList to train on, VideoList held
    out"""
    order = np.random.default_rng([seed, len(videos)]).permutation(len(videos)).tolist()
    n = round(share * len(videos))
    if not 0 < n < len(videos):
        raise UserError(
            f"a share of {share} of {len(videos)} videos leaves none to train on or to validate "
            "with"
        )
    return subset(videos, sorted(order[n:])), subset(videos, sorted(order[:n]))


def existing(videos, max_bad, root="--root"):
    """The videos whose files exist, the others in .missing. UserError, naming the folder's flag,
    where these are all or more than a share max_bad."""
    keep = []
    missing = []
    for i in range(len(videos)):
        try:
            with _file_faults(videos.full(i)):
                os.stat(videos.full(i))
            keep.append(i)
        except UserError:
            missing.append(i)
    if not keep or len(missing) > max_bad * len(videos):
        first = videos.full(missing[0])
        raise UserError(
            f"{len(missing)} of {len(videos)} videos do not exist, first {first}: check {root} "
            f"(now {videos.root}), "
            "or allow more with --max-bad"
        )
    return replace(subset(videos, keep), missing=tuple(videos.paths[i] for i in missing))


def read_lists(args):
    """-> training and validation VideoList of a method script's flags, without the videos whose
    files are missing"""
    if not args.train:
        raise UserError("name a training list: --train LIST")
    if args.resize < args.size:
        raise UserError(
            f"--resize {args.resize} is less than --size {args.size}: test clips would have black "
            "borders"
        )
    train_list = read_list(args.train, args.root, "train", args.split)
    train_list = each_once(train_list, args.train)
    if args.val:
        val_list = read_list(args.val, args.root, "val", args.split, train_list.classes)
        trained_on = {str(train_list.full(i)) for i in range(len(train_list))}
        shared = [
            path for i, path in enumerate(val_list.paths) if str(val_list.full(i)) in trained_on
        ]
        if shared:
            raise UserError(
                f"--val: {len(shared)} of its videos are in --train too: {shortened(shared)}"
            )
    else:
        # Before files are looked for, so that a missing one does not change the draw.
        train_list, val_list = split_list(train_list, args.val_share, args.seed)
    train_list = existing(train_list, args.max_bad)
    classes = train_list.classes
    empty = sorted(set(range(len(classes))) - set(train_list.labels))
    if empty:
        names = shortened(classes[label] for label in empty)
        warn(
            f"{args.train}: {len(empty)} of {len(classes)} classes have no training video (labels "
            f"count from 0): {names}"
        )
    return train_list, existing(val_list, args.max_bad)


# ---- Clips ---------------------------------------------------------------------------------------
def train_transform(size, scale=(0.08, 1.0), flip=0.5):
    """(T, 3, H, W) uint8 -> (T, 3, size, size): one random resized crop and one flip for the whole
    clip."""
    return v2.Compose(
        [v2.RandomResizedCrop(size, tuple(scale), antialias=True), v2.RandomHorizontalFlip(flip)]
    )


def test_transform(size, resize):
    """(T, 3, H, W) uint8 -> (T, 3, size, size): short side to `resize`, centre crop."""
    return v2.Compose([v2.Resize(resize, antialias=True), v2.CenterCrop(size)])


def normalise(clip, mean, std):
    """(..., 3, T, H, W) uint8 -> float32 (x / 255 - mean) / std, on the clip's device."""
    mean = torch.tensor(mean, device=clip.device).view(3, 1, 1, 1) * 255
    std = torch.tensor(std, device=clip.device).view(3, 1, 1, 1) * 255
    return clip.float().sub_(mean).div_(std)


class Videos(torch.utils.data.Dataset):
    """Clips of a VideoList. sample(n, rng) chooses frames, (T,) or (V, T). All that is random
    follows from (seed, epoch, index), seed a number or several, so neither the number of workers
    nor a resume changes it. Item `epoch * len(videos) + index` is a dict:

    clip    (3, T, H, W) or (V, 3, T, H, W) uint8
    index   place in the list of the video that was asked for
    video   place of the one that is shown: where a video cannot be read, the next that can, if no
            more than a share max_bad in a row cannot; with max_bad None black frames
    label   of the one that is shown
    bad     1 where the video that was asked for cannot be read

    change(frames (n, H, W, 3), path in the list, indices) -> frames, indices, {more items}: what a
    paper does to decoded frames before the transform; it may give more frames, (2, T) for (T,).
    """

    def __init__(self, videos, sample, transform, seed=0, cache=False, max_bad=None, change=None):
        self.videos = videos
        self.paths = videos.paths
        self.missing = videos.missing
        self.sample = sample
        self.transform = transform
        self.seed = seed if isinstance(seed, tuple) else (seed,)
        self.cache = {} if cache else None  # decoded videos, kept in memory: for small ones alone
        self.max_bad = max_bad
        self.change = change

    def __len__(self):
        return len(self.videos)

    def __getitem__(self, key):
        epoch, index = divmod(int(key), len(self))
        rng = np.random.default_rng([*self.seed, epoch, index])
        shown, frames, indices = self.read_from(index, rng)
        bad = shown != index
        if frames is None:
            bad = True
            indices = self.sample(1, rng=rng)
            frames = torch.zeros(indices.size, 64, 64, 3, dtype=torch.uint8)
        more = {}
        if self.change:
            frames, indices, more = self.change(frames, self.paths[shown], indices)
        # The transforms draw from torch's own generator.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(rng.integers(2**62)))
            clip = self.transform(frames.permute(0, 3, 1, 2))
        clip = clip.unflatten(0, indices.shape).transpose(-4, -3)
        item = {
            "clip": clip,
            "label": self.videos.labels[shown],
            "index": index,
            "video": shown,
            "bad": int(bad),
        }
        return item | more

    def read_from(self, index, rng):
        """-> the first of the videos from `index` on that can be read, frames (n, H, W, 3), their
        indices; with max_bad None frames None. UserError where too many cannot."""
        more = int((self.max_bad or 0) * len(self))
        for place in range(index, index + more + 1):
            place = place % len(self)
            try:
                frames, indices = self.read(self.videos.full(place), rng)
                return place, frames, indices
            except UserError as error:
                reason = error
        if self.max_bad is None:
            return index, None, None
        raise UserError(
            f"{more + 1} of {len(self)} videos cannot be read (--max-bad {self.max_bad}): the "
            f"last: {reason}"
        )

    def read(self, path, rng):
        """-> frames (n, H, W, 3) of the sampled indices, the indices"""
        if self.cache is None:
            indices = self.sample(num_frames(path), rng=rng)
            return read_clip(path, indices.ravel()), indices
        if path not in self.cache:
            self.cache[path] = read_clip(path, np.arange(num_frames(path)))
        indices = self.sample(len(self.cache[path]), rng=rng)
        return self.cache[path][indices.ravel()], indices


class Order(torch.utils.data.Sampler):
    """Batches of keys for Videos, `epoch * n + index`, of an epoch. Their order follows from (seed,
    epoch). Each global batch is dealt out to world x accumulate parts, of which each process takes
    its own: more processes see the same videos in a step. A resumed run skips `skip` global
    batches."""

    def __init__(self, n, batch_size, seed, rank=0, world=1, accumulate=1):
        parts = world * accumulate
        if batch_size % parts:
            raise UserError(
                f"--batch-size {batch_size} is the global one: it must be a multiple of processes "
                "x "
                f"--accumulate = {parts}"
            )
        if n < batch_size:
            raise UserError(
                f"{n} training videos are fewer than --batch-size {batch_size}: lower it"
            )
        self.n = n
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world = world
        self.parts = parts
        self.steps = n // batch_size
        self.start(0, 0)

    def start(self, epoch, skip):
        """Which epoch comes next, and how many of its global batches are done already."""
        self.epoch = epoch
        self.skip = skip

    def __len__(self):
        return (self.steps - self.skip) * (self.parts // self.world)

    def __iter__(self):
        rng = np.random.default_rng([self.seed, self.epoch])
        keys = rng.permutation(self.n) + self.epoch * self.n
        for step in range(self.skip, self.steps):
            batch = keys[step * self.batch_size : (step + 1) * self.batch_size]
            for part in range(self.rank, self.parts, self.world):
                yield batch[part :: self.parts].tolist()


def make_loader(dataset, args, device, **options):
    """DataLoader with --workers processes; options: batch_size, batch_sampler and the like."""
    options["num_workers"] = args.workers
    options["pin_memory"] = device.type == "cuda"
    options["worker_init_fn"] = ignore_signals
    return DataLoader(dataset, **options)


def ignore_signals(worker):
    """For loader processes: ignore Ctrl-C, and obey a SIGTERM of the training process alone. A
    signal to the whole group is that process's to answer, after it has saved."""

    def wait(parent):
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
            pass
        os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # macOS has no sigwaitinfo.
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=wait, args=(os.getppid(),), daemon=True).start()


# ---- Labels that an offline step found -----------------------------------------------------------
@dataclass
class OfflineArgs:
    """Flags of the steps that look at videos once, before training."""

    lists: tuple = arg(
        (), "lists of videos, as --train takes them, with all of their parts", positional=True
    )
    root: str = arg("", "folder of the videos; none: the lists' own")
    split: int = arg(1, "official split of HMDB51's folder", choices=(1, 2, 3))
    max_bad: float = arg(0.01, "share of missing videos beyond which not to begin", low=0, high=1)
    workers: int = arg(4, "loader processes of each process", low=0)
    amp: str = arg("none", "mixed precision on CUDA", choices=("none", "bf16", "fp16"))


def listed_once(args):
    """-> VideoList of the videos of the lists args.lists (of HMDB51's folder and of Waterbirds all
    parts), each once."""
    lists = []
    for path in args.lists:
        for part in parts_of(path):
            lists.append(read_list(path, args.root, part, args.split))
    if len({videos.root for videos in lists}) != 1:
        raise UserError("name one list of videos or more, all in the same folder or in --root")
    # A dict keeps the order of the lists.
    label_of = {}
    for videos in lists:
        label_of |= dict(zip(videos.paths, videos.labels, strict=True))
    videos = replace(lists[0], paths=list(label_of), labels=list(label_of.values()))
    existing(videos, args.max_bad)  # is --root right?
    return videos


@dataclass
class LabelsFolder:
    """What label_videos writes: labels.npy (n, M), a row for each line of paths.txt, a column for
    each line of categories.txt; made.json; with features also features.npy (n, D). A row of NaN:
    not done, or unreadable."""

    folder: Path
    paths: list[str]
    categories: list[str]
    labels: np.ndarray  # (n, M) float16, on disk
    features: np.ndarray | None


def open_labels(folder, mode="r"):
    """LabelsFolder of a folder; its arrays stay on disk. UserError where it is none."""
    folder = Path(folder)
    if not (folder / "labels.npy").exists():
        raise UserError(f"{folder}: not a folder of labels: it has no labels.npy")
    paths = [text for _, text in read_lines(folder / "paths.txt")]
    categories = [text for _, text in read_lines(folder / "categories.txt")]
    for names in (paths, categories):
        if not names or len(set(names)) < len(names):
            raise UserError(f"{folder}: its paths.txt or categories.txt is empty, or has doubles")
    labels = open_array(folder / "labels.npy", mode, (len(paths), len(categories)))
    features = None
    if (folder / "features.npy").exists():
        features = open_array(folder / "features.npy", mode, (len(paths), None))
    return LabelsFolder(folder, paths, categories, labels, features)


def open_array(file, mode, shape):
    """An array of floating-point numbers (n, m), which stays on disk; m None: of any width.
    UserError where the file has none of this shape."""
    n, m = shape
    try:
        array = np.lib.format.open_memmap(file, mode)
    except Exception as error:  # numpy raises what broken bytes lead it to
        raise UserError(f"{file}: cannot read it: {error}") from None
    is_fit = array.ndim == 2 and len(array) == n and m in (None, array.shape[1])
    if not is_fit or array.dtype.kind != "f":
        raise UserError(
            f"{file}: is {array.dtype} {array.shape}, not a number for each of the {n} lines of "
            f"paths.txt and of {m or 'some'} columns"
        )
    return array


def make_labels(out, paths, categories, made, width=0):
    """The folder OUT with empty arrays, features too where their `width` is not 0; one that is
    there already goes on. -> LabelsFolder to fill"""
    out = Path(out)
    made = json.dumps(made, indent=1)
    if int(os.environ.get("RANK", 0)) == 0 and not out.exists():
        with whole(out) as part:
            part.mkdir(parents=True)
            (part / "paths.txt").write_text("".join(f"{p}\n" for p in paths), encoding="utf-8")
            (part / "categories.txt").write_text(
                "".join(f"{name}\n" for name in categories), encoding="utf-8"
            )
            (part / "made.json").write_text(made)
            for name, columns in (("labels", len(categories)), ("features", width)):
                if columns:
                    file = part / f"{name}.npy"
                    shape = (len(paths), columns)
                    np.lib.format.open_memmap(file, "w+", np.float16, shape)[:] = np.nan
    total(0)  # the others wait
    done = open_labels(out, "r+")
    begun = ((out / "made.json").read_text(), done.paths, done.categories)
    if begun != (made, list(paths), list(categories)):
        raise UserError(
            f"{out}: begun with other settings or lists, or other categories (made.json, "
            "paths.txt, categories.txt): name another --out"
        )
    return done


def label_videos(args, dataset, look, categories, made, device, width=0):
    """Fill the folder args.out with labels of a dataset's videos; after a kill the same command
    goes on, and torchrun's processes (of one machine) share the work. Unreadable videos keep rows
    of NaN.

    look(clip (N, 3, T, H, W) uint8 on the device) -> labels (N, M), features (N, width) or None
    """
    rank = int(os.environ.get("RANK", 0))
    world = int(os.environ.get("WORLD_SIZE", 1))
    done = make_labels(args.out, dataset.paths, categories, made, width)
    left = np.flatnonzero(np.isnan(done.labels.sum(1, dtype=np.float32)))
    total(0)  # nobody writes before all have looked
    loader = make_loader(
        Subset(dataset, left[rank::world].tolist()), args, device, batch_size=args.batch_size
    )
    bar = tqdm(
        desc=str(args.out), total=len(left), unit="video", disable=None if rank == 0 else True
    )
    for batch in loader:
        labels, features = look(batch["clip"].to(device, non_blocking=True))
        readable = batch["bad"] == 0
        rows = batch["index"][readable].numpy()
        if features is not None:
            done.features[rows] = features.cpu()[readable].numpy()
        # Last, as a row without NaN is done.
        done.labels[rows] = labels.cpu()[readable].numpy()
        bar.update(len(readable) * world)
    bar.close()
    done.labels.flush()
    total(0)
    bad = np.flatnonzero(np.isnan(done.labels.sum(1, dtype=np.float32)))
    if len(bad) == len(dataset):
        raise UserError(
            f"none of {len(bad)} videos can be read, first {dataset.videos.full(0)}: check --root"
        )
    if rank == 0:
        names = ", ".join(dataset.paths[i] for i in bad[:5])
        print(f"{args.out}: {len(dataset) - len(bad)} videos, {len(bad)} unreadable {names}")


def is_distribution(rows):
    """(n, M) -> (n,) bool: the rows that are probabilities, to the precision of float16"""
    return (rows.min(1) >= 0) & (abs(rows.sum(1, dtype=np.float32) - 1) < 0.02)


def read_labels(folders, paths, max_missing=1.0):
    """Soft labels of the videos `paths` -> (n, M) float32 tensor, M category names. A video that no
    folder has gets a row of zeros; UserError where that is more than a share max_missing of them,
    or where folders disagree."""
    labels = None
    known = np.zeros(len(paths), bool)
    for folder in folders:
        part = open_labels(folder)
        if labels is None:
            categories = part.categories
            labels = np.zeros((len(paths), len(categories)), np.float32)
        if part.categories != categories:
            raise UserError(f"{folder}: its categories are not those of {folders[0]}")
        row_of = {path: row for row, path in enumerate(part.paths)}
        here = np.array([i for i, path in enumerate(paths) if path in row_of], int)
        rows = part.labels[np.array([row_of[paths[i]] for i in here], int)].astype(np.float32)
        readable = ~np.isnan(rows).any(1)
        here = here[readable]
        rows = rows[readable]
        wrong = here[~is_distribution(rows)]
        if len(wrong):
            raise UserError(f"{folder}: the labels of {paths[wrong[0]]} do not sum to 1")
        other = here[known[here] & (labels[here] != rows).any(1)]
        if len(other):
            raise UserError(f"{folder}: {paths[other[0]]} has other labels in a folder before it")
        labels[here] = rows
        known[here] = True
    check_missing(f"{', '.join(map(str, folders))}: no labels of", paths, known, max_missing)
    return torch.from_numpy(labels), categories


def read_hard_labels(folders, paths):
    """The greatest of the soft labels of each of the videos `paths`, read where they lie on disk: a
    million of them need little memory. -> (n,) categories, -1: no folder has the video; (n,) their
    probabilities"""
    hard_of = {}
    first = open_labels(folders[0])
    for folder in folders:
        part = open_labels(folder)
        if part.categories != first.categories:
            raise UserError(f"{folder}: its categories are not those of {folders[0]}")
        sums = part.labels.sum(1, dtype=np.float32)
        wrong = np.flatnonzero(~np.isnan(sums) & ~is_distribution(part.labels))
        if len(wrong):
            raise UserError(f"{folder}: the labels of {part.paths[wrong[0]]} do not sum to 1")
        category = part.labels.argmax(1)
        probability = part.labels.max(1)
        for row in np.flatnonzero(~np.isnan(sums)):
            hard_of[part.paths[row]] = (category[row], probability[row])
    found = [hard_of.get(path, (-1, 0.0)) for path in paths]
    categories, probabilities = zip(*found, strict=True)
    return np.array(categories, np.int64), np.array(probabilities, np.float32)


def check_missing(what, paths, known, max_missing):
    """UserError where more than a share max_missing of the videos are not known (n,)."""
    missing = np.flatnonzero(~known)
    if len(missing) > max_missing * len(paths):
        raise UserError(
            f"{what} {len(missing)} of {len(paths)} videos, first {paths[missing[0]]}: label that "
            "list too, or allow more with --max-bad"
        )


class Boxes:
    """Human boxes by video and frame, of files of `sdn.py humans`: a JSON object a line,

        {"path": "a/b.avi", "every": 8, "frames": [0, 0, 8], "boxes": [[x0, y0, x1, y1], ...]}

    frames from 0, boxes in pixels of the decoded frame. Where a detector saw each n-th frame alone
    (`every`), the frames between take the boxes of the one before and the one after.
    """

    def __init__(self, files):
        self.videos = {}
        digest = sha1()
        for file in files:
            for place, text in read_lines(file):
                digest.update(text.encode())
                video = read_boxes_line(place, text)
                if video is not None:
                    self.videos[video.path] = (video.every, video.frames, video.boxes)
        self.sha1 = digest.hexdigest()

    def __contains__(self, path):
        return path in self.videos

    def __call__(self, path, frames):
        """Boxes (B, 4) x0 y0 x1 y1 of each of the frames (n,) of a video, a list of n; B is 0 where
        there are none."""
        if path not in self:
            return [np.zeros((0, 4)) for _ in frames]
        every, seen, boxes = self.videos[path]
        boxes_of_frames = []
        for frame in frames:
            # The two are the same where the detector looked.
            before = frame // every * every
            after = (frame + every - 1) // every * every
            boxes_of_frames.append(boxes[np.isin(seen, (before, after))])
        return boxes_of_frames


@dataclass
class VideoBoxes:
    """A line of a file of boxes."""

    path: str
    every: int
    frames: np.ndarray  # (B,) the frame of each box
    boxes: np.ndarray  # (B, 4)


def read_boxes_line(place, text):
    """VideoBoxes of a line; None of the first, which says how they were made."""
    try:
        line = json.loads(text)
        if isinstance(line, dict) and "made" in line:
            return None
        frames = np.array(line["frames"] or np.zeros(0, int))
        boxes = np.array(line["boxes"] or np.zeros((0, 4)), float)
        video = VideoBoxes(line["path"], line["every"], frames, boxes)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        video = None
    is_fit = (
        video is not None
        and isinstance(video.path, str)
        and type(video.every) is int
        and 0 < video.every < 10**6
        and frames.ndim == 1
        and frames.dtype.kind == "i"
        and (frames >= 0).all()
        and boxes.shape == (len(frames), 4)
        and (abs(boxes) < 1e6).all()  # not of NaN either
    )
    if not is_fit:
        raise UserError(f"{place}: expected a line of `sdn.py humans`: {text[:70]!r}")
    return video


def mask_humans(frames, path, indices, boxes):
    """SDN Sec. 3.3, for Videos(change=partial(mask_humans, boxes=Boxes(...))): the clip, and the
    clip with every human box filled with its frame's mean colour (of the whole frame, rounded).

    frames (n, H, W, 3) uint8 -> (2n, H, W, 3), indices (2, *indices.shape), {"humans": share of
    frames with a box}."""
    masked = frames.clone()
    boxes_of_frames = boxes(path, indices.ravel())
    for image, original, frame_boxes in zip(masked, frames, boxes_of_frames, strict=True):
        if len(frame_boxes):
            colour = original.float().mean((0, 1)).round().to(torch.uint8)
            fill_boxes(image, frame_boxes, colour)
    share = sum(len(frame_boxes) > 0 for frame_boxes in boxes_of_frames) / len(frames)
    return torch.cat([frames, masked]), np.stack([indices, indices]), {"humans": share}


def fill_boxes(image, boxes, colour):
    """Paint boxes x0 y0 x1 y1 over an image (H, W, 3), or a mask (H, W), in place: every pixel that
    one touches."""
    for x0, y0, x1, y1 in boxes:
        rows = slice(max(0, math.floor(y0)), max(0, math.ceil(y1)))
        columns = slice(max(0, math.floor(x0)), max(0, math.ceil(x1)))
        image[rows, columns] = colour


def joint_entropy(*columns):
    """Entropy in nats of what several columns (n,) of whole numbers from 0 say together; of no
    column 0."""
    if not columns:
        return 0.0
    code = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        code = code * (int(np.max(column)) + 1) + np.asarray(column, np.int64)
        # Small numbers again, lest the products overflow.
        code = np.unique(code, return_inverse=True)[1]
    p = np.bincount(code) / len(code)
    return float(-(p * np.log(p)).sum())


def nmi(a, b, given=None):
    """Normalised mutual information I(A;B|C) / mean of H(A|C) and H(B|C), of columns (n,) of whole
    numbers from 0, C none or `given`; 0 where both entropies are. The arithmetic mean is
    scikit-learn's default; SMAD (Sec. 4.1, Table 4) says only `normalized`, and nothing of the
    conditional one. On few videos it is above 0 by chance."""
    condition = () if given is None else (given,)
    h_c = joint_entropy(*condition)
    h_a = joint_entropy(a, *condition) - h_c
    h_b = joint_entropy(b, *condition) - h_c
    h_ab = joint_entropy(a, b, *condition) - h_c
    if h_a + h_b <= 1e-9:
        return 0.0
    return (h_a + h_b - h_ab) / (h_a + h_b) * 2


# ---- Networks ------------------------------------------------------------------------------------
class Tiny(nn.Module):
    """Three strided 3D convolutions with group norm, small enough for a CPU. (N, 3, 8, 32, 32) ->
    (N, K)"""

    def __init__(self, num_classes, width=16):
        super().__init__()
        self.layers = nn.Sequential(
            *self.layer(3, width, kernel=(3, 5, 5), stride=(1, 2, 2)),
            *self.layer(width, 2 * width, kernel=(3, 3, 3), stride=(1, 2, 2)),
            *self.layer(2 * width, 4 * width, kernel=(3, 3, 3), stride=(2, 2, 2)),
        )
        self.head = nn.Linear(4 * width, num_classes)

    def layer(self, channels, width, kernel, stride):
        padding = [k // 2 for k in kernel]
        convolution = nn.Conv3d(channels, width, kernel, stride, padding, bias=False)
        return convolution, nn.GroupNorm(8, width), nn.ReLU()

    def forward(self, clip):
        return self.head(self.layers(clip).mean((2, 3, 4)))


def own_network(name, num_classes):
    """A person's own network: --model PACKAGE.MODULE:FUNCTION, called with the number of classes,
    gives a module, clips (N, 3, T, H, W) -> (N, K) logits. UserError where it does not."""
    module, _, function = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        make = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"--model {name}: {error}; expected PACKAGE.MODULE:FUNCTION") from None
    network = make(num_classes)
    last = None
    if isinstance(network, nn.Module):
        _, last = last_layer(network)
    if not isinstance(last, nn.Linear) or last.out_features != num_classes:
        raise UserError(
            f"--model {name}: expected a module whose last layer, the one defined last, is "
            f"nn.Linear(..., num_classes), here {num_classes}: it becomes the action head"
        )
    return network


def last_layer(network):
    """-> name, module of the linear or 3D convolutional layer that is defined last; None, None"""
    name_and_layer = None, None
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv3d):
            name_and_layer = name, module
    return name_and_layer


class Network(nn.Module):
    """A backbone and a new action head in the place of its last layer, whose name there is
    head_name. All other keys below `backbone.` are the backbone's own, torchvision's."""

    def __init__(self, backbone, num_classes):
        super().__init__()
        self.head_name, old_head = last_layer(backbone)
        # torchvision's s3d ends in a convolution, then a mean: a linear layer of the mean is the
        # same.
        width = old_head.in_channels if isinstance(old_head, nn.Conv3d) else old_head.in_features
        backbone.set_submodule(self.head_name, nn.Identity())
        self.backbone = backbone
        self.head = nn.Linear(width, num_classes)

    def features(self, clip):
        """(N, 3, T, H, W) -> (N, D)"""
        return self.backbone(clip)

    def forward(self, clip):
        """(N, 3, T, H, W) -> (N, K) logits"""
        return self.head(self.features(clip))


@contextmanager
def running_statistics(model, on=True):
    """Batch norm layers of a training model use their running statistics, and leave them alone,
    while this is open."""
    norms = []
    if on:
        norms = [
            m
            for m in model.modules()
            if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training
        ]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()


def try_clip(model, args):
    """UserError where the model takes no clip of this length and size."""
    model.eval()
    try:
        with torch.no_grad():
            logits = model(torch.zeros(1, 3, args.frames, args.size, args.size))
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(
            f"--model {args.model} takes no clip of --frames {args.frames} and --size {args.size}: "
            f"{str(error).splitlines()[0]}"
        ) from None
    if logits.ndim != 2:
        raise UserError(
            f"--model {args.model}: the features before its last layer are not (N, D) but "
            f"{tuple(logits.shape[:-1])} times D"
        )
    model.train()


# ---- Processes and random numbers ----------------------------------------------------------------
def start(seed, patience=timedelta(minutes=30)):
    """Seed everything and join torchrun's processes, where it started this one. -> rank, world
    size, device

    patience: how long one may wait for another before all give up."""
    rank = int(os.environ.get("RANK", 0))
    world = int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=patience)
        atexit.register(leave)
    seed_step(seed, 0, rank)
    return rank, world, device


def leave():
    """End the processes' group and its threads. One that let go of a tensor while Python ends would
    abort the process."""
    dist.destroy_process_group()
    # Cycles through DistributedDataParallel would keep the group.
    gc.collect()


def seed_step(seed, step, rank=0):
    """Random numbers of the model and the augmentations are a function of (seed, step, rank): the
    step number is all the state that a resumed run needs, on any number of processes."""
    number = int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_available():
        torch.cuda.manual_seed(number)


def total(*values):
    """Sum of each number over all processes, as floats."""
    values = [float(value.detach() if torch.is_tensor(value) else value) for value in values]
    if not dist.is_initialized():
        return values
    device = torch.device("cpu")
    if dist.get_backend() == "nccl":
        device = torch.device("cuda", torch.cuda.current_device())
    sums = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    return sums.tolist()


def gather(item):
    """What each process has, in their order, for all of them."""
    if not dist.is_initialized():
        return [item]
    items = [None] * dist.get_world_size()
    dist.all_gather_object(items, item)
    return items


def union(items):
    """The whole numbers that any process has, each once, sorted."""
    return sorted(set().union(*gather(set(items))))


def broadcast(model):
    """Give all processes the first one's buffers (batch norm's running statistics)."""
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def no_sync(model, on=True):
    """DistributedDataParallel's no_sync where the model has it: gradients are summed here, not yet
    exchanged."""
    if on and hasattr(model, "no_sync"):
        return model.no_sync()
    return nullcontext()


def autocast(device, amp):
    """Mixed precision on CUDA: amp "none", "bf16" or "fp16". UserError elsewhere."""
    if amp != "none" and device.type != "cuda":
        raise UserError(
            f"--amp {amp} is for CUDA, and this runs on the {device.type}: leave it out"
        )
    dtype = torch.float16 if amp == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=amp != "none")


# ---- Weights and checkpoints ---------------------------------------------------------------------
# Of a pickle torch.load takes tensors and plain containers, and these: old training scripts saved
# accuracies as numpy's, torchvision's their flags. Files saved by Python 2 (Places365's) hold
# strings of bytes: latin1 reads any.
NUMPY_SCALAR = np.float64(0).__reduce__()[0]
SAFE = [
    argparse.Namespace,
    (NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    (NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
    (np.dtype, "numpy.dtype"),
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64")),
]


def load_file(path):
    """What torch.save wrote, on the CPU; nothing in it is run. UserError where it is no such
    file."""
    try:
        with torch.serialization.safe_globals(SAFE), warnings.catch_warnings():
            # torch warns of `encoding`, and heeds it.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, encoding="latin1")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except Exception as error:
        # torch.load raises what the broken bytes lead it to.
        reason = str(error).strip().split("\n")[0]
        before, found, _ = str(error).partition(" was not an allowed global")
        if found:
            reason = (
                f"it holds {before.split()[-1]}; if you trust it, keep its weights alone: "
                "torch.save(torch.load(OLD, weights_only=False)['state_dict'], NEW)"
            )
        raise UserError(
            f"{path}: not tensors and plain containers saved by torch (nothing in it was run): "
            f"{reason}"
        ) from None


def load_checkpoint(path, method=None):
    """A checkpoint of these scripts, on the CPU; of a run's folder its last.pt. UserError for a
    file that is none, or another method's."""
    path = Path(path)
    if path.is_dir():
        path = path / "last.pt"
    saved = load_file(path)
    parts = {"method", "args", "classes", "heads", "model", "epoch", "step"}
    if not isinstance(saved, dict) or not parts <= saved.keys():
        raise UserError(f"{path}: not a checkpoint of these scripts")
    if method not in (None, saved["method"]):
        raise UserError(f"{path}: made by {saved['method']}.py, not {method}.py")
    return saved


def checkpoint_args(Args, saved, path, model=""):
    """Args of the script that made a checkpoint. UserError for a network of a person's own code,
    unless `model` names it: no file has code run."""
    known = {f.name for f in fields(Args)}
    args = Args(**{name: value for name, value in saved["args"].items() if name in known})
    named = getattr(args, "model", "")
    if ":" in named and named != model:
        raise UserError(f"{path}: its network is code of your own: say so by --model {named}")
    return args


def save_checkpoint(path, **content):
    """torch.save under a temporary name, then rename: a kill at any moment leaves the last good
    file. UserError where it cannot be written."""
    try:
        with whole(path) as part:
            torch.save(content, part)
    except (OSError, RuntimeError) as error:  # torch's own writer raises the latter
        raise UserError(
            f"{path}: cannot be written, is the disk full? What was there is kept: {error}"
        ) from None


def restore(part, state, file):
    """part.load_state_dict(state) of a network, an optimiser, ... UserError, which lists the keys,
    where it does not fit a network."""
    try:
        part.load_state_dict(state)
    except RuntimeError:
        wrong = differing_keys(part.state_dict(), state).values()
        raise UserError(
            f"{file}: {len(wrong)} keys do not fit the model: {shortened(wrong, 3)}"
        ) from None


def hash_paths(paths):
    """(n,) int64, a short hash of each path of a list"""
    hashes = [sha1(path.encode()).digest()[:8] for path in paths]
    return torch.tensor([int.from_bytes(h, "big", signed=True) for h in hashes])


@dataclass
class Weights:
    """What a file of weights holds, or torchvision's of a name."""

    state: dict  # names and tensors
    arch: str  # what the file calls the network, "" for nothing
    normalisation: tuple  # (mean, std) that it expects, () where that is not known
    classes: tuple = ()  # their names, () where they are not known


# Under which of their keys files keep the names and tensors.
CONTAINERS = (
    "state_dict model model_state_dict model_state net module ema state_dict_ema network".split()
)


def read_weights(weights, arch):
    """-> Weights of a file, or of torchvision's weights of that name for its model `arch`.
    UserError for a name that is neither, what cannot be downloaded, NaN."""
    if os.path.exists(weights):
        found = read_weights_file(weights)
    else:
        try:
            entry = torchvision.models.get_model_weights(arch)[weights]
        except (KeyError, ValueError):
            raise UserError(
                f"--weights {weights}: no such file, nor {arch}'s in torchvision; or none"
            ) from None
        try:
            state = entry.get_state_dict(progress=False, check_hash=True)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"--weights {weights}: cannot download {entry.url} ({error}); give a file"
            ) from None
        transforms = entry.transforms()
        normalisation = ()
        if hasattr(transforms, "mean"):
            normalisation = (tuple(transforms.mean), tuple(transforms.std))
        found = Weights(state, arch, normalisation)
    broken = []
    for key, value in found.state.items():
        if not value.isfinite().all():
            broken.append(key)
    if broken:
        raise UserError(f"{weights}: NaN or infinite numbers in {shortened(broken)}")
    return found


def read_weights_file(file):
    """-> Weights of a file: names and tensors alone, or under one of CONTAINERS"""
    if str(file).endswith(".safetensors"):
        raise UserError(
            f"{file}: convert it once: torch.save(safetensors.torch.load_file(OLD), NEW)"
        )
    saved = load_file(file)
    if is_state_dict(saved):
        return Weights(saved, "", ())
    saved = saved if isinstance(saved, dict) else {}
    filled = [key for key in CONTAINERS if is_state_dict(saved.get(key))]
    if len(filled) != 1:
        raise UserError(
            f"{file}: {len(filled)} of its keys hold names and tensors, where one should: "
            f"{shortened(saved, 12) or 'it has no keys'}"
        )
    arch = saved.get("arch")
    normalisation = ()
    classes = ()
    if "list_sha1" in saved:  # one of these scripts' checkpoints
        normalisation = (saved["args"]["mean"], saved["args"]["std"])
        classes = tuple(saved["classes"])
    arch = arch if isinstance(arch, str) else ""
    return Weights(saved[filled[0]], arch, normalisation, classes)


def is_state_dict(value):
    """Whether it is names and tensors, one or more."""
    return (
        isinstance(value, dict)
        and len(value) > 0
        and all(isinstance(k, str) and torch.is_tensor(v) for k, v in value.items())
    )


def load_weights(
    model,
    weights,
    arch,
    rename=None,
    drop=(),
    fit=None,
    normalisation=None,
    classes=(),
    optional=(),
):
    """Load weights (see read_weights; or none) into the backbone and head of a Network. -> what was
    done, in words; also where this run's normalisation, (mean, std), is not the one they expect

    in_our_names says what rename and drop are; fit(tensor, our shape) gives the tensor of that
    shape; a part that is `optional`, such as "saar.", is loaded where both have it. The head stays
    new where its shape or this run's classes differ, or where there is none. Any other missing,
    unexpected or misshapen key is a UserError that lists them."""
    if weights in ("", "none"):
        return "random weights"
    loaded = read_weights(weights, arch)
    kept = ()
    for part in optional:
        if has_part(model.state_dict(), part) and has_part(loaded.state, part):
            kept += (part,)
    ours = {}
    for key, value in model.state_dict().items():
        if key.startswith(OF_NETWORK + kept):
            ours[key] = value
    theirs, notes = in_our_names(loaded.state, model.head_name, weights, rename, drop, kept)
    if fit:
        notes += fit_shapes(theirs, ours, fit)
    expected = loaded.normalisation
    if expected and normalisation and not np.allclose(expected, normalisation, 0.02):
        mean, std = (" ".join(f"{x:g}" for x in values) for values in expected)
        notes.append(f"it expects --mean {mean} --std {std}, and this run has others")

    is_named = len(classes) > 0 and not classes[0].isdigit()
    if is_named and are_others(classes, loaded.classes):
        notes.append(f"new head, for theirs names {shortened(loaded.classes, 3)}")
        for key in ("head.weight", "head.bias"):
            ours.pop(key)
            theirs.pop(key, None)
    wrong = differing_keys(ours, theirs)
    of_head = {"head.weight", "head.bias"}
    if wrong and set(wrong) <= of_head and of_head & theirs.keys() in (set(), of_head):
        old_classes = len(theirs["head.weight"]) if "head.weight" in theirs else "none"
        new_classes = len(ours["head.weight"])
        notes.append(f"new head of {new_classes} classes for one of {old_classes}")
        for key in wrong:
            theirs.pop(key, None)
    elif wrong:
        raise UserError(
            f"{weights}: {len(wrong)} keys do not fit the model: {shortened(wrong.values(), 3)}"
        )
    model.load_state_dict(theirs, strict=False)  # what is missing is checked above
    return ", ".join([f"{len(theirs)} tensors from {weights}", *notes])


def fit_shapes(theirs, ours, fit):
    """fit (see load_weights) the tensors of one state dict to the shapes of another. -> notes"""
    fitted = []
    for key in sorted(theirs.keys() & ours.keys()):
        tensor = fit(theirs[key], ours[key].shape)
        if tensor.shape != theirs[key].shape:
            fitted.append(key)
        theirs[key] = tensor
    if fitted:
        return [f"inflated {len(fitted)} tensors to 3D, first {fitted[0]}"]
    return []


# How the keys of a Network begin that are no adversary's, and what wrappers put before keys.
OF_NETWORK = ("backbone.", "head.")
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")


def has_part(state, part):
    return any(key.startswith(part) for key in state)


def in_our_names(state, head_name, file, rename, drop, kept=()):
    """Names and tensors of a file -> the same in a Network's names, and notes of what was done

    Known prefixes are stripped, then rename(key) gives torchvision's key. Left out are keys that
    begin with one of `drop`, and of these scripts' checkpoints all but backbone, head and
    `kept`."""
    # Other people's files have a backbone too, but then not this head.
    is_checkpoint = "head.weight" in state and any(key.startswith("backbone.") for key in state)
    renamed = {}
    left_out = []
    stripped = set()
    for key, value in state.items():
        if is_checkpoint and key.startswith(kept):
            renamed[key] = value
            continue
        name = key
        if is_checkpoint:
            # A person's own network may have a part of one of these names, too.
            name = key.removeprefix("backbone.")
        else:
            while name.startswith(PREFIXES):
                name = name.split(".", 1)[1]
        if name.startswith(tuple(drop)) or (is_checkpoint and not key.startswith(OF_NETWORK)):
            left_out.append(name)
            continue
        if name != key and not is_checkpoint:
            stripped.add(key.removesuffix(name))
        if rename:
            name = rename(name)
        name = our_key(name, head_name)
        if name in renamed:
            raise UserError(f"{file}: holds {name} twice, under {key} and under another prefix")
        if name == "head.weight" and value.ndim > 2:
            # Of s3d it is a 1 x 1 x 1 convolution.
            value = value.flatten(1)
        renamed[name] = value
    notes = []
    if left_out:
        notes.append(f"left out {len(left_out)} tensors, first {left_out[0]}")
    if stripped:
        notes.append(f"stripped {', '.join(sorted(stripped))}")
    return renamed, notes


def our_key(name, head_name):
    """torchvision's key -> a Network's: its last layer, such as `fc`, is our `head`"""
    if name.startswith(f"{head_name}."):
        return "head." + name.removeprefix(f"{head_name}.")
    if name.startswith("head."):
        return name
    return f"backbone.{name}"


def differing_keys(ours, theirs):
    """{key: what is wrong, in words}, sorted, of the keys that only one of two state dicts has, or
    whose shapes differ."""
    wrong = {}
    for key in sorted(ours.keys() | theirs.keys()):
        if key not in ours:
            wrong[key] = f"{key} (unknown)"
        elif key in theirs and ours[key].shape != theirs[key].shape:
            wrong[key] = f"{key} ({list(theirs[key].shape)}, not {list(ours[key].shape)})"
        # Files of torch before 0.4.1 have no num_batches_tracked.
        elif key not in theirs and not key.endswith("num_batches_tracked"):
            wrong[key] = f"{key} (missing)"
    return wrong


# ---- Runs ----------------------------------------------------------------------------------------
class Log:
    """A file of one JSON object a line, and with a writer of TensorBoard its figures there. A
    resumed run drops the lines after the step that it resumes from."""

    def __init__(self, path, rank, step, writer=None):
        self.path = Path(path) if rank == 0 else None
        if self.path is None:
            return
        self.writer = writer and writer(self.path.parent, purge_step=step + 1)
        lines = []
        if step and self.path.exists():
            for line in self.path.read_bytes().splitlines(True):
                # A kill may have left part of the last one.
                if line.endswith(b"\n") and json.loads(line)["step"] <= step:
                    lines.append(line)
        with whole(self.path) as part:
            part.write_bytes(b"".join(lines))

    def __call__(self, **record):
        if self.path:
            with self.path.open("a") as file:
                file.write(json.dumps(record) + "\n")
        if self.path and self.writer:
            for name, value in record.items():
                if isinstance(value, float):
                    self.writer.add_scalar(name, value, record["step"])
            self.writer.flush()


def summary_writer():
    """TensorBoard's SummaryWriter, whose package is not one of the requirements."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("--tensorboard: pip install tensorboard, or leave the flag out") from None
    return SummaryWriter


# Flags that a resumed run may change: where and how fast it runs, and what it bears.
MAY_CHANGE = (
    "resume overwrite out workers cache log_every tensorboard root web_root max_bad".split()
)

# What a resumed run must have as it was besides its flags: it decides which videos come when.
MUST_AGREE = {
    "list_sha1": "contents of the training list",
    "classes": "class names",
    "train_paths": "training videos (are some missing, or back?)",
    "val_paths": "validation videos (are some missing, or back?)",
    "labels_sha1": "labels of the videos",
}


def equal(a, b):
    """Of tensors, too"""
    if torch.is_tensor(a) and torch.is_tensor(b):
        return torch.equal(a, b)
    return type(a) is type(b) and a == b


def digest(labels):
    """sha1 of tensors and Boxes; None among them is passed over."""
    content = sha1()
    for part in labels:
        if torch.is_tensor(part):
            content.update(part.contiguous().numpy())
        elif part is not None:
            content.update(part.sha1.encode())
    return content.hexdigest()


class Run:
    """The folder of a run, log.jsonl, last.pt and best.pt, and what is logged of its steps. The
    loop stays in the script. heads: the sizes of adversarial heads, which a checkpoint carries.
    labels: the tensors and Boxes that belong to the videos."""

    def __init__(self, method, args, train_set, val_set, heads=None, labels=()):
        self.args = args
        self.out = Path(args.out or f"runs/{method}")
        self.train_set = train_set
        self.val_set = val_set
        self.steps_per_epoch = len(train_set) // args.batch_size
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        self.fixed = dict(
            method=method,
            args=asdict(args),
            classes=train_set.videos.classes,
            list_sha1=train_set.videos.sha1,
            root=str(train_set.videos.root.absolute()),
            train_paths=hash_paths(train_set.paths),
            val_paths=hash_paths(val_set.paths),
            labels_sha1=digest(labels),
            heads=heads or {},
            torch=str(torch.__version__),
        )
        self.writer = summary_writer() if args.tensorboard else None
        self.saved = self.open()  # the checkpoint to go on from, or None
        self.note = f"resumed at step {self.saved['step']}" if self.saved else ""
        self.best = {"val/accuracy": -1.0}
        self.metrics = {}
        self.unreadable = set()

    def open(self):
        """Make the folder. -> the checkpoint to resume, or None. UserError where the folder holds a
        run and neither --resume nor --overwrite is given, or where the flags or the list are not
        that run's."""
        last = self.out / "last.pt"
        if self.args.resume and self.args.overwrite:
            raise UserError("--resume contradicts --overwrite: give one of them")
        if not self.args.resume:
            if last.exists() and not self.args.overwrite:
                raise UserError(
                    f"{self.out} holds a run: --resume it, --overwrite it, or name another folder "
                    "with --out"
                )
            self.out.mkdir(parents=True, exist_ok=True)
            self.lock()
            return None
        if last.exists():
            self.lock()
        saved = load_checkpoint(last, self.fixed["method"])
        changed = []
        for name, value in self.fixed["args"].items():
            if name not in MAY_CHANGE and not equal(saved["args"].get(name), value):
                changed.append(name)
        for name, what in MUST_AGREE.items():
            if not equal(saved.get(name), self.fixed[name]):
                changed.append(what)
        if changed:
            raise UserError(
                f"{last}: made with other {', '.join(changed)}: repeat the flags of the run, or "
                "start another with --out"
            )
        return saved

    def lock(self):
        """Two runs must not write in one folder. The lock lasts as long as this process."""
        if self.rank > 0:
            return
        self.lock_file = (self.out / ".lock").open("w")
        try:
            fcntl.lockf(self.lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # Other errors: a file system without locks.
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise UserError(
                    f"{self.out}: another run is at work there: name another folder with --out"
                ) from None
        # Parts of checkpoints that a kill has left.
        for part in self.out.glob("*.pt.part-*"):
            part.unlink()

    def begin(self, note, device, **state):
        """Restore `state`, {name: what has a state_dict}, where a run goes on, and write the log's
        first line. -> step"""
        self.state = state
        step = 0
        if self.saved:
            step = self.saved["step"]
            self.best = self.saved["best"]
            self.metrics = self.saved["extra"]
            for name, part in state.items():
                restore(part, self.saved[name], f"{self.out / 'last.pt'}, {name}")
            self.saved = None  # its memory
        elif self.rank == 0:
            # What --overwrite replaces, lest --resume finds it.
            for name in ("last.pt", "best.pt", "log.jsonl", "evaluate.json", "evaluate.npz"):
                (self.out / name).unlink(missing_ok=True)
        self.log = Log(self.out / "log.jsonl", self.rank, step, self.writer)
        videos = self.train_set.videos
        self.log(
            step=step,
            args=self.fixed["args"],
            torch=self.fixed["torch"],
            note=note,
            list=videos.kind,
            list_sha1=videos.sha1,
            missing=[*self.train_set.missing, *self.val_set.missing],
            train_videos=len(self.train_set),
            val_videos=len(self.val_set),
            classes=len(videos.classes),
            processes=self.world,
            device=str(device),
        )
        self.print(
            f"{self.out}: {note}; {len(self.train_set)} training and {len(self.val_set)} "
            f"validation videos ({videos.kind} list), {len(videos.classes)} classes, "
            f"{self.world} x {device.type}"
        )
        # --epochs 0 trains nothing: the folder then holds the loaded weights as they are.
        if self.args.epochs == 0:
            self.save("last.pt", step)
        return step

    def print(self, text):
        if self.rank == 0:
            print(text, flush=True)

    def progress(self, epoch, skip):
        """Iterate over the steps of an epoch that are left, with a bar."""
        self.records = []
        self.unreadable = set()
        self.since = time.time()
        self.logged_step = epoch * self.steps_per_epoch + skip
        self.bar = tqdm(
            range(skip, self.steps_per_epoch),
            desc=f"epoch {epoch + 1}/{self.args.epochs}",
            total=self.steps_per_epoch,
            initial=skip,
            unit="step",
            leave=False,
            disable=None if self.rank == 0 else True,
        )
        return self.bar

    def record(self, metrics, batch):
        """Keep what a training step gave for the next line of the log, and which of its videos
        could not be read."""
        self.records.append(
            {name: torch.as_tensor(value).detach() for name, value in metrics.items()}
        )
        self.unreadable |= set(batch["index"][batch["bad"] > 0].tolist())

    def means(self):
        """Mean of each figure over the records that have it, and over all processes."""
        names = sorted({name for record in self.records for name in record})
        means = []
        for name in names:
            values = [record[name] for record in self.records if name in record]
            means.append(sum(values) / len(values))
        return {name: value / self.world for name, value in zip(names, total(*means), strict=True)}

    def log_steps(self, step, lr):
        """Write a line of the log for the steps since the last. UserError, in all processes at
        once, for a loss that is not finite or too many unreadable videos, before anything of them
        is saved."""
        means = self.means()
        self.check(step, means.values())
        clips = (step - self.logged_step) * self.args.batch_size
        rate = clips / (time.time() - self.since)
        self.log(
            step=step, epoch=step / self.steps_per_epoch, lr=lr, clips_per_second=rate, **means
        )
        self.bar.set_postfix(loss=f"{means['loss']:.3f}", accuracy=f"{means['accuracy']:.2f}")
        self.loss = means["loss"]
        self.records = []
        self.logged_step = step
        self.since = time.time()

    def check(self, step, figures):
        if not all(math.isfinite(figure) for figure in figures):
            before = "; last.pt is good" if (self.out / "last.pt").exists() else ""
            raise UserError(
                f"{self.out}: the loss is not finite by step {step}: lower --lr{before}"
            )
        # Items of the web have indices behind the listed videos, and may be as broken as they like.
        videos = self.train_set.videos
        unreadable = sorted(i for i in self.unreadable if i < len(videos))
        count = total(len(unreadable))[0]
        if count > self.args.max_bad * len(videos):
            raise UserError(
                f"{count:.0f} of {len(videos)} videos cannot be read (--max-bad "
                f"{self.args.max_bad}): {shortened(videos.paths[i] for i in unreadable)}"
            )

    def log_epoch(self, step, metrics):
        """Write a line of the log for the validation at the end of an epoch, and best.pt where it
        is the best so far."""
        epoch = step // self.steps_per_epoch
        self.check(step, [metrics["val/loss"]])
        unreadable = [self.train_set.paths[i] for i in union(self.unreadable)]
        self.log(step=step, epoch=epoch, unreadable=unreadable, **metrics)
        self.print(
            f"epoch {epoch}/{self.args.epochs}: loss {self.loss:.3f}, validation accuracy "
            f"{metrics['val/accuracy']:.1%} "
            f"(chance {metrics['val/chance']:.1%})"
        )
        self.metrics = metrics
        # Validation on videos like the training videos selects, and nothing else ever does.
        if metrics["val/accuracy"] > self.best["val/accuracy"]:
            self.best = {"epoch": epoch} | metrics
            self.save("best.pt", step)

    def save(self, name, step):
        """Write a checkpoint, from the first process."""
        if self.rank == 0:
            parts = {key: part.state_dict() for key, part in self.state.items()}
            save_checkpoint(
                self.out / name,
                **self.fixed,
                **parts,
                epoch=step // self.steps_per_epoch,
                step=step,
                extra=self.metrics,
                best=self.best,
                rng={"seed": self.args.seed, "step": step},
            )

    def result(self):
        """The last epoch's figures, with "checkpoint", the file that holds its weights."""
        total(0)  # no process ends before the first has saved
        return self.metrics | {"checkpoint": str(self.out / "last.pt")}


class Interrupt:
    """`with Interrupt() as interrupt`: SIGTERM and Ctrl-C are noted alone. The loop asks when it
    logs a line, and ends when it has saved."""

    def __enter__(self):
        self.signal = 0
        self.stop = False
        self.old = {}
        # Python allows no other thread to.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self.old[number] = signal.signal(number, self.note)
        return self

    def note(self, number, frame):
        self.signal = number

    def asked(self):
        """Whether any process has been asked to stop: all of them learn it here."""
        self.stop = total(self.signal)[0] > 0
        return self.stop

    def leave(self, run, step):
        """Exit as after this signal, with a line that says how to go on."""
        total(0)  # torchrun ends all when one ends: the first must have saved
        run.print(
            f"stopped at step {step}: {run.out / 'last.pt'} is written; --resume goes on from it"
        )
        raise SystemExit(128 + (self.signal or signal.SIGTERM))

    def __exit__(self, *error):
        for number, old in self.old.items():
            signal.signal(number, old)
