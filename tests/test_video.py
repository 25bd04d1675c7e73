"""num_frames and read_clip against a plain decoding of the whole file by PyAV, on files made here
and on real ones (skipped where ../shared is absent)."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from common import UserError, _decode, _index, _key, num_frames, read_clip

SHARED = Path(__file__).resolve().parents[2] / "shared"


def x264(params="b-pyramid=normal:scenecut=0", **options):
    """H.264 in groups of 12 pictures, with B-frames that others refer to."""
    # One thread: with several, the bytes that a test damages differ from time to time.
    fixed = {"codec": "libx264", "g": "12", "bf": "3", "threads": "1", "x264-params": params}
    return fixed | options


VP8 = {"codec": "libvpx", "g": "12", "auto-alt-ref": "1", "lag-in-frames": "8", "cpu-used": "8"}
VP9 = {"codec": "libvpx-vp9", "g": "12", "lag-in-frames": "8", "cpu-used": "8"}
HEVC = {"codec": "libx265", "x265-params": "keyint=12:open-gop=1:bframes=4:log-level=none"}
FILES = {
    "gops.mp4": x264(),
    "gops.mkv": x264(),  # no frame count in the header
    "fast.mp4": x264(),  # its header comes first
    "late.mp4": x264(first=900),  # does not start at time 0
    "trimmed.mp4": x264(first=-10),  # an edit list leaves out the first ten
    "vfr.mp4": x264(steps=(1, 2, 7)),  # variable frame rate
    "opengop.mp4": x264("open-gop=1:scenecut=0"),
    "refresh.mp4": x264("intra-refresh=1"),
    "odd444.mp4": x264(size=(61, 45), pix_fmt="yuv444p"),
    "10bit.mp4": x264(pix_fmt="yuv420p10le"),
    "single_gop.mov": dict(codec="libx264", g="999", bf="2"),
    "intra.mp4": dict(codec="libx264", g="1"),
    "hevc.mp4": HEVC,
    "vp9.webm": dict(VP9, size=(61, 45)),
    "vp8.webm": VP8,
    "bframes.avi": dict(codec="mpeg4", g="12", bf="2"),  # an AVI has no presentation times
    "h264.avi": x264(),
    "mpeg2.mpg": dict(codec="mpeg2video", g="12", bf="2", size=(80, 48)),
    "still.mp4": x264(frames=1),
}


def write(path, codec, frames=50, size=(64, 48), pix_fmt="yuv420p", first=0, steps=(1,), **options):
    """A moving texture; `steps` are the durations of the frames, in turn."""
    rng = np.random.default_rng(0)
    texture = np.kron(rng.integers(0, 255, (40, 40, 3)), np.ones((6, 6, 1))).astype(np.uint8)
    width, height = size
    muxer_options = {}
    if path.name == "fast.mp4":
        muxer_options = {"movflags": "faststart"}
    with av.open(str(path), "w", options=muxer_options) as file:
        stream = file.add_stream(codec, rate=25, options=options)
        stream.width = width
        stream.height = height
        stream.pix_fmt = pix_fmt
        time = first
        for t in range(frames):
            image = texture[2 * t : 2 * t + height, 3 * t % 160 :][:, :width].copy()
            image[:8, :8] = 5 * t  # no two frames are the same
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts = time
            time += steps[t % len(steps)]
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for name, options in FILES.items():
        write(folder / name, **options)
    return folder


def decode_all(path):
    """All frames in the order in which the decoder gives them, up to the first error: uint8
    (n, H, W, 3)"""
    frames = []
    with av.open(str(path), metadata_errors="replace") as file:
        file.streams.video[0].thread_type = "NONE"
        try:
            for frame in file.decode(video=0):
                frames.append(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90))
        except av.FFmpegError:
            pass
    return np.stack(frames)


def check(path, rounds=3):
    """Both functions agree with a plain decoding: for dense clips, segments, single frames near the
    end, any order with repeats, indices past the end. -> number of frames"""
    truth = decode_all(path)
    n = len(truth)
    assert num_frames(path) == n
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        for indices in (
            rng.integers(n) + 2 * np.arange(16),
            np.sort(rng.integers(n, size=3)),
            n - 1 - rng.integers(min(n, 6), size=1),
            rng.integers(2 * n, size=8),
            rng.integers(n) + rng.integers(1, 9) * np.arange(8),
        ):
            clip = read_clip(path, indices)
            assert clip.dtype == torch.uint8
            assert np.array_equal(clip.numpy(), truth[indices % n]), indices
    return n


@pytest.mark.parametrize("name", FILES)
def test_equals_full_decode(folder, name):
    assert check(folder / name) == {"still.mp4": 1, "trimmed.mp4": 40}.get(name, 50)


def real_files():
    """Of the real clips one a folder and format; of torchcodec's, which are the hard ones, all."""
    videos = SHARED / "assets" / "videos"
    chosen = {}
    for path in sorted(videos.rglob("*")):
        if path.suffix not in (".avi", ".mp4", ".mov", ".mkv", ".webm", ".gif"):
            continue
        kind = path.relative_to(videos).parts[0] + path.suffix
        if kind.startswith("torchcodec"):
            kind = path.name
        if path.stat().st_size < 300_000:
            chosen[kind] = path
    return [*chosen.values(), *sorted((SHARED / "real").rglob("*.mp4"))[::360]]


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real clips here")
@pytest.mark.parametrize("path", real_files(), ids=lambda path: path.name[:40])
def test_real_clip_equals_full_decode(path):
    check(path, 1)


@pytest.mark.parametrize("name", FILES)
def test_fast_ways_are_taken(folder, name):
    """MP4, MKV and WebM are indexed without decoding, and decoding starts near the wanted frame. No
    sound file is decoded twice."""
    index = _index(*_key(folder / name), False)
    n = len(index.packet)
    if name in ("gops.mp4", "gops.mkv", "late.mp4", "vfr.mp4", "hevc.mp4", "vp9.webm"):
        assert index.seek
        assert (np.arange(n) - index.start <= 24).all()
    # A picture that refers to frames before the nearest "key frame" needs an earlier one.
    if name in ("opengop.mp4", "refresh.mp4"):
        assert not index.start.any()
    assert _decode(folder / name, index, {n // 20, n // 2, n - 1}) is not None


def test_rotation(folder, tmp_path):
    """A display matrix in the header turns the frames; a quarter turn swaps height and width."""

    def matrix(a, b, c, d):
        numbers = (a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
        return b"".join(number.to_bytes(4, "big", signed=True) for number in numbers)

    data = (folder / "gops.mp4").read_bytes()
    position = data.index(matrix(1, 0, 0, 1), data.index(b"tkhd"))
    clockwise = matrix(0, 1, -1, 0)
    path = tmp_path / "rotated.mp4"
    path.write_bytes(data[:position] + clockwise + data[position + len(clockwise) :])
    check(path)
    upright = read_clip(folder / "gops.mp4", [3, 30])
    assert torch.equal(read_clip(path, [3, 30]), upright.rot90(-1, (1, 2)))


@pytest.mark.parametrize("name", ["gops.mkv", "bframes.avi", "vp9.webm", "fast.mp4"])
def test_file_that_ends_early(folder, tmp_path, name):
    data = (folder / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: len(data) * 6 // 10])
    assert 10 < check(path) < 45


def test_damage_inside(folder, tmp_path):
    """No header shows damage inside an MP4: what is read is still that of a plain decoding."""
    data = (folder / "gops.mp4").read_bytes()
    start = data.index(b"mdat")
    path = tmp_path / "damaged.mp4"
    whole = decode_all(folder / "gops.mp4")

    def damage(place):
        damaged = bytearray(data)
        for i in np.random.default_rng(0).integers(place, place + 300, 40):
            damaged[i] ^= 0x55
        path.write_bytes(damaged)

    # Here the decoder goes on, with wrong pictures.
    damage(start + (len(data) - start) // 2)
    assert check(path) == 50
    assert not np.array_equal(decode_all(path), whole)
    # Here it may give up, which shows when one reads so far: then the frames before that loop.
    damage(start + (len(data) - start) // 3)
    truth = decode_all(path)
    assert not np.array_equal(truth, whole)
    indices = np.arange(50)
    assert np.array_equal(read_clip(path, indices).numpy(), truth[indices % len(truth)])


def test_a_file_written_anew_is_read_anew(tmp_path):
    for frames in (9, 13):
        write(tmp_path / "a.mp4", frames=frames, **x264())
        assert check(tmp_path / "a.mp4", 1) == frames


def save(path, image):
    av.VideoFrame.from_ndarray(image, "rgb24").save(str(path))


def test_folder_of_frames_and_image(tmp_path, monkeypatch):
    grey = 20 * np.arange(12, dtype=np.uint8)[:, None, None, None] * np.ones((6, 8, 3), np.uint8)
    folder = tmp_path / "12:30 [a] #%d"  # a colon is no protocol, %d no sequence
    folder.mkdir()
    for i, image in enumerate(grey):
        save(folder / f"img_{i}.png", image)  # img_10 comes after img_9
    (folder / "notes.txt").write_text("no image")
    monkeypatch.chdir(tmp_path)
    folder = Path(folder.name)
    assert num_frames(folder) == 12
    assert np.array_equal(read_clip(folder, [11, 0, 2, 2, 13]).numpy(), grey[[11, 0, 2, 2, 1]])
    assert num_frames(folder / "img_3.png") == 1
    assert np.array_equal(read_clip(folder / "img_3.png", range(4)).numpy(), grey[[3] * 4])


def refused(function, reason, path, *indices):
    """A UserError in one line: what, where, what to do."""
    with pytest.raises(UserError) as caught:
        function(path, *indices)
    message = str(caught.value)
    assert message.startswith(f"cannot read {path}: ")
    assert message.endswith("; replace it, or leave it out of the list")
    assert reason in message
    assert "\n" not in message


def test_what_is_no_video(folder, tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "noise.avi").write_bytes(bytes(range(256)) * 20)
    # Its header was at the end.
    (tmp_path / "cut.mp4").write_bytes((folder / "gops.mp4").read_bytes()[:3000])
    with av.open(str(tmp_path / "sound.wav"), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        sound.sample_rate = 8000
        file.mux(stream.encode(sound))
        file.mux(stream.encode())
    (tmp_path / "folder").mkdir()
    for name, reason in (
        ("none.mp4", "No such file"),
        ("none.png", "No such file"),
        ("folder", "no image"),
        ("empty.mp4", "Invalid data"),
        ("noise.avi", "Invalid data"),
        ("cut.mp4", "Invalid data"),
        ("sound.wav", "no video stream"),
    ):
        refused(num_frames, reason, tmp_path / name)
        refused(read_clip, reason, tmp_path / name, [0, 1])


def test_images_that_cannot_be_a_clip(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    refused(read_clip, "", tmp_path / "bad.png", [0])
    sizes = tmp_path / "sizes"
    sizes.mkdir()
    for i in (4, 5):
        save(sizes / f"{i}.jpg", np.zeros((8 * i, 16, 3), np.uint8))
    refused(read_clip, "its images differ in size", sizes, [0, 1])
