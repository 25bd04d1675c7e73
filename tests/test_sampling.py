"""Frame indices of the five samplers: against plain loops, and at the edges (n = 1, short, exact fit)."""

from fractions import Fraction

import numpy as np
import pytest

from common import centre_clip, random_clip, sliding_windows, tsn_segments, uniform_clips

LENGTHS = [1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 48, 63, 64, 100, 257]
CLIPS = [(1, 1), (3, 1), (8, 8), (16, 1), (32, 2), (8, 3)]  # (frames, stride)


def everything(n):
    """Every sampler's output for a video of n frames."""
    rng = np.random.default_rng(n)
    for frames, stride in CLIPS:
        yield random_clip(n, frames, stride, rng), (frames,)
        yield centre_clip(n, frames, stride), (frames,)
        yield uniform_clips(n, frames, stride, 10), (10, frames)
        windows = sliding_windows(n, frames, stride, max(1, frames // 2))
        yield windows, (len(windows), frames)
    for segments in (1, 3, 25):
        yield tsn_segments(n, segments), (segments,)
        yield tsn_segments(n, segments, rng), (segments,)


@pytest.mark.parametrize("n", LENGTHS)
def test_shape_dtype_and_range(n):
    for indices, shape in everything(n):
        assert indices.dtype == np.int64 and indices.shape == shape
        assert indices.min() >= 0 and indices.max() < n


def test_one_frame_is_repeated():
    assert all((indices == 0).all() for indices, _ in everything(1))


def test_random_clip_draws_every_start_alike_and_nothing_else():
    rng = np.random.default_rng(0)
    clips = np.stack([random_clip(10, 4, 2, rng) for _ in range(4000)])
    assert (np.diff(clips, axis=1) == 2).all()
    starts, counts = np.unique(clips[:, 0], return_counts=True)
    assert starts.tolist() == [0, 1, 2, 3]  # the clip spans 7 frames, the last start ends on frame 9
    assert abs(counts - 1000).max() < 120  # standard deviation 27


def test_random_clip_is_a_function_of_the_generator():
    a, b = (random_clip(300, 8, 2, np.random.default_rng(5)) for _ in range(2))
    assert (a == b).all()
    assert len({int(random_clip(300, 8, 2, np.random.default_rng(seed))[0]) for seed in range(20)}) > 10


def test_a_clip_that_fits_exactly_has_one_place():
    whole = np.arange(0, 15, 2)  # 8 frames of stride 2 span 15
    assert (random_clip(15, 8, 2, np.random.default_rng(0)) == whole).all()
    assert (centre_clip(15, 8, 2) == whole).all()
    assert (uniform_clips(15, 8, 2, 3) == whole).all()
    assert (sliding_windows(15, 8, 2, 5) == whole[None]).all()


@pytest.mark.parametrize("n", [1, 3, 5, 14])
def test_short_videos_loop(n):
    looped = [(2 * t) % n for t in range(8)]  # the clip spans 15 frames
    assert random_clip(n, 8, 2, np.random.default_rng(0)).tolist() == looped
    assert centre_clip(n, 8, 2).tolist() == looped
    assert uniform_clips(n, 8, 2, 4).tolist() == [looped] * 4


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("frames,stride", CLIPS)
def test_centre_clip_leaves_the_same_on_both_sides(n, frames, stride):
    clip = centre_clip(n, frames, stride)
    if n >= (frames - 1) * stride + 1:
        assert 0 <= (n - 1 - clip[-1]) - clip[0] <= 1
    assert (uniform_clips(n, frames, stride, 1) == clip[None]).all()


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("clips", [2, 3, 10])
def test_uniform_clips_are_mmaction2s(n, clips):
    """Starts round(i * room / (clips - 1)), half to even: mmaction2's SampleFrames at test, clip_len > 1."""
    room = max(n - 15, 0)  # 8 frames of stride 2
    starts = [round(Fraction(i * room, clips - 1)) for i in range(clips)]
    expected = [[(start + 2 * t) % n for t in range(8)] for start in starts]
    assert uniform_clips(n, 8, 2, clips).tolist() == expected
    assert starts[0] == 0 and starts[-1] == room


def windows_by_hand(n, frames, stride, step):
    out, start = [], 0
    while True:
        inside = [i for i in range(start, start + frames * stride, stride) if i < n]
        out.append([inside[t % len(inside)] for t in range(frames)])
        if start + (frames - 1) * stride >= n - 1:
            return out
        start += step


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize(
    "frames,stride,step", [(16, 1, 16), (32, 1, 16), (8, 2, 4), (8, 2, 15), (4, 3, 1), (1, 1, 1)]
)
def test_sliding_windows_by_hand(n, frames, stride, step):
    windows = sliding_windows(n, frames, stride, step)
    assert windows.tolist() == windows_by_hand(n, frames, stride, step)
    if stride == 1:
        assert set(windows.ravel()) == set(range(n))  # every frame is seen


def test_sliding_windows_of_the_papers():
    sdn = sliding_windows(40, 16, 1, 16)  # 16 + 16 + 8 frames; the 8 are repeated
    assert sdn.tolist() == [[*range(16)], [*range(16, 32)], [*range(32, 40)] * 2]
    assert len(sliding_windows(16, 16, 1, 16)) == 1 and len(sliding_windows(17, 16, 1, 16)) == 2
    assert sliding_windows(17, 16, 1, 16)[1].tolist() == [16] * 16
    assert [window[0] for window in sliding_windows(96, 32, 1, 16)] == [0, 16, 32, 48, 64]  # Hara et al.


def test_sliding_windows_with_gaps_stay_inside():
    assert sliding_windows(20, 16, 1, 32).tolist() == [[*range(16)]]  # a window at 32 would hold nothing
    assert sliding_windows(40, 16, 1, 32)[:, 0].tolist() == [0, 32]


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("segments", [1, 3, 8, 25])
def test_tsn_centres_are_mmaction2s(n, segments):
    """int(i * n / segments + n / segments / 2), exactly: mmaction2's SampleFrames at test, clip_len = 1."""
    expected = [int(Fraction(i * n, segments) + Fraction(n, 2 * segments)) for i in range(segments)]
    assert tsn_segments(n, segments).tolist() == expected


@pytest.mark.parametrize("n,segments", [(1, 3), (2, 3), (3, 3), (7, 3), (10, 3), (16, 8), (30, 25)])
def test_tsn_random_covers_each_part_and_no_other(n, segments):
    rng = np.random.default_rng(0)
    draws = np.stack([tsn_segments(n, segments, rng) for _ in range(800)])
    assert (np.diff(draws, axis=1) >= 0).all()  # in order of time
    for i in range(segments):
        low, high = i * n // segments, (i + 1) * n // segments
        assert set(draws[:, i]) == set(range(low, max(high, low + 1)))
    if n >= segments:
        assert set(draws.ravel()) == set(range(n))  # also where n / segments is not whole
