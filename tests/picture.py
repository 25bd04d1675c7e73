"""Draws the README's picture of the embedded data set: python tests/picture.py [FILE]

Six frames a row of one test clip: as it is; the same actor over another background (SCUBA); one
frame of that held still (SCUFO); and with a second actor, of another action, standing behind it
(Confl-FG). The actor of this clip moves down and looks as those that turn anticlockwise usually do.
"""

import sys
from pathlib import Path

import av
import numpy as np
import toy

ROOT = Path(__file__).resolve().parents[1]
CLIP = 249  # its number in the list `test`
FRAMES = slice(1, 12, 2)
ZOOM = 3
GUTTER = 4  # pixels


def draw_row(frames):
    """(n, H, W, 3) -> side by side, enlarged by nearest neighbour, with a white gutter to the left
    of and above each"""
    large = frames.repeat(ZOOM, 1).repeat(ZOOM, 2)
    edges = ((0, 0), (GUTTER, 0), (GUTTER, 0), (0, 0))
    return np.concatenate(np.pad(large, edges, constant_values=255), 1)


def draw_frames(split):
    frames, _ = toy.draw_clip(0, split, CLIP, toy.split_truth(0, split))
    return frames[FRAMES]


def main(file=ROOT / ".github" / "embedded.png"):
    scuba = draw_frames("scuba-texture")
    middle = len(scuba) // 2
    scufo = scuba[middle : middle + 1].repeat(len(scuba), 0)
    rows = [draw_frames("test"), scuba, scufo, draw_frames("conflfg")]
    image = np.concatenate([draw_row(frames) for frames in rows])
    image = np.pad(image, ((0, GUTTER), (0, GUTTER), (0, 0)), constant_values=255)
    Path(file).parent.mkdir(exist_ok=True)
    av.VideoFrame.from_ndarray(image, "rgb24").save(str(file))


if __name__ == "__main__":
    main(*sys.argv[1:])
