"""Loops that map the pixels of one image: y = x*scale + shift, from interleaved to planar in the same pass.

The products and sums are float64 and rounded once when stored; without fast-math LLVM fuses none of them, so
the bits are those of NumPy's float64 path. For float32 output the arithmetic is vectorized and takes
0.17 ns a value where a look-up in a table of 256 takes 0.25 and one of 65,536 takes 0.7; tables serve the
dtypes that have no arithmetic here: float16 and quantized integers.

Arguments of both maps:
    pixels: (H*W*channels), interleaved.
    channels: number of channels of `pixels`.
    source: int64 (J): the channel of `pixels` that each channel of `out` is made from.
    out: (H*W*J).
    planar: one plane after the other, or interleaved.
"""

import numpy as np

from normcli.kernels.kernel import device_function, kernel


@kernel()
def affine(pixels, channels, source, scale, shift, out, planar):  # type: ignore[no-untyped-def]
    """Map an image by arithmetic, from integers or floats to float32 or float64; scale and shift are float64 (J)."""
    count = pixels.size // channels
    wide = source.size
    if planar and channels == 3 and wide == 3:
        # all three at once: the interleaved pixels pass through the cache one time
        a, b, c = pixels[source[0] :], pixels[source[1] :], pixels[source[2] :]
        x, y, z = out[:count], out[count : 2 * count], out[2 * count :]
        sa, sb, sc = scale[0], scale[1], scale[2]
        ta, tb, tc = shift[0], shift[1], shift[2]
        for i in range(count):
            x[i] = np.float64(a[3 * i]) * sa + ta
            y[i] = np.float64(b[3 * i]) * sb + tb
            z[i] = np.float64(c[3 * i]) * sc + tc
        return
    if channels == 3 and wide == 3:
        a, b, c = pixels[source[0] :], pixels[source[1] :], pixels[source[2] :]
        for i in range(count):
            out[3 * i] = np.float64(a[3 * i]) * scale[0] + shift[0]
            out[3 * i + 1] = np.float64(b[3 * i]) * scale[1] + shift[1]
            out[3 * i + 2] = np.float64(c[3 * i]) * scale[2] + shift[2]
        return
    for j in range(wide):
        s, t = scale[j], shift[j]
        plane = pixels[source[j] :]
        if planar and channels == 1:
            into = out[j * count : (j + 1) * count]
            for i in range(count):
                into[i] = np.float64(plane[i]) * s + t
        elif planar:
            into = out[j * count : (j + 1) * count]
            for i in range(count):
                into[i] = np.float64(plane[i * channels]) * s + t
        else:
            into = out[j:]
            for i in range(count):
                into[i * wide] = np.float64(plane[i * channels]) * s + t


@device_function()
def _look_up_fours(words, ta, tb, tc, x, y, z):  # type: ignore[no-untyped-def]
    """Look up pixels of three bytes: same result as the loop of `look_up` over them, 0.25 ns a value, not 0.42.

    Four pixels at a time, loaded as three words: loads bound a look-up, 5 are left of 8.
    """
    byte, one, two, three = np.uint32(255), np.uint32(8), np.uint32(16), np.uint32(24)
    for k in range(words.size // 3):
        i = 4 * k
        u, v, w = words[3 * k], words[3 * k + 1], words[3 * k + 2]  # RGBR GBRG BRGB
        x[i] = ta[u & byte]
        x[i + 1] = ta[u >> three]
        x[i + 2] = ta[v >> two & byte]
        x[i + 3] = ta[w >> one & byte]
        y[i] = tb[u >> one & byte]
        y[i + 1] = tb[v & byte]
        y[i + 2] = tb[v >> three]
        y[i + 3] = tb[w >> two & byte]
        z[i] = tc[u >> two & byte]
        z[i + 1] = tc[v >> one & byte]
        z[i + 2] = tc[w & byte]
        z[i + 3] = tc[w >> three]


@kernel()
def look_up(pixels, words, channels, source, tables, out, planar):  # type: ignore[no-untyped-def]
    """Map an image of uint8 or uint16 through tables (J, 256) or (J, 65536) of out's dtype.

    `words` are the same bytes again as uint32 where they are of three channels: `as_words(pixels)`; else empty.
    For float16 `tables` and `out` are views of uint16.
    """
    count = pixels.size // channels
    wide = source.size
    if planar and channels == 3 and wide == 3:
        a, b, c = pixels[source[0] :], pixels[source[1] :], pixels[source[2] :]
        x, y, z = out[:count], out[count : 2 * count], out[2 * count :]
        ta, tb, tc = tables[0], tables[1], tables[2]
        done = 0
        if source[0] == 0 and source[1] == 1 and source[2] == 2:
            done = words.size // 3 * 4
            _look_up_fours(words, ta, tb, tc, x, y, z)
        for i in range(done, count):
            x[i] = ta[a[3 * i]]
            y[i] = tb[b[3 * i]]
            z[i] = tc[c[3 * i]]
        return
    for j in range(wide):
        table = tables[j]
        plane = pixels[source[j] :]
        if planar:
            into = out[j * count : (j + 1) * count]
            for i in range(count):
                into[i] = table[plane[i * channels]]
        else:
            into = out[j:]
            for i in range(count):
                into[i * wide] = table[plane[i * channels]]
