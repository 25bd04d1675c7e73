"""Frame indices of the samplers: against plain arithmetic, and at the edges (n = 1, short videos, a
clip that fits exactly)."""

from fractions import Fraction

import numpy as np
import pytest

from common import centre_clip, evenly, random_clip, tsn_segments, uniform_clips

LENGTHS = [1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 48, 63, 64, 100, 257]
CLIPS = [(1, 1), (3, 1), (8, 8), (16, 1), (32, 2), (8, 3)]  # (frames, stride)


@pytest.mark.parametrize("n", LENGTHS)
def test_shape_dtype_and_range(n):
    rng = np.random.default_rng(n)
    samples = []
    for frames, stride in CLIPS:
        samples.append((random_clip(n, frames, stride, rng), (frames,)))
        samples.append((centre_clip(n, frames, stride), (frames,)))
        samples.append((uniform_clips(n, frames, stride, 10), (10, frames)))
    for segments in (1, 3, 25):
        samples.append((tsn_segments(n, segments), (segments,)))
        samples.append((tsn_segments(n, segments, rng), (segments,)))
    for indices, shape in samples:
        assert indices.dtype == np.int64
        assert indices.shape == shape
        assert indices.min() >= 0
        assert indices.max() < n


def test_random_clip_draws_every_start_alike_and_nothing_else():
    rng = np.random.default_rng(0)
    clips = np.stack([random_clip(10, 4, 2, rng) for _ in range(4000)])
    assert (np.diff(clips, axis=1) == 2).all()
    starts, counts = np.unique(clips[:, 0], return_counts=True)
    # The clip spans 7 frames: the last start ends on frame 9.
    assert starts.tolist() == [0, 1, 2, 3]
    assert abs(counts - 1000).max() < 120  # the standard deviation is 27


def test_a_clip_that_fits_exactly_has_one_place():
    whole = np.arange(0, 15, 2)  # 8 frames of stride 2 span 15
    assert (random_clip(15, 8, 2, np.random.default_rng(0)) == whole).all()
    assert (centre_clip(15, 8, 2) == whole).all()
    assert (uniform_clips(15, 8, 2, 3) == whole).all()


@pytest.mark.parametrize("n", [1, 3, 5, 14])
def test_short_videos_loop(n):
    looped = [(2 * t) % n for t in range(8)]
    assert random_clip(n, 8, 2, np.random.default_rng(0)).tolist() == looped
    assert centre_clip(n, 8, 2).tolist() == looped
    assert uniform_clips(n, 8, 2, 4).tolist() == [looped] * 4


@pytest.mark.parametrize("frames, stride", CLIPS)
def test_centre_clip_leaves_the_same_on_both_sides(frames, stride):
    for n in range((frames - 1) * stride + 1, 258):
        clip = centre_clip(n, frames, stride)
        assert 0 <= (n - 1 - clip[-1]) - clip[0] <= 1
        assert (uniform_clips(n, frames, stride, 1) == clip[None]).all()


@pytest.mark.parametrize("clips", [2, 3, 10])
def test_uniform_clips_are_mmaction2s(clips):
    """Starts round(i * room / (clips - 1)), half to even: SampleFrames at test, clip_len > 1."""
    for n in LENGTHS:
        room = max(n - 15, 0)  # 8 frames of stride 2
        starts = [round(Fraction(i * room, clips - 1)) for i in range(clips)]
        expected = [[(start + 2 * t) % n for t in range(8)] for start in starts]
        assert uniform_clips(n, 8, 2, clips).tolist() == expected


@pytest.mark.parametrize("segments", [1, 3, 8, 25])
def test_tsn_middles_are_mmaction2s(segments):
    """int(i * n / segments + n / segments / 2), exactly: SampleFrames at test, clip_len = 1."""
    for n in LENGTHS:
        middles = [Fraction(i * n, segments) + Fraction(n, 2 * segments) for i in range(segments)]
        expected = [int(middle) for middle in middles]
        assert tsn_segments(n, segments).tolist() == expected
        assert evenly(n, segments, np.random.default_rng(0)).tolist() == expected


@pytest.mark.parametrize(
    "n, segments", [(1, 3), (2, 3), (3, 3), (7, 3), (10, 3), (16, 8), (30, 25)]
)
def test_tsn_random_covers_each_part_and_no_other(n, segments):
    rng = np.random.default_rng(0)
    draws = np.stack([tsn_segments(n, segments, rng) for _ in range(800)])
    assert (np.diff(draws, axis=1) >= 0).all()  # in order of time
    for i in range(segments):
        low = i * n // segments
        high = (i + 1) * n // segments
        assert set(draws[:, i]) == set(range(low, max(high, low + 1)))
    # Every frame has its turn, also where n / segments is not whole.
    if n >= segments:
        assert set(draws.ravel()) == set(range(n))
