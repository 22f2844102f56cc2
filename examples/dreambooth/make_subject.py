#!/usr/bin/env python3
"""Draws the five pictures of the subject, a violet cat with a star: make_subject.py subject

Needs Pillow. The pictures are dedicated to the public domain (CC0).
"""
import math
import os
import sys

from PIL import Image, ImageDraw

SIDE, SCALE = 64, 8
VIOLET, DARK, LIGHT = (124, 77, 190), (74, 40, 130), (190, 160, 235)
STAR, NOSE = (255, 200, 40), (255, 130, 150)
# centre, radius, whether the eyes are open, whether the mouth is
POSES = [((32, 36), 22, True, False), ((30, 37), 20, False, False), ((34, 35), 21, True, True),
         ((32, 38), 18, True, False), ((33, 36), 22, False, True)]


def polygon(draw, points, fill):
    draw.polygon([(x * SCALE, y * SCALE) for x, y in points], fill=fill)


def ellipse(draw, x, y, rx, ry, fill):
    box = [x - rx, y - ry, x + rx, y + ry]
    draw.ellipse([side * SCALE for side in box], fill=fill)


def star(draw, x, y, radius):
    points = []
    for i in range(10):
        r = radius if i % 2 == 0 else radius * 0.42
        angle = math.pi * i / 5 - math.pi / 2
        points.append((x + r * math.cos(angle), y + r * math.sin(angle)))
    polygon(draw, points, STAR)


def ears(draw, x, y, r):
    for side in (-1, 1):
        polygon(draw, [(x + side * r * 0.95, y - r * 0.2), (x + side * r * 0.85, y - r * 1.25),
                       (x + side * r * 0.2, y - r * 0.8)], VIOLET)
        polygon(draw, [(x + side * r * 0.82, y - r * 0.45), (x + side * r * 0.77, y - r * 1.0),
                       (x + side * r * 0.4, y - r * 0.75)], LIGHT)


def face(draw, x, y, r, eyes, mouth):
    ellipse(draw, x, y, r, r * 0.88, VIOLET)
    ellipse(draw, x, y + r * 0.4, r * 0.5, r * 0.38, LIGHT)
    for side in (-1, 1):
        high = r * (0.2 if eyes else 0.05)
        ellipse(draw, x + side * r * 0.42, y - r * 0.05, r * 0.13, high, DARK)
    ellipse(draw, x, y + r * 0.25, r * 0.12, r * 0.09, NOSE)
    ellipse(draw, x, y + r * 0.52, r * 0.18, r * (0.14 if mouth else 0.04), DARK)
    star(draw, x, y - r * 0.5, r * 0.3)


def main():
    os.makedirs(sys.argv[1], exist_ok=True)
    for i, ((x, y), r, eyes, mouth) in enumerate(POSES):
        picture = Image.new("RGB", (SIDE * SCALE, SIDE * SCALE), "white")
        draw = ImageDraw.Draw(picture)
        ears(draw, x, y, r)
        face(draw, x, y, r, eyes, mouth)
        picture.resize((SIDE, SIDE), Image.LANCZOS).save(os.path.join(sys.argv[1], f"{i + 1}.png"))


main()
