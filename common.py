"""What the method scripts share and no paper has an opinion about: flags, reading videos, sampling, lists, transforms,
the embedded benchmark and its network, checkpoints, logs. No method, no loss, no model of a paper. Imports nothing of
ours, but in `trained` the script that a checkpoint names.
"""

import argparse
import atexit
import importlib
import json
import math
import multiprocessing
import os
import re
import shutil
import signal
import sys
import threading
import time
import warnings
import zipfile
import zlib
from collections import Counter
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import timedelta
from functools import lru_cache, partial
from hashlib import sha1
from pathlib import Path

import av
import numpy as np
import torch
import torch.distributed as dist
import torchvision
from av.video.reformatter import VideoReformatter
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision.transforms import v2
from tqdm import tqdm


class UserError(Exception):
    """Bad input. The message is one line: what, where, what to do. The command line prints it and exits with 2."""


# ---- Flags ---------------------------------------------------------------------------------------------------------
def arg(default, help, choices=None, low=None, high=None, positional=False):
    """A field of Args that is a flag: its default, one line of help, the allowed values, the least, the greatest."""
    return field(default=default, metadata=dict(help=help, choices=choices, low=low, high=high, positional=positional))


def cli(Args, main, toy=None, short=None, argv=None, steps=None, recipes=None):
    """Read flags into the dataclass Args and run main(args); a UserError ends with one line and exit code 2.

    toy: values that replace the defaults where no --train list is given, that is on the embedded benchmark.
    short: {flag: {field: value}}, flags that stand for several others, such as --baseline.
    recipes: {flag: {field: value}}, flags that replace defaults, with --train; other flags come before them.
    steps: {word: (Args, main)}, sub-commands: `python sdn.py scenes ...`; no word means main.
    """
    toy, short, argv, doc = toy or {}, short or {}, sys.argv[1:] if argv is None else argv, sys.modules[Args.__module__]
    if word := argv[0] if argv and argv[0] in (steps or {}) else "":
        (Args, main), toy, short, recipes, argv = steps[word], {}, {}, {}, argv[1:]
        doc = main
    parser = argparse.ArgumentParser(prog=f"{os.path.basename(sys.argv[0])} {word}".strip(), description=doc.__doc__,
                                     allow_abbrev=False, argument_default=argparse.SUPPRESS,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    for f in fields(Args):
        name, many = f.name.replace("_", "-"), isinstance(f.default, tuple)
        kind = type(f.default[0]) if many and f.default else str if many else type(f.default)
        note = f" [{f.default}{f'; embedded {toy[f.name]}' if f.name in toy else ''}]".replace("%", "%%")
        how = (dict(action=argparse.BooleanOptionalAction) if kind is bool else
               dict(type=kind, choices=f.metadata["choices"], **(dict(nargs="*") if many else {})))
        how |= dict(action="extend") if many and not f.metadata["positional"] else {}               # may be repeated
        parser.add_argument(name if f.metadata["positional"] else f"--{name}", help=f.metadata["help"] + note, **how)
    for name, values in (short | (recipes or {})).items():
        parser.add_argument(f"--{name}", action="store_true", help=f"short for {values}")
    given = vars(parser.parse_intermixed_args(argv))                                # `scenes a.txt --out x.npz b.txt`
    try:
        values = {} if given.get("train") else dict(toy)
        for name in [name for name in recipes or () if given.pop(name, False)]:
            if not given.get("train"):
                raise UserError(f"--{name} is a recipe for videos of your own: give --train")
            values |= recipes[name]
        for name in [name for name in short if given.pop(name, False)]:
            if clash := set(short[name]) & set(given) - {"out"}:
                raise UserError(f"--{name} contradicts --{clash.pop().replace('_', '-')}: give one of them")
            values |= short[name]
        args = Args(**values | {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})
        for f in fields(Args):
            value, low, high = getattr(args, f.name), f.metadata["low"], f.metadata["high"]
            flag, values = f"--{f.name.replace('_', '-')}", value if isinstance(value, tuple) else (value,)
            if isinstance(f.default, tuple) and f.default and len(values) != len(f.default):
                raise UserError(f"{flag} takes {len(f.default)} numbers, not {len(values)}")
            if low is not None and not all(low <= v <= (v if high is None else high) for v in values):
                raise UserError(f"{flag} {value}: must be at least {low}" + (f" and at most {high}" if high else ""))
        main(args)
    except UserError as error:                        # one from a loader's process comes with that process's traceback
        print("error:", str(error).strip().rsplit("UserError: ", 1)[-1], file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:                          # a folder that cannot be written, a full disk
        print(f"error: {error.filename or 'file system'}: {error.strerror or error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


# ---- Video ---------------------------------------------------------------------------------------------------------
# Frame-exact random access. A frame's number is its place in the order in which the decoder gives it.
IMAGES = (".jpg", ".jpeg", ".png", ".webp")


def num_frames(path) -> int:
    """Frames of a video file, a folder of frame images or one image (1); UserError if there are none. Damage
    inside an MP4 or MKV shows only when it is read: read_clip then loops the frames that come before it."""
    return len(_folder(*_key(path)) or _index(*_key(path), False)[0])


def read_clip(path, indices) -> torch.Tensor:
    """Frames `indices` (any order, repeats allowed) -> uint8 (T, H, W, 3) RGB, turned upright, the very bits
    of a decoding of the whole file. Indices past the end wrap round: short clips loop. UserError if none."""
    if images := _folder(*_key(path)):
        wanted = [int(i) % len(images) for i in indices]
        frames = {i: read_clip(images[i], [0])[0] for i in set(wanted)}
        if len({frame.shape for frame in frames.values()}) > 1:
            raise _unreadable(path, "its images differ in size")
        return torch.stack([frames[i] for i in wanted])
    for damaged in (False, True):
        index = _index(*_key(path), damaged)
        wanted = [int(i) % len(index[0]) for i in indices]
        if frames := _decode(path, *index, set(wanted)):
            return torch.from_numpy(np.stack([frames[i] for i in wanted]))
    raise _unreadable(path, "its frames cannot be decoded")


def _unreadable(path, why):
    return UserError(f"cannot read {path}: {why}; replace it, or leave it out of the list")


def _key(path):
    """What the caches know a file by: written anew, it is read anew."""
    try:
        return str(path), os.stat(path).st_mtime_ns, os.stat(path).st_size
    except OSError as error:
        raise _unreadable(path, error.strerror) from None


@lru_cache(16384)
def _folder(path, mtime, size):
    """The images of a folder of frames in natural order (2.jpg before 10.jpg); None if it is no folder."""
    if not os.path.isdir(path):
        return None
    names = [name for name in os.listdir(path) if name.lower().endswith(IMAGES)]
    names.sort(key=lambda name: [int(s) if s.isdecimal() else s for s in re.split("([0-9]+)", name)])
    if not names:
        raise _unreadable(path, f"the folder holds no image ({', '.join(IMAGES)})")
    return [os.path.join(path, name) for name in names]


def _open(path):
    try:
        container = av.open(f"file:{path}", metadata_errors="replace")  # HMDB51 has titles that are not UTF-8
        codec = container.streams.video[0].codec_context
    except (av.FFmpegError, IndexError) as error:
        raise _unreadable(path, getattr(error, "strerror", "it has no video stream")) from None
    codec.thread_type, codec.thread_count = "NONE", 1  # more costs CPU time, and loaders are parallel already
    return container, container.streams.video[0], codec


def _is_start(packet, codec):
    """Whether a decoder that begins at this packet is exact from its frame on. Of what H.264 files call key
    frames, only IDR pictures (NAL type 5) are such; in MP4 and MKV each NAL unit follows its length."""
    if not packet.is_keyframe or codec.name != "h264":
        return packet.is_keyframe
    data, at, config = bytes(packet), 0, codec.extradata or b"\0"
    size = (config[4] & 3) + 1 if config[0] == 1 else len(data)
    while at + size < len(data) and data[at + size] & 31 != 5:
        at += size + int.from_bytes(data[at : at + size], "big")
    return at + size < len(data)


@lru_cache(16384)
def _index(path, mtime, size, damaged):
    """Index of a video, built once a process; packets are numbered in file order. -> (the packet of each
    frame, the packet where decoding must begin for each frame, {such a packet: (dts, pts)} to seek to).

    Presentation times give the order, without decoding, if the container has true ones and the codec makes a
    frame of each packet. AVI has none (with those that FFmpeg makes up, B-frames of UCF101 and HMDB51 would
    change places): there, and if the file is `damaged`, one full decode gives the order."""
    if path.lower().endswith(IMAGES):
        return np.zeros(1, np.int32), np.zeros(1, np.int32), {}
    container, stream, codec = _open(path)
    timed = container.format.name.startswith(("mov", "matroska"))
    timed = timed and codec.name in ("h264", "hevc", "vp9", "av1", "libdav1d") and not damaged
    shown, keys, sound = [], {}, False  # shown: (time, packet) of each frame
    with container, suppress(av.FFmpegError):  # a file that ends early gives what it has
        for number, packet in enumerate(container.demux(stream)):
            if packet.size and _is_start(packet, codec):
                keys[number] = packet.pts if packet.dts is None else packet.dts, packet.pts
            if not timed:
                packet.pts = number  # a frame carries the time of its packet, so one knows whose it is
                for frame in codec.decode(packet):
                    shown.append((len(shown), frame.pts))
                    if damaged or not frame.key_frame:  # an AVI's list of key frames may be wrong
                        keys.pop(frame.pts, None)
            elif packet.size and not packet.is_discard:  # discarded by an edit list
                shown.append((packet.pts, number))
            damaged |= packet.is_corrupt
        sound = not damaged
    times = [time for time, _ in shown]
    sound = sound and 0 in keys and None not in times and len(set(times)) == len(times)
    if timed and not (sound and codec.has_b_frames == (times != sorted(times))):
        return _index(path, mtime, size, True)
    if not shown:
        raise _unreadable(path, "no frame can be decoded")
    order = np.array([number for _, number in sorted(shown)], np.int32)
    # pictures that follow a key frame in the file but precede it in time need the key frame before it
    start = np.maximum.accumulate(np.where(np.isin(order, list(keys)), order, 0))
    return order, start, keys if timed else {}


def _decode(path, order, start, seek, wanted):
    """{i: RGB image (H, W, 3)} of the frames i in `wanted`; None if what comes is not what the index says."""
    frame_of = dict(zip(order.tolist(), range(len(order)), strict=True))  # packet -> frame
    needed = np.zeros(order.max() + 1, np.int8)  # packets
    for i in wanted:
        needed[start[i] : order[i] + 1] = 1
    spans = np.flatnonzero(np.diff(needed, prepend=0, append=0)).reshape(-1, 2).tolist()
    container, stream, codec = _open(path)
    images, came, number, to_rgb, width, height = {}, [], 0, VideoReformatter(), codec.width, codec.height
    with container, suppress(av.FFmpegError):
        for first, end in spans:
            if target := seek.get(first) if first > number else None:
                container.seek(target[0], stream=stream)  # to this packet, or to a key frame before it
            for packet in container.demux(stream):
                if target and packet.pts != target[1]:
                    continue
                number, target = first if target else number, None
                if number >= first:
                    # H.264 frames that no other refers to may be left out; other codecs promise less
                    leave = seek and codec.name == "h264" and frame_of.get(number) not in wanted
                    codec.skip_frame, packet.pts = "NONREF" if leave else "DEFAULT", number
                    for frame in codec.decode(packet) + (codec.decode(None) if number + 1 == end else []):
                        if seek and frame.is_corrupt:
                            return None  # what hides the damage depends on what was decoded before
                        i = frame_of.get(frame.pts)
                        came += [] if i is None else [i]
                        if i in wanted:
                            plane = to_rgb.reformat(frame, width, height, "rgb24", threads=1).planes[0]
                            rows = np.frombuffer(plane, np.uint8).reshape(height, -1)[:, : 3 * width]
                            images[i] = np.rot90(rows.reshape(height, width, 3), frame.rotation // 90)
                number += 1
                if number == end:
                    break
            codec.flush_buffers()
    return images if len(images) == len(wanted) and came == sorted(came) else None


# ---- Sampling ------------------------------------------------------------------------------------------------------
# int64 indices in [0, n), a function of n >= 1 frames; shorter videos loop (index % n)
def random_clip(n, frames, stride, rng):
    """(frames,) indices of a dense training clip, evenly from all that fit; rng: numpy Generator."""
    return (rng.integers(max(n - (frames - 1) * stride, 1)) + np.arange(frames) * stride) % n


def centre_clip(n, frames, stride, rng=None):
    """(frames,) indices of the clip in the middle of the video (ALBAR App. B: its single clip at test)."""
    return uniform_clips(n, frames, stride, 1)[0]


def uniform_clips(n, frames, stride, clips, rng=None):
    """(clips, frames) indices of clips with evenly spaced starts (SMAD Sec. 6.1: ten for SlowOnly). The
    paper is silent; as in mmaction2 the first begins and the last ends with the video, one is the centre."""
    room = max(n - (frames - 1) * stride - 1, 0)
    starts = np.rint(np.arange(clips) * room / (clips - 1)) if clips > 1 else np.array([room // 2])
    return (starts[:, None].astype(np.int64) + np.arange(frames) * stride) % n


def sliding_windows(n, frames, stride, step, rng=None):
    """(W, frames) indices of the fewest windows at 0, step, 2 step ... that reach the last frame (SDN: 16
    frames, step 16; Hara: 32, 16). The last loops over its own frames as in 3D-ResNets. Keep step <= span."""
    starts = np.arange(0, max(n - (frames - 1) * stride - 1, 0) + step, step)
    starts = starts[starts < n, None]
    return starts + np.arange(frames) % ((n - 1 - starts) // stride + 1) * stride


def tsn_segments(n, segments, rng=None):
    """(segments,) indices, in order, one in each of equal parts of the video: drawn with rng (TSN: 3), else
    the middle (SMAD Sec. 6.1: 25 at test; as mmaction2). A video of fewer frames repeats some, in order."""
    low, middle, high = ((2 * np.arange(segments) + k) * n // (2 * segments) for k in range(3))
    return middle if rng is None else rng.integers(low, np.maximum(high, low + 1))


def samplers(args):
    """What Videos is to sample in training and in validation: clips, or of a TSN segments."""
    if args.model.startswith("tsn"):
        return partial(tsn_segments, segments=args.frames), partial(evenly, frames=args.frames)
    return tuple(partial(sample, frames=args.frames, stride=args.stride) for sample in (random_clip, centre_clip))


# ---- Lists ---------------------------------------------------------------------------------------------------------
@dataclass
class VideoList:
    paths: list[str]  # as in the list; the key of a video everywhere
    labels: list[int]  # from 0, into classes
    classes: list[str]
    root: Path
    kind: str  # the format it was seen as
    sha1: str  # of the list file; for HMDB51 of the chosen lines
    missing: tuple = ()  # paths that `existing` has left out
    named: bool = True  # the classes are a file's or the caller's; else folders' names, or the labels

    def __len__(self):
        return len(self.paths)

    def full(self, i):
        return self.root / self.paths[i]


def _lines(file):
    """[("file:number", text)] of the lines that are not blank; UTF-8 with or without BOM, LF or CRLF."""
    try:
        lines = file.read_bytes().decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot read it: {getattr(error, 'strerror', 'not UTF-8 text')}") from None
    return [(f"{file}:{i}", line.strip()) for i, line in enumerate(lines, 1) if line.strip()]


def _positive_clips(path, lines):
    """OmniSource's lists of raw videos, `video label clips positive positive ...` a line, or JSON: lines of a plain
    list of their positive clips, video/part_N.mp4, N from 0 (OmniSource draws one of a video). None for other lists."""
    try:
        if path.suffix == ".json":
            text = " ".join(line for _, line in lines)
            rows = [(f"{path}, entry {i}", *(row[k] for k in ("video_dir", "label", "num_clips", "positive_clip_inds")))
                    for i, row in enumerate(json.loads(text), 1)]
        else:
            rows = [(at, video, int(y), int(n), [*map(int, some.split())])
                    for at, s in lines for video, y, n, some in [s.split(maxsplit=3)]]
            if not any(len(row[4]) > 1 for row in rows):               # else raw frames, whose folder ends in a number
                return None
        sound = all(len({*some}) == len(some) and 0 <= min(some, default=0) and max(some, default=-1) < n and y >= 0
                    for *_, y, n, some in rows)
    except (ValueError, KeyError, TypeError):
        sound = False
    if not sound and path.suffix == ".json":
        raise UserError(f"{path}: expected OmniSource's [{{video_dir, label, num_clips, positive_clip_inds}}, ...]")
    return [(at, f"{video}/part_{i}.mp4 {y}") for at, video, y, _, some in rows for i in some] if sound else None


def read_list(path, root="", part="train", split=1, classes=None):
    """VideoList of a list file or HMDB51's folder of <class>_test_splitN.txt (`name flag`: 1 train, 2 test).
    A file is of the first kind that ALL its lines agree with: raw frames `folder frames label` (two whole
    numbers at the end, the first > 0, no folder with two different ones: else plain paths end in a number),
    UCF101 `Class/v_X_gNN_cNN.ext id` (from 1, from 0 if one is 0, or no id), ARAS `aras_clips/class/x label`,
    plain `path label` (from 0; spaces allowed); or OmniSource's raw videos (_positive_clips). root: the
    videos' folder, "" for the list's. Class names are beside the list in classInd.txt, k400_actions.txt
    (ARAS) or classes.txt; else HMDB51's sorted, the folders if one to one with labels, or the labels;
    `classes`, the training run's, must agree. UserError if bad."""
    kinds = {  # (path with (class folder)) (frames) (label)
        "raw frames": r"(.*\S)()\s+0*([1-9][0-9]*)\s+([0-9]{1,9})",
        "UCF101": r"(([^/\s]+)/v_[^/\s]+_g\d+_c\d+\.\w+)()(?:\s+([0-9]{1,9}))?",
        "ARAS": r"(aras_clips/.*\S)()()\s+([0-9]{1,9})",
        "plain": r"(.*\S)()()\s+([0-9]{1,9})",
        "HMDB51": r"(([^/]+)/.*\S)()\s+([012])"}  # only of a folder, after `class/` is put in front
    path, rows, seen, tail = Path(path), [], {}, f"_test_split{split}.txt"
    if path.is_dir():
        kind, names = "HMDB51", sorted(file.name.removesuffix(tail) for file in path.glob("[!.]*" + tail))
        lines = [(at, f"{name}/{line}") for name in names for at, line in _lines(path / (name + tail))]
    else:
        lines, ind, txt = _lines(path), path.with_name("classInd.txt"), path.with_name("classes.txt")
        clips = _positive_clips(path, lines)
        lines = lines if clips is None else clips
        fits = [kind for kind, form in kinds.items() if all(re.fullmatch(form, s) for _, s in lines)]
        raw = {re.fullmatch(kinds["raw frames"], s).group(1, 3) for _, s in lines if "raw frames" in fits}
        ids = {m[4] for _, s in lines if (m := re.fullmatch(kinds["UCF101"], s))}
        if len(raw) > len({folder for folder, _ in raw}):
            fits.remove("raw frames")
        if not ind.is_file() and ("0" in ids or txt.is_file()) and "UCF101" in fits:
            fits.remove("UCF101")  # its ids count from 0: labels
        kind = next(iter(fits), "plain") if clips is None else "plain"
        if kind == "UCF101" and not ind.is_file():
            raise UserError(f"{path}: UCF101's ids from 1, or none: put its classInd.txt beside the list")
        file = {"UCF101": ind, "ARAS": path.with_name("k400_actions.txt")}.get(kind, txt)
        names = [s.split()[-1] if file == ind else s for _, s in _lines(file)] if file.is_file() else []
    ours, theirs = ([name.replace("_", " ").lower() for name in some or []] for some in (names, classes))
    if ours and theirs and ours != theirs and not theirs[0].isdigit():
        raise UserError(f"{path}: its classes are not the training run's, or in another order")
    for where, line in lines:
        if not (m := re.fullmatch(kinds[kind], line)):
            raise UserError(f"{where}: expected `path label`, label >= 0 (HMDB51 flag 0-2): {line[:70]!r}")
        if kind == "HMDB51" and m[4] != ("1" if part == "train" else "2"):
            continue
        label = names.index(m[2]) if m[2] in names else int(m[4] or 0)
        if kind == "UCF101" and (m[2] not in names or m[4] not in (None, str(label + ("0" not in ids)))):
            raise UserError(f"{where}: class folder or id does not agree with classInd.txt: {line!r}")
        if label >= (limit := len(classes or names) or 10**6):
            raise UserError(f"{where}: label {label} is outside the {limit} classes, 0 to {limit - 1}")
        if (old := seen.setdefault(m[1], (label, where)))[0] != label:
            raise UserError(f"{where}: {m[1]!r} has label {label} here and {old[0]} at {old[1]}")
        rows.append((m[1], label))
    if not rows:
        raise UserError(f"{path}: no {part} videos in *{tail}" if path.is_dir() else f"{path}: empty list")
    pairs = {(label, os.path.basename(os.path.dirname(video))) for video, label in rows}
    folder = dict(pairs) if len(pairs) == len(dict(pairs)) == len({name for _, name in pairs}) else {}
    named, count = bool(classes or names), max(label for _, label in rows) + 1
    names = classes or names or [folder.get(i) or str(i) for i in range(count)]
    content = path.read_bytes() if path.is_file() else "".join(f"{a} {b}\n" for a, b in rows).encode()
    return VideoList([video for video, _ in rows], [label for _, label in rows], list(names),
                     Path(root or (path.parent if path.is_file() else path)), kind, sha1(content).hexdigest(),
                     named=named)


def merge_lists(files, root, split, classes=None, flag="--root"):
    """Several lists as one VideoList, each video once. UserError, naming the folder's flag, where they are of other
    folders or classes, or where a video has two labels."""
    lists = [read_list(path, root, "train", split, classes) for path in files]
    names = {tuple(one.classes) for one in lists if one.named}
    if len({one.root for one in lists}) != 1 or len(names) > 1:
        raise UserError(f"name one list or more, all in the same folder, or in {flag}, and of the same classes")
    label_of = {}
    for one, file in zip(lists, files, strict=True):
        for path, y in zip(one.paths, one.labels, strict=True):
            if label_of.setdefault(path, y) != y:
                raise UserError(f"{file}: {path!r} has label {y}, and {label_of[path]} in a list before it")
    if len(lists) == 1:
        return replace(lists[0], paths=list(label_of), labels=list(label_of.values()))
    names = list(names.pop()) if names else [str(i) for i in range(max(label_of.values()) + 1)]
    if max(label_of.values()) >= len(names):
        raise UserError(f"{files[0]} and others: label {max(label_of.values())} is outside the {len(names)} classes")
    return replace(lists[0], paths=list(label_of), labels=list(label_of.values()), classes=names, kind="plain",
                   sha1=sha1("".join(one.sha1 for one in lists).encode()).hexdigest(),
                   named=any(one.named for one in lists))


def read_web(files, root, split, train_list, val_list):
    """-> training VideoList, whose sha1 is also the web lists'; VideoList of the web items that exist. UserError where
    one of them is a training or validation video, or none exists."""
    web = merge_lists(files, root, split, train_list.classes, "--web-root")
    known = {str(some.full(i)) for some in (train_list, val_list) for i in range(len(some))}
    if twice := [path for i, path in enumerate(web.paths) if str(web.full(i)) in known]:
        raise UserError(f"--web: {len(twice)} items are training or validation videos, first {twice[0]}: remove them")
    train_list = replace(train_list, sha1=sha1(f"{train_list.sha1} {web.sha1}".encode()).hexdigest())
    return train_list, existing(web, 1.0, "--web-root")                                       # the web is full of holes


def subset(videos, keep):
    """The videos at these places of the list."""
    return replace(videos, paths=[videos.paths[i] for i in keep], labels=[videos.labels[i] for i in keep])


def split_list(videos, share, seed):
    """Hold out a share of the videos at random, seeded. -> VideoList to train on, VideoList held out"""
    order = np.random.default_rng([seed, len(videos)]).permutation(len(videos)).tolist()
    if not 0 < (n := round(share * len(videos))) < len(videos):
        raise UserError(f"a share of {share} of {len(videos)} videos leaves none to train on or to validate with")
    return subset(videos, sorted(order[n:])), subset(videos, sorted(order[:n]))


def existing(videos, max_bad, root="--root"):
    """The videos whose files exist, the others in .missing. UserError, naming the folder's flag, where these are all or
    more than a share max_bad."""
    there = {i for i in range(len(videos)) if os.path.exists(videos.full(i))}
    gone = [i for i in range(len(videos)) if i not in there]
    if not there or len(gone) > max_bad * len(videos):
        raise UserError(f"{len(gone)} of {len(videos)} videos do not exist, first {videos.full(gone[0])}: "
                        f"check {root} (now {videos.root})" + ", or allow more with --max-bad" * (max_bad < 1))
    return replace(subset(videos, sorted(there)), missing=tuple(videos.paths[i] for i in gone))


def read_lists(args):
    """-> training and validation VideoList of a method script's flags, without the videos whose files are missing, and
    the folder of the embedded benchmark, or None with --train"""
    world = None if args.train else toy(args.data_seed, args.data)
    train_list = existing(read_list(args.train or world / "train.txt", args.root, "train", args.split), args.max_bad)
    if args.train and not args.val:
        train_list, val_list = split_list(train_list, args.val_share, args.seed)
    else:
        val_list = read_list(args.val or world / "val.txt", args.root, "test", args.split, train_list.classes)
        val_list = existing(val_list, args.max_bad)
    if args.resize < args.size:
        raise UserError(f"--resize {args.resize} is less than --size {args.size}: test clips would have black borders")
    return train_list, val_list, world


# ---- Transforms and batches ----------------------------------------------------------------------------------------
def train_transform(size, scale=(0.08, 1.0), flip=0.5):
    """(T, 3, H, W) uint8 -> (T, 3, size, size): one random resized crop and one flip for the whole clip."""
    return v2.Compose([v2.RandomResizedCrop(size, tuple(scale), antialias=True), v2.RandomHorizontalFlip(flip)])


def test_transform(size, resize):
    """(T, 3, H, W) uint8 -> (T, 3, size, size): short side to `resize`, centre crop."""
    return v2.Compose([v2.Resize(resize, antialias=True), v2.CenterCrop(size)])


def normalise(clip, mean, std):
    """(..., 3, T, H, W) uint8 -> float32 (x / 255 - mean) / std, on the clip's device."""
    mean, std = (torch.tensor(v, device=clip.device).view(3, 1, 1, 1) * 255 for v in (mean, std))
    return clip.float().sub_(mean).div_(std)


class Videos(torch.utils.data.Dataset):
    """Clips of a VideoList. sample(n, rng) chooses frames, (T,) or (V, T); all that is random follows from
    (seed, epoch, index), seed a number or several, so neither the number of workers nor a resume changes it.

    Item `epoch * len(videos) + index`: clip (3, T, H, W) or (V, 3, T, H, W) uint8, label, index, and bad: 1 where
    the video cannot be read. Its place is then taken by one of the next `replace` that can, or, if that is 0, by black
    frames; `video` is the index of the one that is shown. change(frames (n, H, W, 3), path in the list, indices) ->
    frames, indices, {more items}: what a paper does to decoded frames before the transform; it may give more of them,
    (2, T) for (T,).
    """

    def __init__(self, videos, sample, transform, seed=0, cache=False, replace=0, change=None):
        self.videos, self.sample, self.transform, self.replace = videos, sample, transform, replace
        self.seed = seed if isinstance(seed, tuple) else (seed,)
        self.cache = {} if cache else None            # decoded videos, kept in memory: for small ones alone
        self.change = change

    def __len__(self):
        return len(self.videos)

    def frames(self, path, rng):
        if self.cache is None:
            return read_clip(path, (at := self.sample(num_frames(path), rng=rng)).ravel()), at
        if path not in self.cache:
            self.cache[path] = read_clip(path, np.arange(num_frames(path)))
        return self.cache[path][(at := self.sample(len(self.cache[path]), rng=rng)).ravel()], at

    def __getitem__(self, key):
        epoch, index = divmod(int(key), len(self))
        rng = np.random.default_rng([*self.seed, epoch, index])
        for at in range(index, index + self.replace + 1):
            try:
                frames, shown = self.frames(self.videos.full(at % len(self)), rng)
                break
            except UserError as error:
                reason = error
        else:
            if self.replace:
                raise UserError(f"{self.replace + 1} videos in a row cannot be read; the last: {reason}")
            at, shown = -1, self.sample(1, rng=rng)
            frames = torch.zeros(shown.size, 64, 64, 3, dtype=torch.uint8)
        path, more = self.videos.paths[at % len(self)], {}
        if self.change:
            frames, shown, more = self.change(frames, path, shown)
        with torch.random.fork_rng(devices=[]):       # v2 draws from torch's own generator
            torch.default_generator.manual_seed(int(rng.integers(2 ** 62)))
            clip = self.transform(frames.permute(0, 3, 1, 2))
        return {"clip": clip.unflatten(0, shown.shape).transpose(-4, -3), "label": self.videos.labels[at % len(self)],
                "index": index, "video": at % len(self), "bad": int(at != index)} | more


class Order(torch.utils.data.Sampler):
    """Batches of an epoch: the order follows from (seed, epoch), and each process takes its share of each global
    batch, in `accumulate` parts: more processes train the same thing. A resumed run skips `skip` global batches."""

    def __init__(self, n, batch_size, seed, rank=0, world=1, accumulate=1):
        if batch_size % (world * accumulate):
            raise UserError(f"--batch-size {batch_size} is the global one: it must be a multiple of processes x "
                            f"--accumulate = {world * accumulate}")
        if n < batch_size:
            raise UserError(f"{n} training videos are fewer than --batch-size {batch_size}: lower it")
        self.n, self.batch_size, self.seed, self.rank, self.parts = n, batch_size, seed, rank, world * accumulate
        self.world, self.epoch, self.skip = world, 0, 0

    def __len__(self):
        return (self.n // self.batch_size - self.skip) * (self.parts // self.world)

    def __iter__(self):
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.n) + self.epoch * self.n
        for step in range(self.skip, self.n // self.batch_size):
            batch = order[step * self.batch_size:(step + 1) * self.batch_size].reshape(-1, self.parts)
            for part in range(self.rank, self.parts, self.world):
                yield batch[:, part].tolist()


class Joint(torch.utils.data.Dataset):
    """Labelled videos and web items (Videos, or None) as one data set, for JointOrder's keys: (0, item of videos) or
    (1, item of web). The web items' indices follow those of the videos; `still`: whether it is an image of the web."""

    def __init__(self, videos, web):
        self.sets, self.offsets = (videos, web), (0, len(videos))
        self.web, self.missing = (len(web), web.videos.missing) if web else (0, ())
        self.paths = videos.videos.paths + (web.videos.paths if web else [])

    def __getitem__(self, key):
        item, offset = self.sets[key[0]][key[1]], self.offsets[key[0]]
        item = item | {"index": item["index"] + offset, "video": item["video"] + offset}
        return item | {"still": bool(key[0]) and self.paths[item["video"]].lower().endswith(IMAGES)}


class JointOrder(Order):
    """Order's batches, each followed by web items, `ratio` of `n_web` a video, of which each process and part has its
    equal share. Which they are follows from the step alone: pass after pass of them, each in an order of its own."""

    def __init__(self, n, batch_size, n_web, ratio, *how):
        super().__init__(n, batch_size, *how)
        self.n_web, self.web_batch, self.turns = n_web, round(ratio * batch_size) * bool(n_web), {}
        if n_web and (not 0 < self.web_batch or abs(self.web_batch - ratio * batch_size) > 1e-3 or
                      self.web_batch % self.parts):
            raise UserError(f"--web-ratio {ratio} of --batch-size {batch_size}: {ratio * batch_size:g} web items in a "
                            f"step must be a whole multiple of processes x --accumulate = {self.parts}")

    def __iter__(self):
        step, each = self.epoch * (self.n // self.batch_size) + self.skip, self.parts // self.world
        for number, videos in enumerate(super().__iter__()):
            first, part = (step + number // each) * self.web_batch, self.rank + number % each * self.world
            yield [(0, key) for key in videos] + [
                (1, self.web_item(place)) for place in range(first + part, first + self.web_batch, self.parts)]

    def web_item(self, place):
        turn, i = divmod(place, self.n_web)
        if turn not in self.turns:                                                        # two at most: of a web's size
            self.turns = {k: v for k, v in self.turns.items() if k == turn - 1}
            self.turns[turn] = np.random.default_rng([self.seed, turn, self.n_web, 1]).permutation(self.n_web)
        return turn * self.n_web + int(self.turns[turn][i])


# ---- Labels that an offline step found ------------------------------------------------------------------------------
def save_arrays(path, **arrays):
    """One compressed .npz, written under a temporary name, then renamed."""
    with (part := Path(f"{path}.part{os.getpid()}")).open("wb") as file:
        np.savez_compressed(file, **arrays)
    part.replace(path)


def load_arrays(path, *names):
    """{name: array} of an .npz, nothing pickled. UserError for a file that is none or lacks one of the names."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names}
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or 'not an .npz file'}") from None
    except Exception as error:                        # np.load raises what the broken bytes lead it to
        raise UserError(f"{path}: not a file that an offline step wrote: it lacks {' or '.join(names)}, or "
                        f"is broken ({type(error).__name__})") from None


def read_labels(files, paths, max_missing=1.0):
    """Soft labels of the videos `paths` -> (n, M) float32 tensor, M category names. Files: .npz of `sdn.py scenes`,
    with paths, probabilities (rows sum to 1), categories. A video that no file has gets a row of zeros; UserError where
    that is more than a share max_missing of them, or where files differ in their categories."""
    names, rows = None, {}
    for file in files:
        part = load_arrays(file, "paths", "probabilities", "categories")
        names = part["categories"].tolist() if names is None else names
        p, named = part["probabilities"], part["paths"].tolist()
        if p.shape != (len(named), len(names)) or part["categories"].tolist() != names or p.dtype.kind != "f":
            raise UserError(f"{file}: its categories are not those of {files[0]}, or do not fit its probabilities")
        if not (sound := _sound(p)).all():
            raise UserError(f"{file}: the probabilities of {named[sound.argmin()]} are not such: they must sum to 1")
        if twice := [path for path, row in zip(named, p, strict=True) if not np.array_equal(rows.get(path, row), row)]:
            raise UserError(f"{file}: {twice[0]} has other probabilities in a file before it: is it another video?")
        rows |= dict(zip(named, p, strict=True))
    said = f"{', '.join(map(str, files))}: no labels of", "label that list too, or allow more with --max-bad"
    return _in_order(rows, paths, np.zeros(len(names)), max_missing, *said), names


def read_facet(files, paths):
    """Hard labels of the videos `paths`: the greatest of the soft ones in .npz as read_labels takes them, read in
    pieces: a million of them need little memory. -> (n,) int32, -1 where no file has the video, M category names"""
    names, found = None, {}
    for file in files:
        part, at = load_arrays(file, "paths", "categories"), 0
        names = part["categories"].tolist() if names is None else names
        hard = np.zeros(len(part["paths"]), np.int32)
        for p in _pieces(file, "probabilities"):
            if p.shape[1:] != (len(names),) or part["categories"].tolist() != names or at + len(p) > len(hard):
                raise UserError(f"{file}: its categories are not those of {files[0]}, or do not fit its probabilities")
            if not (sound := _sound(p)).all():
                raise UserError(f"{file}: the probabilities of {part['paths'][at + sound.argmin()]} are not such: they "
                                "must sum to 1")
            hard[at:at + len(p)], at = p.argmax(1), at + len(p)
        if at < len(hard):
            raise UserError(f"{file}: probabilities of {at} videos, but names of {len(hard)}")
        for path, z in zip(part["paths"].tolist(), hard.tolist(), strict=True):
            if found.setdefault(path, z) != z:
                raise UserError(f"{file}: {path} has other probabilities in a file before it: is it another video?")
    return np.fromiter((found.get(path, -1) for path in paths), np.int32, len(paths)), names


def _sound(p):
    """(n, M) -> (n,) bool: the rows that are probabilities"""
    return (p >= 0).all(1) & (abs(p.sum(1, dtype=np.float32) - 1) < 0.02)


def _pieces(file, name):
    """The rows of a float array in an .npz, as float32, some megabytes at a time."""
    try:
        with zipfile.ZipFile(file) as archive, archive.open(f"{name}.npy") as array:
            version = np.lib.format.read_magic(array)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, kind = header(array)
            if len(shape) != 2 or fortran or kind.kind != "f":
                raise ValueError("it holds no rows of floats")
            rows, width = max(1, 2 ** 23 // max(1, shape[1])), shape[1] * kind.itemsize
            for at in range(0, shape[0], rows):
                piece = array.read(min(rows, shape[0] - at) * width)
                yield np.frombuffer(piece, kind).reshape(-1, shape[1]).astype(np.float32)
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{file}: cannot read its {name}: {error}") from None


def _in_order(rows, paths, none, max_missing, said, advice):
    """{path: row} -> (n, M) float32 tensor of the videos `paths`, the row `none` where there is no other"""
    missing = [path for path in paths if path not in rows]
    if len(missing) > max_missing * len(paths):
        raise UserError(f"{said} {len(missing)} of {len(paths)} videos, first {missing[0]}: {advice}")
    return torch.from_numpy(np.stack([rows.get(path, none) for path in paths]).astype(np.float32))


def read_tags(file, category, paths, max_missing=1.0):
    """Tags of one category of the videos `paths` -> (n, M) float32 tensor of 0 and 1, M names in alphabetical order. A
    video that the file has not gets a row of NaN; UserError where that is more than a share max_missing of them.

    file: .npz with paths, tags (n, all) of 0 and 1, categories `category:name`; or HVU's .csv as published, `tag|tag,
    youtube_id,time_start,time_end` a line, with HVU_Tags_Categories_V1.0.csv beside it. HVU's videos are found by the
    name of the file: ID, or ID_start_end with six digits each, in seconds (Kinetics) or in tenths (HVU's crawler)."""
    rows = {}
    if str(file).endswith(".npz"):
        part = load_arrays(file, "paths", "tags", "categories")
        every, tags = part["categories"].tolist(), part["tags"]
        if tags.shape != (len(part["paths"]), len(every)) or not np.isin(tags, (0, 1)).all():
            raise UserError(f"{file}: its tags do not fit its paths and categories, or are not 0 and 1")
        keep = [i for i, name in enumerate(every) if str(name).startswith(f"{category}:")]
        names, kinds = [every[i].split(":", 1)[1] for i in keep], sorted({str(name).split(":")[0] for name in every})
        rows = dict(zip(part["paths"].tolist(), tags[:, keep], strict=True))
    else:
        kind_of, wanted = {}, {Path(path).stem for path in paths}
        lists = _lines(Path(file)), _lines(Path(file).with_name("HVU_Tags_Categories_V1.0.csv"))
        for where, line in lists[1][1:]:
            if line.count(",") != 1:
                raise UserError(f"{where}: expected `Tag,Category`: {line[:70]!r}")
            kind_of.update([line.split(",")])
        category = {"context": "concept"}.get(category, category)                                    # SMAD's name of it
        names, kinds = sorted(tag for tag, kind in kind_of.items() if kind == category), sorted({*kind_of.values()})
        numbers = {tag: i for i, tag in enumerate(names)}
        for where, line in lists[0][lists[0][0][1].startswith("Tags,"):] if lists[0] else ():
            try:
                tags, name, begin, end = line.split(",")
                here = [numbers[tag] for tag in tags.split("|") if kind_of[tag] == category]
                called = {name, *(f"{name}_{int(k * float(begin)):06d}_{int(k * float(end)):06d}" for k in (1, 10))}
            except (ValueError, OverflowError, KeyError) as error:
                why = f"no category of {error}" if isinstance(error, KeyError) else "expected `tag|tag,id,0.0,10.0`"
                raise UserError(f"{where}: {why}: {line[:70]!r}") from None
            if name in rows and name in wanted:
                raise UserError(f"{where}: a second clip of {name}: call its files ID_start_end")
            rows |= dict.fromkeys(called & wanted, np.isin(np.arange(len(names)), here) if called & wanted else None)
        rows = {path: rows[stem] for path in paths if (stem := Path(path).stem) in rows}
    if not names:
        raise UserError(f"{file}: no tags of {category!r}, but of {', '.join(kinds) or 'nothing'}")
    said = f"{file}: no tags of", "allow more with --max-bad"
    return _in_order(rows, paths, np.full(len(names), np.nan), max_missing, *said), names


def read_aspect(spec, paths, max_missing, world=None):
    """--aspect NAME=FILE or NAME=FILE,FILE, soft labels, or NAME=FILE:CATEGORY, tags; a bare NAME is the embedded
    benchmark's. -> NAME, labels (n, D) as read_labels or read_tags gives them, whether they are tags"""
    name, named, file = spec.partition("=")
    if not named and world:
        file = f"{world}/{name}s.npz" if name in ("scene", "object") else f"{world}/tags.npz:{name}"
    file, *category = file.rsplit(":", 1) if file.rpartition(":")[0].endswith((".csv", ".npz")) else (file,)
    if not re.fullmatch(r"[a-z]\w*", name) or not file or (file.endswith(".csv") and not category):
        raise UserError(f"--aspect {spec}: expected NAME=FILE.npz, NAME=FILE.csv:CATEGORY, or none")
    if hasattr(nn.ModuleDict(), name):
        raise UserError(f"--aspect {spec}: a name that cannot be used: rename it")
    if category:
        return name, read_tags(file, category[0], paths, max_missing)[0], True
    return name, read_labels(file.split(","), paths, max_missing)[0], False


class Boxes:
    """Human boxes by video and frame. Files: .npz of `sdn.py humans`, or text of others, `path frame x0 y0 x1 y1` a
    line: frames from 0, pixels of the decoded frame, spaces in the path allowed. A detector that saw each n-th frame
    (`every`) has its boxes carried to the frames between: there those of the frames before and after hold; boxes from
    text hold on their own frames alone."""

    def __init__(self, files):
        self.videos = {}                                                   # path -> every, frames (b,), boxes (b, 4)
        for file in files:
            if str(file).endswith(".npz"):
                part = load_arrays(file, "paths", "counts", "frames", "boxes", "every")
                every, paths, ends = int(part["every"]), part["paths"].tolist(), np.cumsum(part["counts"])[:-1]
                frames, boxes = (np.split(part[name], ends) for name in ("frames", "boxes"))
            else:
                lines, every, found = _lines(Path(file)), 1, {}
                for where, line in lines:
                    *path, frame, x0, y0, x1, y1 = line.rsplit(maxsplit=5)
                    try:
                        box = [int(frame), *map(float, (x0, y0, x1, y1))]
                    except ValueError:
                        box = [-1]
                    sound = all(map(math.isfinite, box)) and box[0] >= 0 and box[1] <= box[3] and box[2] <= box[4]
                    if not path or not sound:
                        raise UserError(f"{where}: expected `path frame x0 y0 x1 y1`: {line[:70]!r}")
                    found.setdefault(path[0], []).append(box)
                paths, tables = list(found), [np.array(sorted(rows)) for rows in found.values()]
                frames, boxes = [t[:, 0].astype(int) for t in tables], [t[:, 1:] for t in tables]
            self.videos |= {p: (every, f, b) for p, f, b in zip(paths, frames, boxes, strict=True)}

    def __call__(self, path, frames):
        """Boxes (B, 4) x0 y0 x1 y1 of each of the frames (n,) of a video, a list of n; B is 0 where there are none."""
        every, at, boxes = self.videos.get(path, (1, np.zeros(0, int), np.zeros((0, 4))))
        before, after = ((np.asarray(frames) + k) // every * every for k in (0, every - 1))   # the same where it looked
        return [boxes[np.isin(at, seen)] for seen in zip(before, after, strict=True)]


def mask_humans(frames, path, at, boxes):
    """SDN Sec. 3.3, for Videos(change=partial(mask_humans, boxes=Boxes(...))): the clip, and the clip with every human
    box filled with its frame's mean colour (of the whole frame, rounded).

    frames (n, H, W, 3) uint8 -> (2n, H, W, 3), indices (2, *at.shape), {"humans": share of frames that have a box}."""
    masked, found = frames.clone(), boxes(path, at.ravel())
    share = sum(len(some) > 0 for some in found) / len(found)
    for image, original, some in zip(masked, frames, found, strict=True):
        colour = original.float().mean((0, 1)).round().to(torch.uint8) if len(some) else None
        for x0, y0, x1, y1 in some:
            y, x = (slice(max(0, math.floor(a)), max(0, math.ceil(b))) for a, b in ((y0, y1), (x0, x1)))
            image[y, x] = colour
    return torch.cat([frames, masked]), np.stack([at, at]), {"humans": share}


PART_SECONDS = 30                                 # of work that a kill may lose, besides the videos that are begun


def sweep(out, videos, made, rows, finish):
    """Label many videos offline, resumable: what is done lies in OUT.parts/ until all is, then in OUT, an .npz.

    rows(list of indices into videos) yields (index, (r, c) array, or None where the video cannot be read), in any
    order, and (None, None) where it may be stopped; each of torchrun's processes does its share. finish(paths, [array])
    -> the arrays of OUT, beside `unreadable` (paths) and `made` (how, as JSON). UserError where OUT exists, or where
    OUT.parts/ was begun with another `made`."""
    rank, world = (int(os.environ.get(k, d)) for k, d in (("RANK", 0), ("WORLD_SIZE", 1)))
    made, folder, paths = json.dumps(made), Path(f"{out}.parts"), list(dict.fromkeys(videos.paths))
    if not out.endswith(".npz"):
        raise UserError(f"--out {out}: must end in .npz")
    if Path(out).exists():
        raise UserError(f"{out} exists: remove it, or name another file with --out")
    folder.mkdir(parents=True, exist_ok=True)
    total(0)                                                                     # nobody writes before all have looked

    def done():
        found = {}
        for file in sorted(folder.glob("*.npz")):
            part = load_arrays(file, "paths", "counts", "rows", "made")
            if str(part["made"]) != made:
                raise UserError(f"{folder}: begun with other settings, {part['made']}: repeat them, or remove it")
            pieces = np.split(part["rows"], np.cumsum(part["counts"].clip(0))[:-1])
            found |= {p: piece if n >= 0 else found.get(p)                                 # None: could not be read
                      for p, n, piece in zip(part["paths"].tolist(), part["counts"], pieces, strict=True)}
        return found

    before, place = done(), {path: i for i, path in enumerate(videos.paths)}
    left = [place[path] for path in paths if before.get(path) is None][rank::world]      # unreadable ones once more
    total(0)
    some, since = {}, time.time()

    def save():
        if some:
            counts = [-1 if piece is None else len(piece) for piece in some.values()]
            pieces = [piece for piece in some.values() if piece is not None] or [np.zeros((0, 1))]
            save_arrays(folder / f"{rank}-{time.time_ns()}.npz", paths=np.array(list(some)), counts=np.array(counts),
                        rows=np.concatenate(pieces), made=np.array(made))
            some.clear()

    bar = tqdm(desc=str(out), total=len(paths), initial=sum(piece is not None for piece in before.values()),
               unit="video", disable=None if rank == 0 else True)
    with Interrupt() as stop:
        for index, piece in rows(left):
            if index is not None:
                some[videos.paths[index]] = piece
                bar.update(world)
            if time.time() - since > PART_SECONDS or stop.signal:
                save()
                since = time.time()
            if stop.signal:
                raise SystemExit(128 + stop.signal)                                       # the same command goes on
    save()
    bar.close()
    total(0)
    if rank == 0:
        found = done()
        good = [path for path in paths if found[path] is not None]
        bad = [path for path in paths if found[path] is None]
        if not good:
            raise UserError(f"none of {len(paths)} videos can be read, first {videos.full(0)}: check --root")
        save_arrays(out, unreadable=np.array(bad, str), made=np.array(made),
                    **finish(good, [found[path] for path in good]))
        shutil.rmtree(folder)
        print(f"{out}: {len(good)} videos" + (f", {len(bad)} unreadable: {', '.join(bad[:5])}" if bad else ""))
    total(0)


def save_lists(out, lists, classes=()):
    """Lists {NAME: [(path, label)]} and their classes in a new folder, which appears only when all are written."""
    part = out.with_name(f"{out.name}.part{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)                                         # of a killed run with this number
    part.mkdir(parents=True)
    texts = {name: [f"{path} {y}\n" for path, y in rows] for name, rows in lists.items()}
    for name, lines in (texts | ({"classes": [f"{name}\n" for name in classes]} if classes else {})).items():
        (part / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
    part.rename(out)


# What `python sdn.py scenes` and `humans` do; what the paper says of them is in their flags, in sdn.py.
@dataclass
class OfflineArgs:
    lists: tuple = arg((), "lists of videos, as --train takes them; of HMDB51's folder both parts", positional=True)
    root: str = arg("", "folder of the videos; none: the lists' own")
    split: int = arg(1, "official split of HMDB51's folder", choices=(1, 2, 3))
    max_bad: float = arg(0.01, "share of missing videos beyond which not to begin", low=0, high=1)
    workers: int = arg(4, "loader processes of each process", low=0)
    amp: str = arg("none", "mixed precision on CUDA", choices=("none", "bf16", "fp16"))


@dataclass
class LabelArgs(OfflineArgs):
    out: str = arg("scenes.npz", "what to write; OUT.parts/ holds what is done until all is")
    model: str = arg("resnet50", "a classifier in torchvision.models; SDN Sec. 3.2, SMAD Sec. 6.1: ResNet-50")
    frames: int = arg(10, "frames of a video, evenly spread; the papers are silent", low=1)
    weights: str = arg("", "a file, or torchvision's name (for objects: IMAGENET1K_V2), or none: random")
    categories: str = arg("", "file, a name a line, or categories_places365.txt; torchvision's weights have their own")
    size: int = arg(224, "pixels of a frame's side", low=8)
    resize: int = arg(256, "short side before the centre crop; Places365's own validation", low=8)
    mean: tuple = arg((0.485, 0.456, 0.406), "of the channels; Places365's too; inception_v3's, googlenet's: all 0.5")
    std: tuple = arg((0.229, 0.224, 0.225), "of the channels; inception_v3's, googlenet's: all 0.5", low=1e-3)
    features: bool = arg(False, "keep the penultimate features too, mean over the frames: for SDN's Eq. (1)")
    batch_size: int = arg(16, "videos in a forward pass", low=1)


def listed_once(args):
    """-> VideoList of the videos of the lists args.lists (of HMDB51's folder both parts), each once."""
    lists = [read_list(path, args.root, part, args.split) for path in args.lists
             for part in (("train", "test") if Path(path).is_dir() else ("train",))]
    if len({one.root for one in lists}) != 1:
        raise UserError("name one list of videos or more, all in the same folder or in --root")
    paths = list(dict.fromkeys(path for one in lists for path in one.paths))
    existing(videos := replace(lists[0], paths=paths, labels=[0] * len(paths)), args.max_bad)       # is --root right?
    return videos


def labeller(args, module, **how):
    """torchvision's args.model of `module` with args.weights, the same in all processes. -> model, device, autocast,
    {how it was made}"""
    known = torchvision.models.list_models(module, exclude="mnasnet*")                        # which load no plain dict
    if args.model not in known:
        raise UserError(f"--model {args.model}: not one of {', '.join(known)}")
    device, file = start(0, timedelta(days=7))[2], Path(args.weights)          # some processes have the longer videos
    amp = autocast(device, args.amp)
    seed_step(0, 0)                                                                # random weights: the same everywhere
    model = torchvision.models.get_model(args.model, weights=None, **how)
    if args.weights != "none":
        # DataParallel's `module.`, of AlexNet and VGG inside the name; `norm.1` of DenseNet's files is norm1 today
        state = {re.sub(r"(denselayer\d+\.\w+)\.(?=\d\.)", r"\1", k.replace("module.", "")): v
                 for k, v in read_weights(args.weights, args.model).items()}
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise UserError(f"--weights {args.weights}: does not fit --model {args.model}"
                            f"{' and its --categories' if 'num_classes' in how else ''}: "
                            f"{' '.join(str(error).split())[:300]}") from None
    if re.fullmatch(r".*(rcnn|retinanet)_resnet50_fpn", args.model) and (
            args.weights in ("COCO_V1", "DEFAULT") or "_coco-" in file.name):
        for layer in [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]:
            layer.eps = 0.0                                                    # as torchvision has it for these weights
    free = {"lists", "root", "split", "max_bad", "out", "batch_size", "workers"}
    made = {k: v for k, v in asdict(args).items() if k not in free} | dict(weights=file.name)
    made["sha1"] = sha1(file.read_bytes()).hexdigest() if file.is_file() else ""
    return model.to(device).eval(), device, amp, made


def category_names(args):
    """-> names of the classes of --weights: torchvision's own, or of the file --categories."""
    own = torchvision.models.list_models(torchvision.models)
    own = torchvision.models.get_model_weights(args.model).__members__.get(args.weights) if args.model in own else None
    if not args.weights or not (args.categories or own):
        raise UserError("give --weights and --categories: for scenes the files resnet50_places365.pth.tar and "
                        "categories_places365.txt; torchvision's weights have names of their own")
    lines = [text for _, text in _lines(Path(args.categories))] if args.categories else own.meta["categories"]
    names = [re.sub(r"^/[a-z]/(\S+) \d+$", r"\1", line) for line in lines]                                # Places365's
    if len(set(names)) < max(1, len(names)):
        raise UserError(f"{args.categories}: {len(names)} names, {len(set(names))} of them different")
    return names


def evenly(n, frames, rng=None):
    """(frames,) indices, the middles of equal parts of the video."""
    return tsn_segments(n, frames)


def label_scenes(args):
    """Pseudo scene labels of videos (SDN Sec. 3.2), once, before training.

    python sdn.py scenes train.txt val.txt --root videos --weights resnet50_places365.pth.tar \\
        --categories categories_places365.txt

    A video's soft label is the mean over its frames of their softmax vectors, as in SDN's official code; the paper is
    silent. OUT: paths, probabilities (n, M) float16, categories; with --features also features (n, D) float16, the last
    layer's input; unreadable (paths); made (JSON). After a kill the same command goes on.
    """
    videos, names = listed_once(args), category_names(args)
    if args.resize < args.size:
        raise UserError(f"--resize {args.resize} is less than --size {args.size}: frames would have black borders")
    model, device, amp, made = labeller(args, torchvision.models, num_classes=len(names))
    made["average"] = "mean over the frames of their softmax vectors"
    dataset, kept = Videos(videos, partial(evenly, frames=args.frames), test_transform(args.size, args.resize)), {}
    last = [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)][-1]
    last.register_forward_pre_hook(lambda layer, inputs: kept.update(x=inputs[0].float()))

    def look(clip):
        """(N, 3, T, S, S) -> (N, M) soft labels, with --features (N, M + D)"""
        with torch.inference_mode(), amp:
            p = model(clip.transpose(1, 2).flatten(0, 1)).float().softmax(1)                                # (N T, M)
        p = torch.cat([p, kept["x"].reshape(*kept["x"].shape[:2], -1).mean(2)], 1) if args.features else p
        return p.unflatten(0, (-1, clip.shape[2])).mean(1).half().cpu().numpy()

    def rows(left):
        for batch in DataLoader(Subset(dataset, left), args.batch_size, num_workers=args.workers,
                                pin_memory=device.type == "cuda", worker_init_fn=deaf):
            found = look(normalise(batch["clip"].to(device, non_blocking=True), args.mean, args.std))
            for index, bad, row in zip(batch["index"].tolist(), batch["bad"], found, strict=True):
                yield index, None if bad else row[None]

    def finish(paths, found):
        p, features = np.split(np.concatenate(found), [len(names)], 1)
        more = dict(features=features) if args.features else {}
        return dict(paths=np.array(paths), probabilities=p, categories=np.array(names)) | more

    try:
        look(torch.zeros(1, 3, 1, args.size, args.size, device=device))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UserError(f"--model {args.model} takes no --size {args.size}: {str(error).splitlines()[0]}") from None
    sweep(args.out, videos, made, rows, finish)


class Chunks(torch.utils.data.IterableDataset):
    """Every n-th frame of the videos `left`, `size` at a time; loader processes share the videos.
    -> index, the frames' numbers (none: cannot be read), frames (b, H, W, 3) uint8, whether the video ends with them"""

    def __init__(self, videos, left, every, size):
        self.videos, self.left, self.every, self.size = videos, left, every, size

    def __iter__(self):
        me = torch.utils.data.get_worker_info()
        for index in self.left[me.id::me.num_workers] if me else self.left:
            try:
                numbers = list(range(0, num_frames(path := self.videos.full(index)), self.every))
                for at in range(0, len(numbers), self.size):
                    if at % (8 * self.size) == 0:                # AVI are decoded from their beginning: not for each
                        frames = read_clip(path, numbers[at:at + 8 * self.size]).split(self.size)
                    some = numbers[at:at + self.size]
                    yield index, some, frames[at // self.size % 8], some[-1] == numbers[-1]
            except UserError:
                yield index, [], torch.zeros(0), True


def find_humans(args):
    """Boxes of the persons in videos (SDN Sec. 3.3), once, before training.

    python sdn.py humans train.txt val.txt --root videos

    OUT: paths, counts (boxes of each video), every; of each box its frame, box (x0 y0 x1 y1, pixels of the decoded
    frame) and score; unreadable (paths); made (JSON). After a kill the same command goes on.
    """
    videos = listed_once(args)
    model, device, amp, made = labeller(args, torchvision.models.detection, weights_backbone=None)
    heads, torch.backends.cudnn.benchmark = getattr(model, "roi_heads", model), False           # frames differ in size
    heads.mask_roi_pool = heads.keypoint_roi_pool = None                          # boxes alone: they stay the same
    heads.score_thresh = min(heads.score_thresh, args.score)

    def rows(left):
        found, chunks = {}, Chunks(videos, left, args.every, args.batch_size)
        for index, numbers, frames, last in DataLoader(chunks, None, num_workers=args.workers, worker_init_fn=deaf,
                                                       pin_memory=device.type == "cuda"):
            table, results = found.setdefault(index, []), []
            if numbers:
                with torch.inference_mode(), amp:
                    results = model(list(frames.to(device, non_blocking=True).permute(0, 3, 1, 2) / 255))
            for number, one in zip(numbers, results, strict=True):
                boxes, scores, labels = (one[name].float().cpu() for name in ("boxes", "scores", "labels"))
                row = torch.cat([torch.full((len(boxes), 1), float(number)), boxes, scores[:, None]], 1)
                table.append(row[(labels == 1) & (scores >= args.score)].numpy())                   # 1 is COCO's person
            if last:
                yield index, np.concatenate(found.pop(index)) if numbers else None
            yield None, None

    def finish(paths, found):
        table = np.concatenate(found)
        return dict(paths=np.array(paths), counts=np.array([len(one) for one in found]), every=np.array(args.every),
                    frames=table[:, 0].astype(int), boxes=table[:, 1:5], scores=table[:, 5].astype(np.float16))

    sweep(args.out, videos, made, rows, finish)


# ---- Statistics of labels -------------------------------------------------------------------------------------------
def joint_entropy(*columns):
    """Entropy in nats of what several columns (n,) of whole numbers from 0 say together; of no column 0."""
    code = 0
    for column in columns:
        code = np.unique(code * (int(np.max(column)) + 1) + np.asarray(column, np.int64), return_inverse=True)[1]
    p = np.bincount(code) / len(code) if columns else np.ones(1)
    return float(-(p * np.log(p)).sum())


def mean_entropy(label, facet):
    """Mean over the actions of the entropy, in nats, of their facets (SMAD Sec. 5.2: 3.02 of Kinetics' scenes, 2.79 of
    GoogleImg's; it does not say which logarithm).     label, facet: (n,) whole numbers from 0"""
    order = np.argsort(label, kind="stable")
    groups = np.split(facet[order], np.flatnonzero(np.diff(label[order])) + 1)
    return float(np.mean([joint_entropy(group) for group in groups])) if len(label) else 0.0


def nmi(a, b, given=None):
    """Normalised mutual information I(A;B|C) / mean of H(A|C) and H(B|C), of columns (n,) of whole numbers from 0, C
    none or `given`; 0 where both entropies are. The arithmetic mean is scikit-learn's default; SMAD (Sec. 4.1, Table 4)
    says only `normalized`, and nothing of the conditional one. On few videos it is above 0 by chance: see nmi_floor."""
    c = () if given is None else (given,)
    h_a, h_b, h_ab = (joint_entropy(*some, *c) - joint_entropy(*c) for some in ((a,), (b,), (a, b)))
    return (h_a + h_b - h_ab) / (h_a + h_b) * 2 if h_a + h_b > 1e-9 else 0.0


def nmi_floor(a, b, given=None, seed=0, draws=200):
    """What nmi gives, in the mean, where B is dealt out at random (within each value of `given`)."""
    rng, group = np.random.default_rng([seed, len(a)]), np.zeros(len(a), int) if given is None else np.asarray(given)
    place, b, found = np.argsort(group, kind="stable"), np.asarray(b), []
    for _ in range(draws):
        dealt = np.empty_like(b)
        dealt[place] = b[np.lexsort((rng.random(len(b)), group))]
        found.append(nmi(a, dealt, given))
    return float(np.mean(found))


def redistribute(videos, facets, n_train, n_val, reserve, rng):
    """One action of a re-distributed split (SMAD Sec. 4.1): of `videos`, n places, those for training, for validation
    from the tail, and held out of the head, in a random order each; None where the action has too few.

    facets: list of (n,) arrays, the scene (object ...) of each. The rarest scenes, whole, go to the tail until it has
    n_val videos (ties: the lower number). Of the head n_train + reserve videos are taken, those of the most frequent
    scenes, at random where a scene is cut; `reserve` of them, whose scenes stay in training, are held out. Of several
    facets (Sec. 6.3) validation is sampled from the union of n_val of each tail, training from what is in no tail."""
    n, tail, drawn = len(videos), np.zeros(len(videos), bool), []
    for facet in facets:
        values, place, counts = np.unique(facet, return_inverse=True, return_counts=True)
        rarest = np.argsort(counts, kind="stable")
        moved = np.isin(place, rarest[:1 + int(np.searchsorted(np.cumsum(counts[rarest]), n_val))])
        tail, drawn = tail | moved, [*drawn, rng.permutation(np.flatnonzero(moved))[:n_val]]
    often = counts[place] * len(values) - place if len(facets) == 1 else np.zeros(n)      # a scene's videos are equal
    head = np.lexsort((rng.random(n), -often))
    head, seen = head[~tail[head]][:n_train + reserve], rng.permutation(np.unique(np.concatenate(drawn)))[:n_val]
    left, held = [np.bincount(facet[head], minlength=facet.max() + 1) for facet in facets], []
    for i in rng.permutation(head):
        if len(held) < reserve and all(count[facet[i]] > 1 for count, facet in zip(left, facets, strict=True)):
            held.append(i)
            for count, facet in zip(left, facets, strict=True):
                count[facet[i]] -= 1
    if len(head) < n_train + reserve or len(seen) < n_val or len(held) < reserve:
        return None
    return [[videos[i] for i in some] for some in (rng.permutation(np.setdiff1d(head, held)), seen, held)]


@dataclass
class SplitArgs:
    lists: tuple = arg((), "lists of videos to split, as --train takes them; Sec. 4.1: Kinetics-400's training list",
                       positional=True)
    labels: tuple = arg((), "NAME=FILE.npz of `smad.py labels`, one facet, or more: K200-both-split, Sec. 6.3")
    out: str = arg("k200db", "folder of the new lists")
    classes: int = arg(200, "actions, those with the most videos; Sec. 4.1", low=1)
    train_size: int = arg(400, "training videos of an action; Sec. 4.1: 80k in 200", low=1)
    val_size: int = arg(50, "validation videos of an action; Sec. 4.1: 10k in 200", low=1)
    overlap: tuple = arg((), "shares of the validation videos that come from the training scenes, a list each; Fig. 3")
    restrict: tuple = arg((), "other lists to cut to these actions: the ordinary validation list (K200-val), ARAS")
    root: str = arg("", "folder of the videos; none: the lists' own")
    split: int = arg(1, "official split of UCF101 and HMDB51 lists", choices=(1, 2, 3))
    seed: int = arg(0, "seed of what is sampled", low=0)


def split_by_facet(args):
    """Re-distribute lists by scene, or another facet, as K200db (SMAD Sec. 4.1): training videos of each action from
    its frequent scenes, validation videos from its rare ones, so that no scene of an action is in both.

    python smad.py split train.txt --labels scene=scenes.npz --out k200db
    python smad.py split train.txt --labels scene=scenes.npz object=objects.npz --out k200-both

    Writes OUT/train.txt, OUT/val.txt (with --overlap val-Q.txt for each Q), the lists of --restrict, classes.txt. Where
    the paper is silent: the scene is the greatest of the label; scenes are disjoint within each action; the tail is
    filled by whole scenes from the rarest; the training set takes the most frequent ones. Of two facets (Sec. 6.3) a
    validation video is rare in one at least, and no training video has a tail scene or a tail object. Videos without
    labels are left out, and actions that have too few videos passed over.
    """
    names = [spec.partition("=")[::2] for spec in args.labels]
    if not args.lists or not names or not all(file for _, file in names):
        raise UserError("name a list of videos, then --labels NAME=FILE.npz, one or more"
                        + "".join(f"; {name} is none" for name, file in names if not file))
    videos = merge_lists(args.lists, args.root, args.split)
    if (out := Path(args.out)).exists():
        raise UserError(f"{out} exists: remove it, or name another folder with --out")
    try:
        overlaps = {q: float(q) for q in args.overlap} or {"": 0.0}
    except ValueError:
        overlaps = {"": math.nan}                                                                       # no share
    if not all(0 <= q <= 1 for q in overlaps.values()):
        raise UserError(f"--overlap {' '.join(args.overlap)}: shares from 0 to 1")
    paths, facets = np.array(videos.paths), []
    for _, file in names:
        facets.append(read_facet([file], paths.tolist())[0])
    keep = np.all([facet >= 0 for facet in facets], 0)
    if not keep.any():
        raise UserError(f"--labels: none has labels of the lists' videos, such as {paths[0]}")
    paths, facets = paths[keep], [facet[keep] for facet in facets]
    label, rng = np.array(videos.labels)[keep], np.random.default_rng([args.seed, keep.sum()])
    found, passed, reserve = {}, [], round(max(overlaps.values()) * args.val_size)
    for action in np.argsort(-np.bincount(label, minlength=len(videos.classes)), kind="stable").tolist():
        if len(found) < args.classes:
            some = np.flatnonzero(label == action)
            got = len(some) and redistribute(some.tolist(), [facet[some] for facet in facets], args.train_size,
                                               args.val_size, reserve, rng)
            found |= {action: got} if got else {}
            passed += [] if got else [videos.classes[action]]
    if len(found) < args.classes:
        raise UserError(f"only {len(found)} of {len(videos.classes)} actions have --train-size {args.train_size} and "
                        f"--val-size {args.val_size} videos in disjoint scenes: give fewer --classes or videos (too "
                        f"few: {', '.join(passed[:3])}; {(~keep).sum()} videos have no labels)")
    new = {action: i for i, action in enumerate(sorted(found))}
    splits = {"train": sum((found[action][0] for action in new), [])}
    for q, share in overlaps.items():
        n = round(share * args.val_size)
        splits[f"val-{q}" if q else "val"] = sum((found[a][2][:n] + found[a][1][:args.val_size - n] for a in new), [])
    rows, said = {name: [(paths[i], new[label[i]]) for i in sorted(split)] for name, split in splits.items()}, []
    for path in args.restrict:
        other, name = read_list(path, args.root, "test", args.split, videos.classes), Path(path).stem
        some = [(p, new[y]) for p, y in zip(other.paths, other.labels, strict=True) if y in new]
        if name in rows or not some:
            raise UserError(f"--restrict {path}: none of its videos is of these classes, or another list is {name}.txt")
        rows[name], said = some, [*said, f"{name}.txt: {len(some)} of {len(other)} videos, in {other.root}"]
    table = {}
    for name, split in splits.items():
        drawn = [np.flatnonzero(label == a) for a in new]
        drawn = np.concatenate([rng.permutation(some)[:len(split) // len(new)] for some in drawn])
        table[name] = [[nmi(label[some], facet[some]) for some in (split, drawn)] for facet in facets]
    save_lists(out, rows, [videos.classes[a] for a in new])
    print(f"{out}: {len(new)} actions; {(~keep).sum()} videos without labels left out; videos in {videos.root}"
          + (f"; passed over, too small: {', '.join(passed)}" if passed else ""))
    for name, values in table.items():
        print(f"{name}.txt: {len(splits[name])} videos; normalised mutual information of the action and "
              + ", ".join(f"{kind} {a:.3f} ({b:.3f} if sampled at random)"
                          for (kind, _), (a, b) in zip(names, values, strict=True)))
    print(*said, sep="\n", end="\n" * bool(said))
    return table


# What `python omnidebias.py select` does; what the paper says of it, the filter and the thirds, is in omnidebias.py.
@dataclass
class SelectArgs:
    lists: tuple = arg((), "lists of web items, `path label` a line; the label is the class that they were sought by",
                       positional=True)
    labels: tuple = arg((), ".npz of `omnidebias.py labels`: the items' facet; SMAD Sec. 5.2: scenes")
    teacher: str = arg("", "a run or checkpoint of any of these scripts, or OUT-teacher.npz of one; none: keep all")
    agree: float = arg(0.5, "least probability at which a label is confirmed; the paper is silent", low=0, high=1)
    confident: float = arg(1.0, "probability beyond which an item is kept as the predicted class, whatever its label; "
                                "1: none", low=0, high=1)
    out: str = arg("web-lists", "folder of the new lists")
    compare: str = arg("", "labelled list, with labels in --labels too, whose entropy to print at equal numbers")
    truth: str = arg("", "list of the items' true classes, for precision and recall of the filter")
    root: str = arg("", "folder of the items; none: the lists' own")
    split: int = arg(1, "official split of UCF101 and HMDB51 lists", choices=(1, 2, 3))
    batch_size: int = arg(32, "items in a forward pass of the teacher", low=1)
    workers: int = arg(4, "loader processes", low=0)
    amp: str = arg("none", "mixed precision on CUDA", choices=("none", "bf16", "fp16"))
    seed: int = arg(0, "seed of rand, and of the order within a scene", low=0)


def _teacher(args):
    """-> network or None, checkpoint of --teacher; or None, what OUT-teacher.npz holds; or None, {}"""
    if args.teacher.endswith(".npz"):
        return None, load_arrays(args.teacher, "paths", "predicted", "probability", "classes", "unreadable")
    return trained(args.teacher) if args.teacher else (None, {})


def web_items(args):
    """-> VideoList of the web items, labelled with the class that they were sought by; facets (n,), -1: none"""
    start(0, timedelta(days=7))
    if not args.lists or not args.labels:
        raise UserError("name a list of web items, and --labels FILE.npz, their scenes")
    if Path(args.out).exists():
        raise UserError(f"{args.out} exists: remove it, or name another folder with --out")
    if args.confident < 1 and not args.teacher:
        raise UserError("--confident is about a --teacher: name one")
    classes = [str(name) for name in _teacher(args)[1].get("classes", ())]
    items = merge_lists(args.lists, args.root, args.split, classes or None)
    facet, _ = read_facet(args.labels, items.paths)
    if not (facet >= 0).any():
        raise UserError(f"--labels {args.labels[0]}: has none of the items, such as {items.paths[0]}")
    if args.truth and not {*read_list(args.truth, args.root, "train", args.split).paths} & {*items.paths}:
        raise UserError(f"--truth {args.truth}: has none of the items, such as {items.paths[0]}")
    if args.compare and not np.isin(items.labels, _compared(args, items)[0]).any():
        raise UserError(f"--compare {args.compare}: --labels have none of its videos, or it has other actions")
    total(0)                                                                # nobody writes before all have looked
    return items, facet


def _compared(args, items):
    """(2, n) actions and facets of the videos of --compare that have one"""
    other = read_list(args.compare, args.root, "train", args.split, items.classes if items.named else None)
    pairs = np.stack([other.labels, read_facet(args.labels, other.paths)[0]])
    return pairs[:, pairs[1] >= 0]


def predictions(args, items):
    """What --teacher predicts of web items, resumable, kept in OUT-teacher.npz; it sees them as validation videos.
    -> (n,) predicted class, -1 where an item cannot be read; (n,) its probability"""
    (model, teacher), out = _teacher(args), args.teacher
    if model:
        out, a, device = f"{Path(args.out)}-teacher.npz", teacher["args"], start(0, timedelta(days=7))[2]
        amp, net, clip = autocast(device, args.amp), model.to(device), dict(frames=a["frames"])
        dataset = Videos(items, partial(evenly, **clip) if getattr(model, "tsn", False) else
                         partial(centre_clip, stride=a["stride"], **clip), test_transform(a["size"], a["resize"]))

        def rows(left):
            for batch in DataLoader(Subset(dataset, left), args.batch_size, num_workers=args.workers,
                                    pin_memory=device.type == "cuda", worker_init_fn=deaf):
                clip = normalise(batch["clip"].to(device, non_blocking=True), a["mean"], a["std"])
                with torch.inference_mode(), amp:
                    p, y = net(clip).float().softmax(1).max(1)
                for index, bad, *row in zip(*(batch[k].tolist() for k in ("index", "bad")), y.tolist(), p.tolist(),
                                            strict=True):
                    yield index, None if bad else np.array([row])

        def finish(paths, found):
            y, p = np.concatenate(found).T
            return dict(paths=np.array(paths), predicted=y.astype(int), probability=p, classes=np.array(items.classes))

        made = dict(teacher=teacher["method"], sha1=sha1(teacher["path"].read_bytes()).hexdigest())
        if not os.path.exists(out) or str(load_arrays(out, "made")["made"]) != json.dumps(made):     # else it goes on
            sweep(out, items, made, rows, finish)
        teacher = load_arrays(out, "paths", "predicted", "probability", "unreadable")
    place = dict.fromkeys(teacher["unreadable"].tolist(), -1)
    place |= {path: i for i, path in enumerate(teacher["paths"].tolist())}
    at = np.fromiter((place.get(path, -2) for path in items.paths), int, len(items))
    if (at < -1).any():
        raise UserError(f"{out}: has not seen {(at < -1).sum()} of {len(items)} items, first "
                        f"{items.paths[at.argmin()]}: remove it, and name the checkpoint with --teacher")
    return np.where(at < 0, -1, teacher["predicted"][at]), np.where(at < 0, 0.0, teacher["probability"][at])


def write_selection(args, items, facet, predicted, kept, chosen):
    """Write the new lists, {NAME: places}, and print the counts of each class, entropies, what the filter did to the
    labels; of torchrun's processes the first. predicted (n,): -1 where an item cannot be read; kept (n,): the class
    under which an item is kept, or -1."""
    if int(os.environ.get("RANK", 0)) == 0:
        lists = {name: [(items.paths[i], kept[i]) for i in some] for name, some in chosen.items()}
        save_lists(Path(args.out), lists, items.classes if items.named else ())
        _print_selection(args, items, facet, predicted, kept, chosen)
    total(0)                                                                              # the others wait


def _print_selection(args, items, facet, predicted, kept, chosen):
    query, place, names = np.array(items.labels), np.arange(len(items)), [*items.classes, "all"]
    some = {"listed": place, "kept": place[kept >= 0], **chosen}
    label = {name: (query if name == "listed" else kept)[of] for name, of in some.items()}
    table = [np.bincount(y, minlength=len(names) - 1) for y in label.values()]
    width = max(map(len, names))
    print(f"{args.out}: items in {items.root}\n" + " ".join([" " * width, *(f"{name:>8}" for name in some)]))
    for name, *row in zip(names, *([*counts, counts.sum()] for counts in table), strict=True):
        print(" ".join([f"{name:{width}}", *(f"{count:8}" for count in row)]))
    scenes = [np.unique(np.stack([kept[chosen[part]], facet[chosen[part]]]), axis=1).T.tolist()
              for part in ("bias", "mid", "unbias")]
    cut = Counter(map(tuple, sum(scenes, [])))
    print(f"{(predicted < 0).sum()} items unreadable, {(facet < 0).sum()} without a label; {len(cut)} facets of an "
          f"action, {sum(n > 1 for n in cut.values())} of them in two parts")
    pairs = {name: np.stack([label[name], facet[of]])[:, facet[of] >= 0] for name, of in some.items()}
    print("mean entropy of an action's facets, nats (the paper: Kinetics 3.02, GoogleImg 2.79): " + ", ".join(
        f"{name} {mean_entropy(*pair):.2f}" for name, pair in pairs.items() if len(pair[0])))
    if args.compare:
        both = [pairs["listed"], pairs["kept"], _compared(args, items)]
        fewest, rng = np.min([np.bincount(y, minlength=10 ** 6) for y, _ in both], 0), np.random.default_rng(args.seed)
        for i, (y, _) in enumerate(both):
            order = rng.permutation(len(y))
            order, counts = order[np.argsort(y[order], kind="stable")], np.bincount(y)
            nth = np.arange(len(y)) - (np.cumsum(counts) - counts)[y[order]]                          # of its action
            both[i] = mean_entropy(*both[i][:, order[nth < fewest[y[order]]]])
        print("at equal numbers of each action: " + ", ".join(
            f"{name} {value:.2f}" for name, value in zip(("listed", "kept", args.compare), both, strict=True)))
    if args.truth:
        true = read_list(args.truth, args.root, "train", args.split)
        true = dict(zip(true.paths, true.labels, strict=True))
        true = np.array([true.get(path, -1) for path in items.paths])
        right, found, known = query == true, (kept == true) & (true >= 0), true >= 0
        n, n_right, n_kept = known.sum(), max(1, right.sum()), (known & (kept >= 0)).sum()
        print(f"rightly labelled: listed {right.sum() / n:.1%} of {n}, kept (precision) "
              f"{found.sum() / max(1, n_kept):.1%} of {n_kept}; kept of the rightly labelled (recall) "
              f"{(found & right).sum() / n_right:.1%}")


# ---- Embedded benchmark --------------------------------------------------------------------------------------------
# A small world with known biases, so that every script runs without a download. An actor (sprite) moves over a scene
# (texture) beside a static object. The ACTION is the motion alone: start, phase and speed are random and tracks wrap
# around, so one frame never tells it. Scene, object, the actor's look and six yes/no tags follow the action as
# strongly as SPLITS says. The 24 scenes are shared: each action has its own order of them, with a Zipf tail.
ACTIONS = ("right", "left", "down", "up", "clockwise", "anticlockwise", "shake-sideways", "shake-upright")
NOVEL = ("north-east", "south-east", "south-west", "north-west",
         "slalom-right", "slalom-left", "shake-falling", "shake-rising")
TAGS = ("event:confetti", "event:night", "attribute:outlined", "attribute:large", "context:striped", "context:warm")
SCENES, LOOKS, SIDE, LENGTH = 24, 8, 40, 20       # scenes; looks of the actor (= objects); pixels; frames of a clip
SPLITS = {  # clips, rule of the scene, and how often scene, object, look and tags follow the action, else at random
    "pretrain": (2000, "head", 0.2, 0.2, 0.2, 0.2), "train": (1600, "head", 1.0, 0.8, 0.9, 0.3),
    "val": (400, "head", 1.0, 0.8, 0.9, 0.3), "test": (400, "head", 1.0, 0.8, 0.9, 0.3),
    "rare": (400, "tail", 1.0, 0.8, 0.9, 0.3), "web": (1200, "web", 1.0, 0.5, 0.5, 0.3),
    "novel": (480, "head", 0.0, 0.0, 0.0, 0.0), "scuba-photo": (400,), "scuba-texture": (400,),
    "scuba-sinusoid": (400,), "conflfg": (400,)}  # the last four: the actors of `test` over new backgrounds


def toy_truth(seed, split, share=1.0):
    """What is drawn in `split`: dict of arrays over its clips (action, label, scene, object, look, tags)."""
    world, ranks = np.random.default_rng([seed, 0]), np.arange(1, SCENES + 1)
    order = np.stack([world.permutation(SCENES) for _ in ACTIONS])            # an action's scenes, most frequent first
    habit = world.integers(0, 2, (len(ACTIONS), len(TAGS)))                      # an action's usual tags
    scene_tags = np.stack([np.arange(SCENES) % 2, np.arange(SCENES) // 2 % 2], 1)   # context: striped, warm
    split = split if len(SPLITS[split]) > 1 else "test"
    n, rule, *follow = SPLITS[split]
    n, rng = max(len(ACTIONS), int(n * share)), np.random.default_rng([seed, 1, list(SPLITS).index(split)])
    action = rng.permutation(np.arange(n) % len(ACTIONS))
    zipf = {"head": (ranks <= SCENES // 3) / ranks, "tail": (ranks > SCENES // 3) / ranks, "web": ranks ** -1.6}[rule]
    scene = order[action, rng.choice(SCENES, n, p=zipf / zipf.sum())]
    scene, obj, look = (np.where(rng.random(n) < f, tied, rng.integers(0, k, n)) for f, tied, k in
                        zip(follow, (scene, action, action), (SCENES, LOOKS, LOOKS), strict=False))
    tags = np.where(rng.random((n, len(TAGS))) < follow[3], habit[action], rng.integers(0, 2, (n, len(TAGS))))
    tags[:, 4:] = scene_tags[scene]
    wrong = (rng.random(n) < 0.15) & (split == "web")                            # web labels are not clean
    label = np.where(wrong, (action + rng.integers(1, len(ACTIONS), n)) % len(ACTIONS), action)
    return dict(action=action, label=label, scene=scene, object=obj, look=look, tags=tags.astype(bool))


def _track(motion, rng):
    """Offsets (LENGTH, 2) in pixels of an actor from its start, at a random speed, phase and radius."""
    t, r, w, phase = np.arange(LENGTH), rng.uniform(7, 10), rng.uniform(0.25, 0.4), rng.uniform(0, 2 * np.pi)
    line, sin, cos, no = rng.uniform(1.4, 2.2) * t, r * np.sin(w * t + phase), r * np.cos(w * t + phase), 0 * t
    return np.stack({"right": (line, no), "left": (-line, no), "down": (no, line), "up": (no, -line),
                     "clockwise": (cos, sin), "anticlockwise": (cos, -sin), "shake-sideways": (sin, no),
                     "shake-upright": (no, sin), "north-east": (line, -line), "south-east": (line, line),
                     "south-west": (-line, line), "north-west": (-line, -line), "slalom-right": (line, sin),
                     "slalom-left": (-line, sin), "shake-falling": (sin, sin), "shake-rising": (sin, -sin)}[motion], 1)


def _hue(h, value):
    k = (np.array([5, 3, 1]) + h * 6) % 6                                        # HSV to RGB at saturation 0.9
    return 255 * value * (1 - 0.9 * np.clip(np.minimum(k, 4 - k), 0, 1))


def _actor(motion, look, outlined, large, rng):
    """A sprite on its track over a torus: colours (T, S, S, 3) and its soft mask (T, S, S, 1)."""
    lobes, depth = ((0, 0), (4, 0.16), (3, 0.28), (5, 0.4), (2, 0.4), (6, 0.25), (8, 0.3), (4, 0.5))[look]
    centre = rng.uniform(0, SIDE, 2) + _track(motion, rng)
    radius, colour = (9.4 if large else 7.5) * rng.uniform(0.9, 1.1), _hue(look / LOOKS, rng.uniform(0.8, 1))
    x, y = ((np.mgrid[:SIDE, :SIDE] - centre[:, ::-1, None, None] + SIDE / 2) % SIDE - SIDE / 2).swapaxes(0, 1)[::-1]
    swing = np.cos(lobes * (np.arctan2(y, x) + rng.uniform(0, 2 * np.pi)))
    edge = (radius * (1 - depth / 2 + depth / 2 * swing) - np.hypot(x, y))[..., None]    # pixels to the outline
    return np.where(edge < 1.5, 255.0 if outlined else 0.55 * colour, colour), np.clip(edge + 0.5, 0, 1)


def _photo(rng, striped, warm):
    """A periodic scene (S, S, 3): noise with the 1/f spectrum of photographs, in a palette of its own."""
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE)))
    f[0, 0] = 1
    noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal((3, SIDE, SIDE))) / f ** 1.2).real
    noise = (noise - noise.mean((1, 2), keepdims=True)) / noise.std((1, 2), keepdims=True)
    picture = 60 + 0.5 * _hue(rng.uniform(-0.1, 0.2) if warm else rng.uniform(0.35, 0.75), rng.uniform(0.5, 0.8))
    picture = picture + np.einsum("chw,cd->hwd", noise, rng.normal(0, 18, (3, 3)))
    y, x = np.mgrid[:SIDE, :SIDE] * 2 * np.pi / SIDE
    return picture + striped * 35 * np.sign(np.sin(rng.integers(2, 7) * x + rng.integers(2, 7) * y))[..., None]


def _texture(rng):
    """Random coloured cells (S, S, 3), where the released SCUBA sets have pictures made by VQGAN-CLIP."""
    points, colours = rng.uniform(0, SIDE, (14, 2)), rng.uniform(20, 235, (14, 3))
    d = np.abs(np.mgrid[:SIDE, :SIDE].transpose(1, 2, 0)[:, :, None] - points)
    d = np.hypot(*np.minimum(d, SIDE - d).transpose(3, 0, 1, 2))
    return colours[d.argmin(-1)] * (1 - d.min(-1, keepdims=True) / SIDE)


def _sinusoid(rng):
    """Sinusoid stripes (S, S, 3) as Li et al. 2023 draw them: their 256 pixels scaled to S, then rotated."""
    unit, colour, a = SIDE / 256, rng.uniform(0, 1, 3), rng.uniform(0, 2 * np.pi)
    half, w = rng.uniform(5, 20) * unit, 2 * np.pi / (rng.uniform(4, 1004) * unit)
    gap, height, shift = half * rng.uniform(3, 5), rng.uniform(10, 110) * unit, rng.uniform(-100, 100) * unit
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    x, y = x * np.cos(a) - y * np.sin(a), x * np.sin(a) + y * np.cos(a)
    d = (y - height * np.sin(w * (x + shift))) % gap
    return 255 * np.where((np.minimum(d, gap - d) < half)[..., None], 1 - colour, colour)


def toy_clip(seed, split, i, truth):
    """Draw clip i of a split: frames (T, S, S, 3) uint8 and the actor's mask (T, S, S) bool."""
    source = split if len(SPLITS[split]) > 1 else "test"
    behind = "scuba-sinusoid" if split == "conflfg" else split                     # Confl-FG: on the same stripes
    rng, ground = (np.random.default_rng([seed, 2, list(SPLITS).index(s), i]) for s in (source, behind))
    confetti, night, outlined, large, striped, warm = truth["tags"][i]
    motion = (NOVEL if split == "novel" else ACTIONS)[truth["action"][i]]
    colours, mask = _actor(motion, truth["look"][i], outlined, large, rng)
    if split == source:
        scene = _photo(np.random.default_rng([seed, 3, truth["scene"][i]]), striped, warm)
        scene = np.roll(scene, rng.integers(0, SIDE, 2), (0, 1)) * rng.uniform(0.85, 1.15)
        glyph = np.random.default_rng([9, truth["object"][i]])                       # a static object: a 4 x 4 glyph
        shape, (r, c) = glyph.random((4, 4)).repeat(2, 0).repeat(2, 1) < 0.6, rng.integers(0, SIDE - 8, 2)
        scene[r:r + 8, c:c + 8] = np.where(shape[..., None], _hue(glyph.random(), 1), 30)
        scene[rng.random((SIDE, SIDE)) < 0.03 * confetti] = 255
    else:
        scene = (_photo(ground, *ground.random(2) < 0.5) if split == "scuba-photo" else
                 _texture(ground) if split == "scuba-texture" else _sinusoid(ground))
    if split == "conflfg":                          # a second actor of another class, still, behind the moving one
        j = ground.choice(np.flatnonzero(truth["action"] != truth["action"][i]))
        still, cut = _actor(ACTIONS[truth["action"][j]], truth["look"][j], *truth["tags"][j, 2:4],
                            np.random.default_rng([seed, 2, list(SPLITS).index("test"), j]))
        still = still * (0.6 if truth["tags"][j, 1] else 1)
        scene = cut[LENGTH // 2] * still[LENGTH // 2] + (1 - cut[LENGTH // 2]) * scene
    dark = 0.6 if night else 1                                                # an actor is cut out as dark as it is
    frames = mask * colours * dark + (1 - mask) * scene * (dark if split == source else 1)
    return frames.clip(0, 255).astype(np.uint8), mask[..., 0] > 0.5


def _toy_write(job):
    """Draw and encode one clip; gives its mask, packed, and boxes (T, 4) as x0, y0, x1, y1."""
    folder, seed, split, i, truth = job
    frames, mask = toy_clip(seed, split, i, truth)
    file = folder / split / f"{i:04d}"
    if split == "web" and i % 2:                                                   # half of the web is images
        av.VideoFrame.from_ndarray(frames[0], "rgb24").save(f"{file}.png")
    else:
        with av.open(f"{file}.mp4", "w") as out:
            stream = out.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
            stream.options = {"crf": "20", "preset": "veryfast", "g": "10", "threads": "1", "x264-params": "mbtree=0"}
            for frame in frames:
                out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            out.mux(stream.encode())
    return np.packbits(mask), [(*np.argwhere(m).min(0)[::-1], *np.argwhere(m).max(0)[::-1] + 1) for m in mask]


def _toy_draw(seed, final, share):
    folder, truth = final.with_name(f"{final.name}.part{os.getpid()}"), {}
    tables = {split: toy_truth(seed, split, share) for split in SPLITS}
    jobs = [(folder, seed, split, i, t) for split, t in tables.items() for i in range(len(t["label"]))]
    try:
        for split in SPLITS:
            (folder / split).mkdir(parents=True)
        context = multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn")
        with context.Pool(min(8, os.cpu_count())) as pool:
            done = list(tqdm(pool.imap(_toy_write, jobs, 50), f"drawing {final}", len(jobs), unit="clip", disable=None))
        for split, t in tables.items():
            names = sorted(p.name for p in (folder / split).iterdir())
            lines = [f"{split}/{name} {label}\n" for name, label in zip(names, t["label"], strict=True)]
            (folder / f"{split}.txt").write_text("".join(lines))
            masks, boxes = zip(*(d for d, job in zip(done, jobs, strict=True) if job[2] == split), strict=True)
            t = t | dict(masks=np.stack(masks), boxes=np.array(boxes, np.int16))
            truth |= {f"{split}/{k}": v for k, v in t.items()}
        np.savez_compressed(folder / "truth.npz", **truth)
        (folder / "classes.txt").write_text("\n".join(ACTIONS) + "\n")
        if not final.exists():                                       # another run may have drawn it meanwhile
            folder.rename(final)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _toy_labels(folder, seed):
    """scenes.npz, objects.npz, tags.npz and humans.npz from the truth, in the form of the offline steps; and of the web
    items web-clips.txt, web-images.txt, and web-truth.txt, whose labels are right.

    Scene labels are what an ideal classifier would say that sees a scene's colours through noise: it confuses scenes
    that look alike, its probabilities are right on average, and about 68 % of its first guesses are right. Objects'
    likewise, about 78 %. Nothing else of the clip is in them. Tags and boxes are the truth."""
    truth = np.load(folder / "truth.npz")
    names = {split: [line.rsplit(" ", 1)[0] for line in (folder / f"{split}.txt").read_text().splitlines()]
             for split in SPLITS}
    drawn = [split for split in SPLITS if len(SPLITS[split]) > 1]
    labelled = np.array(sum((names[split] for split in drawn), []))
    scenes = [_photo(np.random.default_rng([seed, 3, i]), i % 2, i // 2 % 2) for i in range(SCENES)]
    scenes = np.array([[*scene.mean((0, 1)), *scene.std((0, 1))] for scene in scenes])
    glyphs = [np.random.default_rng([9, i]) for i in range(LOOKS)]
    glyphs = np.array([[*(glyph.random((4, 4)) < 0.6).ravel(), *_hue(glyph.random(), 1)] for glyph in glyphs])
    for kind, key, looks, noise in (("scene", 4, scenes, 0.7), ("object", 5, glyphs, 2.0)):
        looks, probabilities = (looks - looks.mean(0)) / looks.std(0).clip(1e-6), []
        for split in drawn:
            seen = looks[truth[f"{split}/{kind}"]]
            rng = np.random.default_rng([seed, key, list(SPLITS).index(split)])
            seen = seen + noise * rng.standard_normal(seen.shape)
            p = np.exp(-((seen[:, None] - looks) ** 2).sum(-1) / (2 * noise ** 2))
            probabilities.append(p / p.sum(1, keepdims=True))
        made = dict(made="the truth seen through noise", noise=noise, seed=seed)
        save_arrays(folder / f"{kind}s.npz", paths=labelled,
                    categories=np.array([f"{kind}{i}" for i in range(len(looks))]),
                    probabilities=np.concatenate(probabilities).astype(np.float16), made=np.array(json.dumps(made)),
                    unreadable=np.array([], str))
    counts, table = [], []
    for split in SPLITS:            # an actor across the border of the torus has a box on either side, not one as wide
        masks = np.unpackbits(truth[f"{split}/masks"], 1).reshape(-1, LENGTH, SIDE, SIDE)
        spans = [[_runs(line) for line in masks.any(axis).reshape(-1, SIDE)] for axis in (2, 3)]     # of columns, rows
        rows = [[(x0, y0, x1, y1) for y0, y1 in ys for x0, x1 in xs] for xs, ys in zip(*spans, strict=True)]
        counts, table = counts + [len(row) for row in rows], table + rows
    counts, paths = np.array(counts).reshape(-1, LENGTH), sum(names.values(), [])
    frames = np.repeat(np.tile(np.arange(LENGTH), len(paths)), counts.ravel())
    save_arrays(folder / "humans.npz", paths=np.array(paths), counts=counts.sum(1), every=np.array(1), frames=frames,
                boxes=np.array([box for row in table for box in row]), scores=np.ones(len(frames), np.float16),
                made=np.array(json.dumps(dict(made="the truth"))), unreadable=np.array([], str))
    save_arrays(folder / "tags.npz", paths=labelled,
                tags=np.concatenate([truth[f"{split}/tags"] for split in drawn]), categories=np.array(TAGS))
    web = list(zip(names["web"], truth["web/label"], truth["web/action"], strict=True)) if "web" in names else []
    for name, rows in (("clips", [(path, y) for path, y, _ in web if path.endswith(".mp4")]),
                       ("images", [(path, y) for path, y, _ in web if path.endswith(".png")]),
                       ("truth", [(path, y) for path, _, y in web])):                                 # the last of all
        (folder / f"web-{name}.txt").write_text("".join(f"{path} {y}\n" for path, y in rows))


def _runs(line):
    """[(first, end)] of the runs of ones in a line."""
    return np.flatnonzero(np.diff(line.astype(np.int8), prepend=0, append=0)).reshape(-1, 2).tolist()


def toy(seed=0, root="data", share=1.0):
    """Folder of the embedded benchmark, drawn at the first call; of torchrun's processes the first draws.

    Holds SPLIT.txt (`path label` a line), SPLIT/NNNN.mp4 (web: .png too; web-clips.txt and web-images.txt list them
    apart, web-truth.txt with their true classes), classes.txt, and truth.npz with
    SPLIT/action, label, scene, object, look (n,), tags (n, 6) as TAGS, masks (n, packed bits of (T, S, S)) and boxes
    (n, T, 4) x0 y0 x1 y1; and scenes, objects, tags and humans.npz, see _toy_labels. scuba-X/0001.mp4 and
    conflfg/0001.mp4 show the actor of test/0001.mp4. The same seed gives the same content. share: of the clips of each
    split, for tests.
    """
    final = Path(root) / f"toy{seed}{'' if share == 1 else f'-{share:g}'}"
    if int(os.environ.get("RANK", 0)) == 0 and not final.exists():
        _toy_draw(seed, final, share)
    if int(os.environ.get("RANK", 0)) == 0 and not (final / "web-truth.txt").exists():
        _toy_labels(final, seed)
    total(0)                                                                              # the others wait
    return final


# ---- Networks ------------------------------------------------------------------------------------------------------
class Tiny(nn.Module):
    """Three strided 3D convolutions with group norm, for the embedded benchmark. (N, 3, 8, 32, 32) -> (N, K)"""

    def __init__(self, num_classes, width=16):
        super().__init__()
        widths, layers = (3, width, 2 * width, 4 * width), []
        for i in range(3):
            kernel, stride = ((3, 5, 5), (1, 2, 2)) if i == 0 else ((3, 3, 3), (i, 2, 2))
            layers += [nn.Conv3d(widths[i], widths[i + 1], kernel, stride, [k // 2 for k in kernel], bias=False),
                       nn.GroupNorm(8, widths[i + 1]), nn.ReLU()]
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(widths[-1], num_classes)

    def forward(self, clip):
        return self.head(self.layers(clip).mean((2, 3, 4)))


class Network(nn.Module):
    """A backbone whose last layer is a new head. forward: (N, 3, T, H, W) -> (N, K) logits; features: -> (N, D)."""

    def __init__(self, backbone, num_classes):
        super().__init__()
        self.head_name, old = [(n, m) for n, m in backbone.named_modules() if isinstance(m, (nn.Linear, nn.Conv3d))][-1]
        new = (nn.Linear(old.in_features, num_classes) if isinstance(old, nn.Linear) else
               nn.Conv3d(old.in_channels, num_classes, 1))                                # torchvision's s3d
        backbone.set_submodule(self.head_name, new)
        self.backbone = backbone

    @property
    def head(self):
        return self.backbone.get_submodule(self.head_name)

    def forward(self, clip):
        return self.backbone(clip)

    def features(self, clip):
        """Input of the head, pooled."""
        return self.both(clip)[1]

    def both(self, clip):
        """-> (N, K) logits, (N, D) features, in one pass"""
        kept = []
        hook = self.head.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0]))
        try:
            z = self.backbone(clip)
        finally:
            hook.remove()
        return z, kept[0].flatten(2).mean(2) if kept[0].ndim > 2 else kept[0]


class FrameNetwork(Network):
    """A Network that is a TSN if `tsn`: its backbone sees the frames of a clip singly; their logits are averaged."""

    tsn = False

    def parts(self, clip, still=None):
        """(N, 3, T, H, W), still (N,) bool or none: images, of which a TSN's backbone sees one frame -> (N, K) logits;
        features (N, S, D) of the S frames, or of a clip as a whole, S = 1"""
        shape, place = (len(clip), clip.shape[2] if self.tsn else 1), None
        if self.tsn:
            clip = clip.transpose(1, 2).flatten(0, 1)
            if still is not None:
                frames = torch.arange(len(clip), device=clip.device)
                seen = ~still[frames // shape[1]] | (frames % shape[1] == 0)
                clip, place = clip[seen], seen.cumsum(0) - 1                           # where each frame's features are
            clip = clip[:, :, None] if isinstance(self.backbone, Tiny) else clip
        z, g = ((x if place is None else x[place]).unflatten(0, shape) for x in Network.both(self, clip))
        return z.mean(1), g

    def both(self, clip):
        """-> (N, K) logits, (N, D) features, in one pass"""
        z, g = self.parts(clip)
        return z, g.mean(1)


def resnet_backbone(model, num_classes, dropout):
    """--model of smad.py and omnidebias.py: tiny, tsn_tiny, slowonly_r18, slowonly_r50, tsn_r50, or a video ResNet of
    torchvision. -> backbone with random weights, the name of its last stage, before which SAAR is"""
    names = [name for name in torchvision.models.list_models(torchvision.models.video) if re.match("r3d|mc3|r2p", name)]
    family, _, depth = model.partition("_r")
    if family in ("tiny", "tsn_tiny"):
        return Tiny(num_classes), "layers.6"
    if model in ("slowonly_r18", "slowonly_r50", "tsn_r50"):
        backbone = torchvision.models.get_model(f"resnet{depth}", weights=None)
        backbone = slow_only(backbone) if family == "slowonly" else backbone
    elif model in names:
        backbone = torchvision.models.get_model(model, weights=None)
    else:
        raise UserError(f"--model {model}: not one of tiny, tsn_tiny, slowonly_r18, slowonly_r50, tsn_r50, "
                        f"{', '.join(names)}")
    backbone.avgpool = nn.Sequential(backbone.avgpool, nn.Dropout(dropout))
    return backbone, "layer4"


def slow_only(net):
    """A 2D ResNet of torchvision -> the same as SlowOnly: stride 1 in time throughout, and kernels of three frames in
    the last two stages alone, in both convolutions of a basic block, in the first of a bottleneck (mmaction2)."""
    for name, m in [*net.named_modules()]:
        if isinstance(m, nn.Conv2d):
            block = net.get_submodule(name.rpartition(".")[0])
            long = re.fullmatch(r"layer[34]\.\d+\.conv" + ("1" if hasattr(block, "conv3") else r"\d"), name)
            t = 3 if long else 1
            new = nn.Conv3d(m.in_channels, m.out_channels, (t, *m.kernel_size), (1, *m.stride), (t // 2, *m.padding),
                            bias=False)
        elif isinstance(m, nn.BatchNorm2d):
            new = nn.BatchNorm3d(m.num_features)
        elif isinstance(m, nn.MaxPool2d):
            new = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        elif isinstance(m, nn.AdaptiveAvgPool2d):
            new = nn.AdaptiveAvgPool3d(1)
        else:
            continue
        net.set_submodule(name, new)
    for m in net.modules():
        if isinstance(m, nn.Conv3d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")                # as torchvision's
    return net


def mmaction_key(key):
    """A key of mmaction2's TSN and SlowOnly checkpoints in torchvision's names:
    conv1.conv -> conv1, conv1.bn -> bn1, downsample.conv -> downsample.0, downsample.bn -> downsample.1,
    cls_head.fc_cls -> fc; layers and blocks are called alike."""
    key = re.sub(r"\bconv(\d)\.(conv|bn)\.", lambda m: f"{m[2]}{m[1]}.", key)
    key = re.sub(r"\bdownsample\.(conv|bn)\.", lambda m: f"downsample.{int(m[1] == 'bn')}.", key)
    return re.sub(r"^cls_head\.fc_cls\.", "fc.", key)


def inflate(weight, shape):
    """A 2D kernel (O, I, h, w) for a shape (O, I, t, h, w): repeated over t, over t (Carreira and Zisserman 2017)"""
    if weight.ndim == 4 and len(shape) == 5:
        return (weight[:, :, None] / shape[2]).expand(-1, -1, shape[2], -1, -1)
    return weight


# ---- Runs ----------------------------------------------------------------------------------------------------------
def start(seed, patience=timedelta(minutes=30)):
    """Seed everything and join torchrun's processes, where it started this one. -> rank, world size, device

    patience: how long one may wait for another before all give up."""
    rank, world, local = (int(os.environ.get(k, d)) for k, d in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=patience)
        atexit.register(dist.destroy_process_group)                    # else a process may abort at its very end
    seed_step(seed, 0, rank)
    return rank, world, device


def seed_step(seed, step, rank=0):
    """Random numbers of the model and the augmentations are a function of (seed, step, rank): the step number is
    all the state that a resumed run needs, on any number of processes."""
    number = int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_available():
        torch.cuda.manual_seed(number)


def total(*values):
    """Sum of each number over all processes, as floats."""
    values = [float(v.detach() if torch.is_tensor(v) else v) for v in values]
    if not dist.is_initialized():
        return values
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else "cpu"
    sums = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    return sums.tolist()


def union(items):
    """What is in any process's set of whole numbers, sorted."""
    sets = [None] * dist.get_world_size() if dist.is_initialized() else [items]
    if dist.is_initialized():
        dist.all_gather_object(sets, set(items))
    return sorted(set().union(*sets))


def broadcast(model):
    """Give all processes the first one's buffers (batch norm's running statistics)."""
    for buffer in model.buffers() if dist.is_initialized() else ():
        dist.broadcast(buffer, 0)


def no_sync(model, on=True):
    """DistributedDataParallel's no_sync where the model has it: gradients are summed here, not yet exchanged."""
    return model.no_sync() if on and hasattr(model, "no_sync") else nullcontext()


def autocast(device, amp):
    """Mixed precision on CUDA: amp "none", "bf16" or "fp16". UserError elsewhere."""
    if amp != "none" and device.type != "cuda":
        raise UserError(f"--amp {amp} is for CUDA, and this runs on the {device.type}: leave it out")
    return torch.autocast(device.type, torch.float16 if amp == "fp16" else torch.bfloat16, enabled=amp != "none")


def open_run(out, method, args, list_sha1):
    """Make the folder of a run. -> the checkpoint to go on from with args.resume, else None. UserError where the folder
    holds a run and neither --resume nor --overwrite is given, or where the flags or the list are not the run's."""
    last = Path(out) / "last.pt"
    if args.resume and args.overwrite:
        raise UserError("--resume contradicts --overwrite: give one of them")
    if args.resume:
        saved = load_checkpoint(last, method)
        free = {"resume", "overwrite", "out", "workers", "cache", "log_every", "data", "root", "web_root"}
        ours = {k: v for k, v in vars(args).items() if k not in free and saved["args"].get(k) != v}
        if ours or saved["list_sha1"] != list_sha1:
            raise UserError(f"{last}: made with other {', '.join(ours) or 'contents of the training list'}: repeat the "
                            "flags of the run, or start another with --out")
        return saved
    if last.exists() and not args.overwrite:
        raise UserError(f"{out} holds a run: --resume it, --overwrite it, or name another folder with --out")
    Path(out).mkdir(parents=True, exist_ok=True)
    return None


def clear_run(out):
    """Remove the files of an earlier run from its folder."""
    for name in ("last.pt", "best.pt", "log.jsonl", "evaluate.json", "evaluate.npz"):
        (Path(out) / name).unlink(missing_ok=True)


def save_checkpoint(path, **content):
    """torch.save under a temporary name, then rename: a kill at any moment leaves the last good file."""
    part = Path(f"{path}.part")
    torch.save(content, part)
    part.replace(path)


# Of a pickle torch.load takes tensors and plain containers, and these: old training scripts saved accuracies as
# numpy's. Files saved by Python 2 (Places365's) hold strings of bytes: latin1 reads any.
SAFE = [*((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
        (np.dtype, "numpy.dtype"), *(type(np.dtype(name)) for name in ("float64", "float32", "int64"))]


def _read(path):
    try:
        with torch.serialization.safe_globals(SAFE), warnings.catch_warnings():
            warnings.simplefilter("ignore")           # torch warns of `encoding`, and heeds it
            return torch.load(path, map_location="cpu", weights_only=True, encoding="latin1")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except Exception as error:                        # torch.load raises what the broken bytes lead it to
        asked = re.search(r"(?:GLOBAL|function <\S+ \S+) ([\w.]+)", str(error))
        why = (f"its pickle asks for {asked[1]}, which is no tensor: refused, nothing in it was run" if asked else
               "in torch's first format, a .tar of 2016: load and save it anew with the torch that made it"
               if ".tar format" in str(error) else "not a file of weights or a checkpoint")
        raise UserError(f"{path}: {why}") from None


def load_checkpoint(path, method=None):
    """A checkpoint of these scripts, on the CPU. UserError for a file that is none, or another method's."""
    saved, kinds = _read(path), dict(method=str, args=dict, classes=list, model=dict, epoch=int, step=int)
    if not isinstance(saved, dict) or any(not isinstance(saved.get(k), t) for k, t in kinds.items()):
        raise UserError(f"{path}: not a checkpoint of these scripts: it lacks one of {', '.join(kinds)}")
    if method not in (None, saved["method"]):
        raise UserError(f"{path}: made by {saved['method']}.py, not {method}.py")
    return saved


@contextmanager
def running_statistics(model, on=True):
    """Batch norm layers of a training model use their running statistics, and leave them alone, while this is open."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    for norm in norms if on else ():
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()


def try_clip(model, args):
    """The model, after one forward pass of an empty clip. UserError where it takes none of this length and size."""
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, args.frames, args.size, args.size))
    except (RuntimeError, ValueError) as error:
        raise UserError(f"--model {args.model} takes no clip of --frames {args.frames} and --size {args.size}: "
                        f"{str(error).splitlines()[0]}") from None
    return model.train()


METHODS = ("sdn", "smad", "omnidebias", "albar")  # what a checkpoint may name; nothing else is imported


def trained(path):
    """The network of a checkpoint file, or of a run's folder (its last.pt), rebuilt by the script that it names, which
    must be beside this file. -> network in eval mode, on the CPU, the checkpoint with all of that script's args"""
    path = Path(path)
    path = path / "last.pt" if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; name a run's folder or a checkpoint file")
    saved = load_checkpoint(path)
    method = saved["method"]
    if method not in METHODS:
        raise UserError(f"{path}: made by {method!r}, which is none of {', '.join(METHODS)}")
    try:
        script = importlib.import_module(method)
    except ModuleNotFoundError as error:
        if error.name != method:                           # the script is here, something that it needs is not
            raise
        raise UserError(f"{path}: {method}.py, which made it, is not beside common.py") from None
    known = {f.name for f in fields(script.Args)}
    args = script.Args(**{k: v for k, v in saved["args"].items() if k in known})
    model = script.build_model(args, len(saved["classes"])).eval()
    try:
        model.load_state_dict(saved["model"])
    except (RuntimeError, TypeError) as error:
        raise UserError(f"{path}: not weights of {method}.py's model: {' '.join(str(error).split())}") from None
    return model, saved | dict(args=saved["args"] | asdict(args), path=path)


def read_weights(weights, arch):
    """-> state dict of a file (alone, or under "model" or "state_dict"), or of torchvision's weights of that name for
    its model `arch`. UserError for a name that is neither, or what cannot be downloaded."""
    if os.path.exists(weights):
        saved = _read(weights)
    else:
        try:
            named = torchvision.models.get_model_weights(arch)[weights]
        except (KeyError, ValueError):
            raise UserError(f"--weights {weights}: no such file, nor {arch}'s in torchvision; or none") from None
        try:
            saved = named.get_state_dict(progress=False, check_hash=True)
        except (OSError, RuntimeError) as error:
            raise UserError(f"--weights {weights}: cannot download {named.url} ({error}); give a file") from None
    for key in ("model", "state_dict"):
        saved = saved[key] if isinstance(saved, dict) and isinstance(saved.get(key), dict) else saved
    if not isinstance(saved, dict) or not all(isinstance(k, str) and torch.is_tensor(v) for k, v in saved.items()):
        raise UserError(f"{weights}: holds no state dict (names and tensors)")
    return saved


def load_weights(model, weights, arch, head, rename=None, drop=r"(?!)", fit=None):
    """Load weights (see read_weights; or none) into the backbone of a Network. -> what was done, in words

    Known prefixes are stripped, then rename(key) gives ours, and fit(tensor, our shape) the tensor of that shape. The
    head, keys that begin with `head`, stays new where its shape differs. Left out are keys that match `drop`, and of
    these scripts' checkpoints all but the backbone. Any other missing, unexpected or misshapen key is a UserError that
    lists them."""
    if weights in ("", "none"):
        return "random weights"
    saved, prefix, said = read_weights(weights, arch), r"^(module\.|model\.|backbone\.)+", []
    ours = {k: v for k, v in model.state_dict().items() if k.startswith("backbone.")}
    drop = r"(?!backbone\.)" if any(k.startswith("backbone.") and k in ours for k in saved) else drop
    if dropped := {k for k in saved if re.match(drop, re.sub(r"^module\.", "", k))}:
        said.append(f"left out {', '.join(sorted({re.sub('^module.', '', k).split('.')[0] for k in dropped}))}")
    saved = {k: v for k, v in saved.items() if k not in dropped}
    if stripped := {m.group() for k in saved if (m := re.match(prefix, k)) and k not in ours}:
        said.append(f"stripped {', '.join(sorted(stripped))}")
    bare, named = {re.sub(prefix, "", k): k for k in ours}, rename or (lambda k: k)
    saved = {bare.get(named(re.sub(prefix, "", k)), k): v for k, v in saved.items()}
    saved = {k: fit(v, ours[k].shape) if fit and k in ours else v for k, v in saved.items()}
    shape = [{k: v.shape for k, v in some.items()} for some in (ours, saved)]
    wrong = {k for k in ours.keys() | saved.keys() if shape[0].get(k) != shape[1].get(k)}
    wrong -= {k for k in ours if k.endswith("num_batches_tracked") and k not in saved}          # torch before 0.4.1
    if wrong and all(re.sub(prefix, "", k).startswith(head) and k in saved and k in ours for k in wrong):
        key = max(wrong)
        said.append(f"new head of {ours[key].shape[0]} classes for one of {saved[key].shape[0]}")
        saved = {k: v for k, v in saved.items() if k not in wrong}
    elif wrong:
        raise UserError(f"{weights}: {len(wrong)} keys do not fit the model: {', '.join(sorted(wrong)[:6])}, ...")
    model.load_state_dict(saved, strict=False)                                        # what is missing is checked above
    return f"{len(saved)} tensors from {weights}" + "".join(f", {s}" for s in said)


class Log:
    """A file of one JSON object a line. A resumed run drops the lines after the step that it resumes from."""

    def __init__(self, path, rank=0, step=-1):
        self.path, lines = Path(path) if rank == 0 else None, []
        if self.path and self.path.exists() and step >= 0:
            lines = self.path.read_text().splitlines(True)
            lines = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        if self.path:
            self.path.write_text("".join(lines))

    def __call__(self, **record):
        if self.path:
            with self.path.open("a") as file:
                file.write(json.dumps(record) + "\n")


class Run:
    """The files of a run: log.jsonl, last.pt, best.pt in its folder. Its loop stays in the script.

    Attributes: out (folder), log (call it with a record), saved (the checkpoint to resume, or None), note of it."""

    def __init__(self, method, args, train_set, val_set, out):
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.args, self.sets, self.out = args, (train_set, val_set), Path(args.out or out)
        self.saved = open_run(self.out, method, args, train_set.videos.sha1)
        self.note = f"resumed at step {self.saved['step']}" if self.saved else ""
        self.fixed = dict(method=method, args=asdict(args), classes=train_set.videos.classes,
                          list_sha1=train_set.videos.sha1, torch=str(torch.__version__))

    def begin(self, note, state, device, **more):
        """Restore `state`, {name: what has a state_dict}, where the run goes on. -> step, best figures, last figures

        more: what else the first line of the log says."""
        saved, self.state, (train_set, val_set) = self.saved, state, self.sets
        if saved:
            for name, part in state.items():
                part.load_state_dict(saved[name])
        elif self.rank == 0:
            clear_run(self.out)                              # what --overwrite replaces, lest --resume finds it
        step = saved["step"] if saved else 0
        self.log = Log(self.out / "log.jsonl", self.rank, step if saved else -1)
        self.log(step=step, args=self.fixed["args"], torch=self.fixed["torch"], note=note, list=train_set.videos.kind,
                 list_sha1=self.fixed["list_sha1"], missing=train_set.videos.missing + val_set.videos.missing,
                 train_videos=len(train_set), val_videos=len(val_set), classes=len(self.fixed["classes"]),
                 processes=self.world, device=str(device), **more)
        self.print(f"{self.out}: {note}; {len(train_set)} training and {len(val_set)} validation videos "
                   f"({train_set.videos.kind} list), {len(self.fixed['classes'])} classes, {self.world} x "
                   f"{device.type}")
        return (step, saved["best"], saved["extra"]) if saved else (0, {"val/accuracy": -1.0}, {})

    def print(self, text):
        if self.rank == 0:
            print(text, flush=True)

    def save(self, name, step, epoch, best, figures):
        """Write a checkpoint (design: the contract between training and evaluation), from the first process."""
        if self.rank == 0:
            parts = {key: part.state_dict() for key, part in self.state.items()}
            save_checkpoint(self.out / name, **self.fixed, epoch=epoch, step=step, extra=figures, best=best,
                            rng={"seed": self.args.seed, "step": step}, **parts)

    def check(self, step, losses, bad):
        """UserError, in all processes at once, for a loss that is not finite or too many unreadable videos (indices
        `bad`). Called before anything is logged or saved."""
        finite, unread = total(torch.stack(losses).isfinite().all(), len(bad))
        videos, most = self.sets[0].videos, self.args.max_bad
        if finite < self.world:
            raise UserError(f"{self.out}: the loss is not finite by step {step}: lower --lr; last.pt is good")
        if unread > most * len(videos):
            few = ", ".join(videos.paths[i] for i in sorted(bad)[:5])
            raise UserError(f"{unread:.0f} of {len(videos)} videos cannot be read (--max-bad {most}): {few}")

    def means(self, records):
        """Mean of each key over the records that have it, and over all processes."""
        keys = sorted({key for record in records for key in record})
        means = [sum(r[k] for r in records if k in r) / sum(k in r for r in records) for k in keys]
        return {k: v / self.world for k, v in zip(keys, total(*means), strict=True)}


class Interrupt:
    """`with Interrupt() as stop`: SIGTERM and Ctrl-C only set stop.signal; the loop ends when it has saved."""

    def __enter__(self):
        self.signal, self.old = 0, {}
        if threading.current_thread() is threading.main_thread():                          # Python allows no other
            self.old = {number: signal.signal(number, self.note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def note(self, number, frame):
        self.signal = number

    def __exit__(self, *error):
        for number, old in self.old.items():
            signal.signal(number, old)


def deaf(worker):
    """For loader processes: a signal to the whole group (Ctrl-C, a cluster's SIGTERM) is the main process's to answer;
    only the SIGTERM that it sends them itself ends them. (Ignoring SIGTERM would leave them for ever.)"""
    def wait(parent):
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
            pass
        os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):                                                # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=wait, args=(os.getppid(),), daemon=True).start()
