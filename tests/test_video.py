"""num_frames and read_clip against a plain decoding of the whole file by PyAV, on files made here and on real ones."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from common import UserError, _index, _key, num_frames, read_clip

SHARED = Path(__file__).resolve().parents[2] / "shared"
H264 = dict(codec="libx264", g="12", bf="3", **{"x264-params": "b-pyramid=normal:scenecut=0"})
FILES = {
    "gops.mp4": H264,  # several GOPs, B-frames that others refer to
    "gops.mkv": H264,  # no frame count in the header
    "late.mp4": dict(H264, first=900),  # does not start at time 0
    "vfr.mp4": dict(H264, steps=(1, 2, 7)),  # variable frame rate
    "opengop.mp4": dict(codec="libx264", g="12", bf="3", **{"x264-params": "open-gop=1:scenecut=0"}),
    "refresh.mp4": dict(codec="libx264", g="12", **{"x264-params": "intra-refresh=1"}),
    "odd444.mp4": dict(H264, size=(61, 45), pix_fmt="yuv444p"),
    "10bit.mp4": dict(H264, pix_fmt="yuv420p10le"),
    "single_gop.mov": dict(codec="libx264", g="999", bf="2"),
    "intra.mp4": dict(codec="libx264", g="1"),
    "hevc.mp4": dict(codec="libx265", **{"x265-params": "keyint=12:open-gop=1:bframes=4:log-level=none"}),
    "vp9.webm": dict(codec="libvpx-vp9", g="12", size=(61, 45), **{"lag-in-frames": "8", "cpu-used": "8"}),
    "vp8.webm": dict(codec="libvpx", g="12", **{"auto-alt-ref": "1", "lag-in-frames": "8", "cpu-used": "8"}),
    "bframes.avi": dict(codec="mpeg4", g="12", bf="2"),  # an AVI has no presentation times
    "plain.avi": dict(codec="mpeg4", g="12"),
    "h264.avi": H264,
    "mpeg2.mpg": dict(codec="mpeg2video", g="12", bf="2", size=(80, 48)),
    "still.mp4": dict(H264, frames=1),
}


def write(path, codec, size=(64, 48), frames=50, pix_fmt="yuv420p", first=0, steps=(1,), **options):
    """A moving texture; `steps` are the durations of the frames, in turn."""
    rng = np.random.default_rng(0)
    texture = np.kron(rng.integers(0, 255, (40, 40, 3)), np.ones((6, 6, 1))).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        for t in range(frames):
            image = texture[2 * t : 2 * t + size[1], 3 * t % 160 :][:, : size[0]].copy()
            image[:8, :8] = 5 * t  # no two frames are the same
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts = first + sum(steps[k % len(steps)] for k in range(t))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for name, options in FILES.items():
        write(folder / name, **options)
    return folder


def plain(path):
    """All frames, in the order in which the decoder gives them out, up to the first error: uint8 (n, H, W, 3)."""
    frames = []
    with av.open(str(path), metadata_errors="replace") as container:
        container.streams.video[0].thread_type = "NONE"
        try:
            for frame in container.decode(video=0):
                frames.append(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90))
        except av.FFmpegError:
            pass
    return np.stack(frames)


def index_sets(n, count, seed=0):
    """Dense clips, segments, single frames near the end, any order with repeats, past the end."""
    rng = np.random.default_rng(seed)
    for k in range(count):
        yield [
            rng.integers(n) + 2 * np.arange(16),
            np.sort(rng.integers(n, size=3)),
            n - 1 - rng.integers(min(n, 6), size=1),
            rng.integers(2 * n, size=8),
            rng.integers(n) + rng.integers(1, 9) * np.arange(8),
        ][k % 5]


def check(path, count=25):
    truth = plain(path)
    assert num_frames(path) == len(truth)
    for indices in index_sets(len(truth), count):
        clip = read_clip(path, indices)
        assert clip.dtype == torch.uint8 and clip.shape == (len(indices), *truth.shape[1:])
        assert np.array_equal(clip.numpy(), truth[indices % len(truth)]), indices


@pytest.mark.parametrize("name", FILES)
def test_equals_full_decode(folder, name):
    check(folder / name)


def real_files():
    """One of each kind of the real clips: every torchcodec file, two of every other folder, twelve of real/."""
    videos = SHARED / "assets" / "videos"
    found = [p for p in sorted(videos.rglob("*")) if p.suffix in (".avi", ".mp4", ".mov", ".mkv", ".webm", ".gif")]
    groups = {}
    for path in found:
        if path.stat().st_size < 600_000:
            groups.setdefault(path.relative_to(videos).parts[0] + path.suffix, []).append(path)
    few = [p for name, group in groups.items() for p in (group if name.startswith("torchcodec") else group[:2])]
    return few + sorted((SHARED / "real").rglob("*.mp4"))[::180]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real clips are not here")
@pytest.mark.parametrize("path", real_files(), ids=lambda path: path.name[:40])
def test_real_clip_equals_full_decode(path):
    check(path, 5)


def test_fast_ways_are_taken(folder):
    """Not only right: MP4, MKV and WebM are indexed without decoding, and decoding starts near the wanted frame."""
    for name in ("gops.mp4", "gops.mkv", "late.mp4", "vfr.mp4", "hevc.mp4", "vp9.webm"):
        order, start, seek = _index(*_key(folder / name), False)
        assert seek and (np.arange(50) - start <= 24).all(), name
    # a picture that refers to frames before the nearest "key frame" needs an earlier one
    for name in ("opengop.mp4", "refresh.mp4"):
        assert not _index(*_key(folder / name), False)[1].any(), name


def test_rotation(folder, tmp_path):
    """A display matrix in the header turns the frames; a quarter turn swaps height and width."""
    data = (folder / "gops.mp4").read_bytes()
    unit, zero, one = (1 << 30).to_bytes(4, "big"), bytes(4), (1 << 16).to_bytes(4, "big")
    identity = one + zero * 3 + one + zero * 3 + unit
    at = data.index(identity, data.index(b"tkhd"))
    minus = (-(1 << 16) & 0xFFFFFFFF).to_bytes(4, "big")
    quarter = zero + one + zero + minus + zero * 4 + unit  # 90 degrees clockwise
    path = tmp_path / "rotated.mp4"
    path.write_bytes(data[:at] + quarter + data[at + 36 :])
    check(path)
    upright = read_clip(folder / "gops.mp4", [3, 30])
    assert torch.equal(read_clip(path, [3, 30]), upright.rot90(-1, (1, 2)))


@pytest.mark.parametrize("name", ["gops.mkv", "bframes.avi", "vp9.webm", "fast.mp4"])
def test_file_that_ends_early(folder, tmp_path, name):
    if name == "fast.mp4":  # an MP4 whose header comes first
        with av.open(str(folder / "gops.mp4")) as source, av.open(
            str(folder / name), "w", options={"movflags": "faststart"}
        ) as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux(packet)
    data = (folder / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: len(data) * 6 // 10])
    assert 10 < num_frames(path) < 45
    check(path)


def test_damage_inside(folder, tmp_path):
    """Bits damaged inside an MP4 are seen in no header; what is read is still that of the plain decoding."""
    data = bytearray((folder / "gops.mp4").read_bytes())
    start = data.index(b"mdat")
    middle = start + (len(data) - start) // 3
    for i in np.random.default_rng(0).integers(middle, middle + 300, 40):
        data[i] ^= 0x55
    path = tmp_path / "damaged.mp4"
    path.write_bytes(bytes(data))
    truth = plain(path)
    assert not np.array_equal(truth, plain(folder / "gops.mp4"))
    everything = np.arange(50)
    assert np.array_equal(read_clip(path, everything).numpy(), truth[everything % len(truth)])


def test_a_file_written_anew_is_read_anew(tmp_path):
    path = write(tmp_path / "a.mp4", frames=9, **H264)
    assert num_frames(path) == 9
    write(path, frames=13, **H264)
    assert num_frames(path) == 13
    check(path)


def save(path, image):
    av.VideoFrame.from_ndarray(image, "rgb24").save(str(path))


def test_frame_folder_and_image(tmp_path):
    grey = 20 * np.arange(12, dtype=np.uint8)[:, None, None, None] * np.ones((6, 8, 3), np.uint8)
    folder = tmp_path / "12:30 [a] #%d"  # a colon is no protocol, %d no sequence
    folder.mkdir()
    for i, image in enumerate(grey):
        save(folder / f"img_{i}.png", image)  # img_10 comes after img_9
    (folder / "notes.txt").write_text("no image")
    assert num_frames(folder) == 12
    assert np.array_equal(read_clip(folder, [11, 0, 2, 2, 13]).numpy(), grey[[11, 0, 2, 2, 1]])
    assert num_frames(folder / "img_3.png") == 1
    assert np.array_equal(read_clip(folder / "img_3.png", range(4)).numpy(), grey[[3] * 4])


def fails(call, *words):
    with pytest.raises(UserError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_errors_say_what_where_and_what_to_do(folder, tmp_path):
    def both(path, *words):
        fails(lambda: num_frames(path), str(path), "leave it out", *words)
        fails(lambda: read_clip(path, [0, 1]), str(path), "leave it out", *words)

    both(tmp_path / "none.mp4", "No such file")
    both(tmp_path / "none.png", "No such file")
    both(tmp_path, "no image")
    for name, data in {"empty.mp4": b"", "noise.avi": bytes(range(256)) * 20}.items():
        (tmp_path / name).write_bytes(data)
        both(tmp_path / name, "Invalid data")
    (tmp_path / "cut.mp4").write_bytes((folder / "gops.mp4").read_bytes()[:3000])  # its header was at the end
    both(tmp_path / "cut.mp4", "Invalid data")
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    both(tmp_path / "sound.wav", "no video stream")
    (tmp_path / "bad.png").write_bytes(b"no image")
    fails(lambda: read_clip(tmp_path / "bad.png", [0]), "bad.png", "leave it out")
    sizes = tmp_path / "sizes"
    sizes.mkdir()
    for i in (4, 5):
        save(sizes / f"{i}.jpg", np.zeros((8 * i, 16, 3), np.uint8))
    fails(lambda: read_clip(sizes, [0, 1]), str(sizes), "size")
