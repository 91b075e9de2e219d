#!/usr/bin/env bash
# A video of a phone lies on its side in PyAV and in one of imageio's two plugins; OpenCV and supervision turn it.
#
# Versions: Python 3.11, av 18.1.0, opencv-python-headless 5.0.0.93, imageio 2.38.1, imageio-ffmpeg 0.8.1, supervision 0.31.2.
#
# Guess before the run: all packages return frames as players show them, since all of them use FFmpeg.
#
# Behavior: phones write the pixels as the sensor gives them, and a matrix that turns them. PyAV returns the stored pixels
# (64 x 32) and the angle as frame.rotation. OpenCV turns them (32 x 64), and so does supervision, which uses it.
# imageio.v3.imread returns one or the other by the plugin that is installed: pyav does not turn, FFMPEG does.
#
# Who meets it: whoever takes frames for labeling with one package and predicts with another, or installs the other
# plugin of imageio: objects lie on their side, boxes belong to another picture, and only the shape of the frame tells.
#
# Output seen on 2026-11-29: the lines between "expected" below.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check av==18.1.0 opencv-python-headless==5.0.0.93 \
    imageio==2.38.1 imageio-ffmpeg==0.8.1 supervision==0.31.2

cat > frames.py <<'PYTHON'
import av
import cv2
import imageio.v3 as imageio
import numpy as np
import supervision

WIDTH, HEIGHT = 64, 32


def write(path):
    """Gray frames with a black left quarter, and the matrix that turns them by 90 degrees clockwise."""
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for _ in range(5):
            pixels = np.full((HEIGHT, WIDTH, 3), 180, np.uint8)
            pixels[:, : WIDTH // 4] = 0
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    with open(path, "rb") as file:
        content = file.read()
    place = content.index(b"tkhd") + 44
    matrix = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]
    numbers = b"".join(number.to_bytes(4, "big", signed=True) for number in matrix)
    with open(path, "wb") as file:
        file.write(content[:place] + numbers + content[place + 36 :])


def show(name, frame):
    height, width = frame.shape[:2]
    left, top = frame[:, : width // 5].mean() < 40, frame[: height // 5].mean() < 40
    print(f"{name}: {width} x {height}, black {'on the left' if left else 'at the top' if top else 'elsewhere'}")


write("phone.mp4")
with av.open("phone.mp4") as container:
    frame = next(container.decode(video=0))
    show("PyAV", frame.to_ndarray(format="rgb24"))
    print("  frame.rotation:", frame.rotation)
show("OpenCV", cv2.VideoCapture("phone.mp4").read()[1])
show("supervision", next(supervision.get_video_frames_generator("phone.mp4")))
show("imageio, plugin pyav", imageio.imread("phone.mp4", index=0, plugin="pyav"))
show("imageio, plugin FFMPEG", imageio.imread("phone.mp4", index=0, plugin="FFMPEG"))
PYTHON

cat > expected <<'TEXT'
PyAV: 64 x 32, black on the left
  frame.rotation: -90
OpenCV: 32 x 64, black at the top
supervision: 32 x 64, black at the top
imageio, plugin pyav: 64 x 32, black on the left
imageio, plugin FFMPEG: 32 x 64, black at the top
TEXT

venv/bin/python -W ignore frames.py 2> errors > actual || { cat errors; exit 1; }
cat actual
diff expected actual > /dev/null || { echo "The behavior has changed. Expected:"; cat expected; exit 1; }
