"""Makes the image fixtures of tests/io with Pillow, and what Pillow reads from them.

    python tests/io/make_images.py tests/io/data

images/ gets the files; images.safetensors gets, for each file that is to be read, a tensor of its
name with the pixels of ImageOps.exif_transpose(Image.open(file)).convert("RGB"), and the results of
Image.resize(size, LANCZOS) as resize/SOURCE/WIDTHxHEIGHT. Files whose name begins with bad- are to
be refused. Run with Pillow 13.0.0; needs numpy and safetensors.
"""

import io
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from safetensors.numpy import save_file

W, H = 19, 13


def picture(width, height, channels, seed):
    """Smooth colours with some noise and hard edges."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    planes = []
    for c in range(channels):
        wave = np.sin(x * (0.21 + 0.05 * c)) + np.cos(y * (0.33 - 0.04 * c))
        plane = 128 + 60 * wave + rng.normal(0, 6, (height, width))
        plane[(x + 2 * y) % 11 == c] = 255 * (c % 2)
        planes.append(plane)
    return np.clip(np.stack(planes, -1), 0, 255).astype(np.uint8)


RGB = picture(W, H, 3, 1)
SMALL = picture(7, 5, 3, 2)

# ---------------------------------------------------------------------------------------- PNG


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def pack_row(samples, depth):
    """Samples of one row as PNG stores them."""
    if depth == 16:
        return samples.astype(">u2").tobytes()
    if depth == 8:
        return samples.astype(np.uint8).tobytes()
    bits = "".join(format(int(v), f"0{depth}b") for v in samples.ravel())
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))


ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
         (0, 1, 1, 2)]


def png(samples, depth, colour, before=b"", after=b"", interlace=False, header=None):
    """A PNG of samples [height, width, channels] in any depth and colour type."""
    height, width = samples.shape[:2]
    passes = [samples]
    if interlace:
        passes = [samples[y::dy, x::dx] for x, y, dx, dy in ADAM7]
    data = b"".join(b"\0" + pack_row(row, depth) for p in passes if p.size for row in p)
    size = header or (width, height)
    ihdr = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, int(interlace))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + before
            + chunk(b"IDAT", zlib.compress(data, 9)) + after + chunk(b"IEND", b""))


def tiff_orientation(value, big=False, kind="H", extra=()):
    """A TIFF header with one directory: other tags, then the orientation."""
    order, type_ = ">" if big else "<", {"H": 3, "L": 4, "h": 8, "l": 9}[kind]
    entries = list(extra) + [(0x112, type_, 1, struct.pack(order + kind, value))]
    body = struct.pack(order + "H", len(entries))
    for tag, type_, count, data in entries:
        body += struct.pack(order + "HHI", tag, type_, count) + data.ljust(4, b"\0")
    return (b"MM\0*" if big else b"II*\0") + struct.pack(order + "I", 8) + body + bytes(4)


def xmp(value):
    return (f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="{value}"/>'
            "</x:xmpmeta>").encode()


def png_files():
    grey = RGB[..., :1]
    alpha = picture(W, H, 4, 3)
    wide = np.random.default_rng(4).integers(0, 65536, (H, W, 4))
    palette = picture(16, 16, 3, 5).reshape(256, 3)
    plte = {n: chunk(b"PLTE", palette[:n].tobytes()) for n in (2, 4, 16, 256)}
    files = {}
    for depth in (1, 2, 4, 8):
        for interlace in (False, True):
            tail = "-interlaced.png" if interlace else ".png"
            index = grey >> (8 - depth)
            files[f"grey{depth}{tail}"] = png(index, depth, 0, interlace=interlace)
            files[f"palette{depth}{tail}"] = png(index, depth, 3, plte[1 << depth],
                                                 interlace=interlace)
    files["grey8-trns.png"] = png(grey, 8, 0, chunk(b"tRNS", b"\0\x80"))
    files["grey-alpha.png"] = png(alpha[..., :2], 8, 4)
    files["grey-alpha16.png"] = png(wide[..., :2], 16, 4)
    files["rgb.png"] = png(RGB, 8, 2)
    files["rgb-interlaced.png"] = png(RGB, 8, 2, interlace=True)
    files["rgb-trns.png"] = png(RGB, 8, 2, chunk(b"tRNS", bytes(6)))
    files["rgb16.png"] = png(wide[..., :3], 16, 2)
    files["rgba.png"] = png(alpha, 8, 6)
    files["rgba-interlaced.png"] = png(alpha, 8, 6, interlace=True)
    files["rgba16.png"] = png(wide, 16, 6)
    files["palette-trns.png"] = png(grey, 8, 3, plte[256] + chunk(b"tRNS", bytes(range(0, 250, 2))))
    files["palette-one-trns.png"] = png(grey % 16, 4, 3, plte[16] + chunk(b"tRNS", b"\xff\0"))
    files["palette-short.png"] = png(grey, 8, 3, plte[16])
    files["gamma.png"] = png(RGB, 8, 2, chunk(b"gAMA", struct.pack(">I", 100000))
                             + chunk(b"cHRM", struct.pack(">8I", 31270, 32900, 70000, 20000, 10000,
                                                          80000, 10000, 5000)))
    files["profile.png"] = png(RGB, 8, 2, chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(200))))
    files["text.png"] = png(RGB, 8, 2, chunk(b"tEXt", b"Comment\0hello")
                            + chunk(b"zTXt", b"Long\0\0" + zlib.compress(b"a" * 3000)))
    files["one-pixel.png"] = png(RGB[:1, :1], 8, 2)
    for value in range(0, 10):
        files[f"exif{value}.png"] = png(SMALL, 8, 2, chunk(b"eXIf", tiff_orientation(value)))
    files["exif-big-endian.png"] = png(SMALL, 8, 2, chunk(b"eXIf", tiff_orientation(6, big=True)))
    files["exif-after.png"] = png(SMALL, 8, 2, after=chunk(b"eXIf", tiff_orientation(8)))
    files["exif-long.png"] = png(SMALL, 8, 2, chunk(b"eXIf", tiff_orientation(5, kind="L")))
    files["exif-signed.png"] = png(SMALL, 8, 2, chunk(b"eXIf", tiff_orientation(5, kind="h")))
    files["exif-signed-long.png"] = png(SMALL, 8, 2, chunk(b"eXIf", tiff_orientation(5, kind="l")))
    files["exif-to-the-end.png"] = png(SMALL, 8, 2, chunk(b"eXIf", tiff_orientation(6)[:-4]))
    far = tiff_orientation(6)[:14] + struct.pack("<II", 3, 0xFFFFFFF0) + bytes(4)
    files["exif-far.png"] = png(SMALL, 8, 2, chunk(b"eXIf", far))
    files["exif-prefix.png"] = png(SMALL, 8, 2, chunk(b"eXIf", b"Exif\0\0" + tiff_orientation(7)))
    make = (0x10F, 2, 4, b"abc\0")
    files["exif-second.png"] = png(SMALL, 8, 2, chunk(b"eXIf", tiff_orientation(6, extra=[make])))
    files["exif-cut.png"] = png(SMALL, 8, 2, chunk(b"eXIf", tiff_orientation(6)[:12]))
    profile = b"\nexif\n%8d\n%s\n" % (26, tiff_orientation(3).hex().encode())
    files["exif-hex.png"] = png(SMALL, 8, 2, chunk(b"zTXt", b"Raw profile type exif\0\0"
                                                   + zlib.compress(profile)))
    files["xmp.png"] = png(SMALL, 8, 2, chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(6)))
    files["exif-and-xmp.png"] = png(SMALL, 8, 2, chunk(b"eXIf", tiff_orientation(2)) + chunk(
        b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(6)))
    return files


def bad_png_files():
    bomb = chunk(b"zTXt", b"Bomb\0\0" + zlib.compress(bytes(9 << 20), 9))
    return {
        "bad-grey16.png": png(RGB[..., :1].astype(np.uint16) * 257, 16, 0),
        "bad-huge.png": png(SMALL, 8, 2, header=(65500, 65500)),
        # The limits themselves are met: these have too few bytes.
        "bad-most-pixels.png": png(SMALL, 8, 2, header=(16000, 8000)),
        "bad-too-many-pixels.png": png(SMALL, 8, 2, header=(16000, 8001)),
        "bad-longest.png": png(SMALL, 8, 2, header=(16384, 700)),
        "bad-too-long.png": png(SMALL, 8, 2, header=(16385, 700)),
        "bad-zero.png": png(SMALL, 8, 2, header=(0, 5)),
        "bad-short-for-size.png": png(SMALL, 8, 2, header=(8000, 8000)),
        "bad-missing-rows.png": png(SMALL, 8, 2, header=(7, 6)),
        "bad-checksum.png": png(SMALL, 8, 2)[:-16] + bytes(4) + chunk(b"IEND", b""),
        "bad-exif.png": png(SMALL, 8, 2, chunk(b"eXIf", b"garbage, no TIFF")),
        "bad-exif-short.png": png(SMALL, 8, 2, chunk(b"eXIf", b"II*\0")),
        # Not refused: the bomb is passed over. Kept out of the table, as Pillow refuses it.
        "bomb-text.png": png(SMALL, 8, 2, bomb),
    }


# --------------------------------------------------------------------------------------- JPEG


def jpeg(pixels, **options):
    out = io.BytesIO()
    mode = options.pop("mode", None)
    pixels.save(out, "JPEG", **options) if isinstance(pixels, Image.Image) else Image.fromarray(
        pixels, mode).save(out, "JPEG", **options)
    return out.getvalue()


def segment(marker, data):
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def insert(data, *segments):
    """Puts segments right after SOI."""
    return data[:2] + b"".join(segments) + data[2:]


def jpeg_files():
    big = picture(37, 27, 3, 6)
    cmyk = Image.frombytes("CMYK", (W, H), picture(W, H, 4, 7).tobytes())
    inverted = jpeg(cmyk, quality=85)
    at = inverted.index(b"\xff\xee\x00\x0eAdobe")
    files = {
        "grey.jpg": jpeg(RGB[..., 0].copy(), quality=80),
        "rgb-444.jpg": jpeg(big, quality=90, subsampling=0),
        "rgb-422.jpg": jpeg(big, quality=85, subsampling=1),
        "rgb-420.jpg": jpeg(big, quality=75, subsampling=2),
        "progressive.jpg": jpeg(big, quality=75, progressive=True),
        "restart.jpg": jpeg(big, quality=75, restart_marker_blocks=2),
        "stored-as-rgb.jpg": jpeg(big, quality=80, keep_rgb=True),
        "cmyk.jpg": inverted,
        "cmyk-no-adobe.jpg": inverted[:at] + inverted[at + 16 :],
        "ycck.jpg": inverted[: at + 15] + b"\2" + inverted[at + 16 :],
        "one-pixel.jpg": jpeg(RGB[:1, :1].copy()),
    }
    small = jpeg(SMALL, quality=90, subsampling=0)
    for value in range(1, 9):
        files[f"exif{value}.jpg"] = insert(
            small, segment(0xE1, b"Exif\0\0" + tiff_orientation(value, big=value % 2 == 0)))
    whole = tiff_orientation(6, extra=[(0x10F, 2, 4, b"abc\0")])
    files["exif-split.jpg"] = insert(small, segment(0xE1, b"Exif\0\0" + whole[:20]),
                                     segment(0xE1, b"Exif\0\0" + whole[20:]))
    files["exif-prefix.jpg"] = insert(small, segment(0xE1, b"Exif\0\0" * 2 + tiff_orientation(7)))
    files["xmp.jpg"] = insert(small, segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(8)))
    files["extra-bytes.jpg"] = small[:-2] + b"\0\0\0" + small[-2:]
    files["after-end.jpg"] = small + b"some bytes after the end"
    return files


def scan_bomb():
    """A progressive JPEG that sends its first scan, made exact, a few hundred times."""
    data = bytearray(jpeg(SMALL, quality=50, progressive=True))
    first = data.index(b"\xff\xda")
    data[first + 13] = 0  # no bits are left for later scans to refine
    end = first + 2
    while data[end] != 0xFF or data[end + 1] == 0:
        end += 1
    return bytes(data[:first] + data[first:end] * 300 + b"\xff\xd9")


def two_components():
    data = bytearray(jpeg(RGB[..., 0].copy()))
    at = data.index(b"\xff\xc0")
    length = struct.unpack(">H", data[at + 2 : at + 4])[0] + 3
    data[at + 2 : at + 4] = struct.pack(">H", length)
    data[at + 9] = 2
    return bytes(data[: at + length - 1] + b"\2\x11\0" + data[at + length - 1 :])


def resized_header(data, width, height):
    at = data.index(b"\xff\xc0")
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


def bad_jpeg_files():
    small = jpeg(SMALL, quality=90)
    return {
        "bad-huge.jpg": resized_header(small, 65500, 65500),
        "bad-missing-rows.jpg": resized_header(small, 7, 50),
        "bad-no-end.jpg": small[:-2],
        "bad-scans.jpg": scan_bomb(),
        "bad-two-components.jpg": two_components(),
    }


# --------------------------------------------------------------------------------------- WebP


def webp(pixels, **options):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "WEBP", **options)
    return out.getvalue()


def webp_files():
    alpha = picture(W, H, 4, 8)
    files = {
        "lossy.webp": webp(RGB, quality=80),
        "lossless.webp": webp(RGB, lossless=True),
        "lossy-alpha.webp": webp(alpha, quality=80),
        "lossless-alpha.webp": webp(alpha, lossless=True, exact=True),
        "odd.webp": webp(picture(1, 3, 3, 9), quality=90),
    }
    for value in (1, 3, 6, 7):
        files[f"exif{value}.webp"] = webp(SMALL, lossless=True, exif=tiff_orientation(value))
    again = b"EXIF" + struct.pack("<I", 26) + tiff_orientation(3)
    twice = files["exif6.webp"] + again
    files["exif-twice.webp"] = b"RIFF" + struct.pack("<I", len(twice) - 8) + twice[8:]
    files["xmp.webp"] = webp(SMALL, lossless=True, xmp=xmp(5))
    return files


def bad_webp_files():
    frames = [Image.fromarray(SMALL), Image.fromarray(SMALL[::-1].copy())]
    out = io.BytesIO()
    frames[0].save(out, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    lossless = bytearray(webp(SMALL, lossless=True))
    at = lossless.index(b"VP8L") + 9
    lossless[at : at + 4] = struct.pack("<I", 0x0FFFFFFF)
    exif = webp(SMALL, lossless=True, exif=tiff_orientation(6))
    return {"bad-animated.webp": out.getvalue(), "bad-huge.webp": bytes(lossless),
            "bad-cut.webp": exif[:-3]}


# ------------------------------------------------------------------------------------- resize


def formula(width, height):
    """The picture that the test makes in the same way."""
    y, x, c = np.mgrid[0:height, 0:width, 0:3]
    return ((x * 7 + y * 13 + c * 29 + x * y % 251) & 255).astype(np.uint8)


def resizes():
    edges = (np.random.default_rng(10).integers(0, 2, (29, 37, 3)) * 255).astype(np.uint8)
    sources = {"smooth": picture(37, 29, 3, 11), "edges": edges}
    sizes = [(37, 29), (18, 14), (47, 35), (37, 12), (9, 29), (1, 1), (5, 60), (70, 2), (38, 30),
             (26, 6), (26, 7)]
    tensors = {}
    for name, pixels in sources.items():
        tensors[f"source/{name}"] = pixels
        for size in sizes:
            small = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
            tensors[f"resize/{name}/{size[0]}x{size[1]}"] = np.array(small)
    for size in ((32, 32), (1, 17), (45, 3)):
        small = Image.fromarray(formula(1000, 700)).resize(size, Image.Resampling.LANCZOS)
        tensors[f"resize/formula/{size[0]}x{size[1]}"] = np.array(small)
    return tensors


def main():
    warnings.simplefilter("ignore")
    folder = Path(sys.argv[1]) / "images"
    folder.mkdir(parents=True, exist_ok=True)
    good = {**png_files(), **jpeg_files(), **webp_files()}
    bad = {**bad_png_files(), **bad_jpeg_files(), **bad_webp_files()}
    tensors = resizes()
    for name, data in {**good, **bad}.items():
        (folder / name).write_bytes(data)
        if name in good:
            image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
            tensors[name] = np.ascontiguousarray(image)
    save_file(tensors, Path(sys.argv[1]) / "images.safetensors")


main()
