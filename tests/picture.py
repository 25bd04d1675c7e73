"""Draws the README's picture of the embedded benchmark: python tests/picture.py [FILE]

Six frames a row of one test clip: as it is; the same actor over another background (SCUBA); one frame of that held
still (SCUFO); and with a second actor, of another action, standing behind it (Confl-FG). The actor of this clip moves
down and looks as those that turn anticlockwise usually do.
"""

import sys
from pathlib import Path

import av
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import common  # noqa: E402

CLIP, FRAMES, ZOOM, GUTTER = 249, slice(1, 12, 2), 3, 4                   # its number in the list `test`; pixels


def row(frames):
    """(n, H, W, 3) -> side by side, enlarged by nearest neighbour, with a white gutter to the left of and above each"""
    large, edge = frames.repeat(ZOOM, 1).repeat(ZOOM, 2), ((0, 0), (GUTTER, 0), (GUTTER, 0), (0, 0))
    return np.concatenate(np.pad(large, edge, constant_values=255), 1)


def main(file=ROOT / ".github" / "embedded.png"):
    truth = common.toy_truth(0, "test")
    test, scuba, conflict = (common.toy_clip(0, split, CLIP, truth)[0][FRAMES]
                             for split in ("test", "scuba-texture", "conflfg"))
    still = scuba[len(scuba) // 2:][:1].repeat(len(scuba), 0)
    image = np.concatenate([row(frames) for frames in (test, scuba, still, conflict)])
    image = np.pad(image, ((0, GUTTER), (0, GUTTER), (0, 0)), constant_values=255)
    Path(file).parent.mkdir(exist_ok=True)
    av.VideoFrame.from_ndarray(image, "rgb24").save(str(file))


if __name__ == "__main__":
    main(*sys.argv[1:])
